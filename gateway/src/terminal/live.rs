//! `eastgate top`: what is busy, looked at again every second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hyper::Method;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Table};
use ratatui::{DefaultTerminal, Frame};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{TopArgs, text};
use crate::admin_client::escaped;

/// Rows that are asked for: more than a terminal shows.
const ROWS: usize = 200;
const PANES: [(&str, &str); 3] =
    [("clusters", "Clusters"), ("endpoints", "Endpoints"), ("names", "Server names")];
const ORDERS: [&str; 4] = ["connections", "bytes", "failures", "made"];

/// What is looked at, and how.
#[derive(Debug, Default, PartialEq, Eq)]
struct View {
    pane: usize,
    order: usize,
    filter: String,
    /// The filter is being typed.
    typing: bool,
    /// The first row that is shown.
    first: usize,
    left: bool,
}

impl View {
    fn key(&mut self, key: KeyCode) {
        match (key, self.typing) {
            (KeyCode::Enter | KeyCode::Esc, true) => self.typing = false,
            (KeyCode::Backspace, true) => _ = self.filter.pop(),
            (KeyCode::Char(letter), true) => self.filter.push(letter),
            (KeyCode::Char('q') | KeyCode::Esc, false) => self.left = true,
            (KeyCode::Tab | KeyCode::Right, false) => {
                (self.pane, self.first) = ((self.pane + 1) % PANES.len(), 0)
            }
            (KeyCode::BackTab | KeyCode::Left, false) => {
                (self.pane, self.first) = ((self.pane + PANES.len() - 1) % PANES.len(), 0);
            }
            (KeyCode::Char('s'), false) => self.order = (self.order + 1) % ORDERS.len(),
            (KeyCode::Char('/'), false) => (self.typing, self.first) = (true, 0),
            (KeyCode::Down, _) => self.first += 1,
            (KeyCode::Up, _) => self.first = self.first.saturating_sub(1),
            (KeyCode::PageDown, _) => self.first += 20,
            (KeyCode::PageUp, _) => self.first = self.first.saturating_sub(20),
            _ => {}
        }
    }

    fn path(&self) -> String {
        let (order, filter) = (ORDERS[self.order], escaped(&self.filter));
        format!("/top?format=json&limit={ROWS}&by={order}&filter={filter}")
    }
}

/// An answer, and what changed since the one before.
#[derive(Debug, Default)]
struct Seen {
    top: Value,
    /// Connections made in a second, by pane and name.
    rates: HashMap<String, f64>,
    error: Option<String>,
}

impl Seen {
    fn take(&mut self, top: Value, elapsed: Duration) {
        let before = made(&self.top);
        let seconds = elapsed.as_secs_f64().max(0.001);
        let rate = |(name, now): (String, f64)| {
            let rate = before.get(&name).map(|before| (now - before).max(0.0) / seconds);
            (name, rate.unwrap_or_default())
        };
        self.rates = made(&top).into_iter().map(rate).collect();
        (self.top, self.error) = (top, None);
    }
}

fn made(top: &Value) -> HashMap<String, f64> {
    let rows = PANES.iter().flat_map(|(pane, _)| {
        top[pane].as_array().into_iter().flatten().map(move |row| (key(pane, row), row["connected"].as_f64()))
    });
    let all = [("all".to_owned(), top["connected"].as_f64())];
    rows.chain(all).filter_map(|(name, made)| Some((name, made?))).collect()
}

fn key(pane: &str, row: &Value) -> String {
    format!("{pane} {} {}", text(&row["cluster"]), text(&row["name"]))
}

pub(super) async fn run(args: &TopArgs) -> anyhow::Result<()> {
    // What is wrong with the address is said before the screen is taken.
    args.asking.port.ask(Method::GET, "/top?limit=0&format=json").await?.good()?;
    let terminal = ratatui::init();
    let ended = show(terminal, args).await;
    ratatui::restore();
    ended
}

async fn show(mut terminal: DefaultTerminal, args: &TopArgs) -> anyhow::Result<()> {
    let interval = Duration::from_secs_f64(args.interval.clamp(0.1, 3600.0));
    let (sender, mut keys) = mpsc::unbounded_channel();
    // Reading a terminal blocks; the thread ends with the process, or when nobody listens any more.
    std::thread::spawn(move || while event::read().is_ok_and(|event| sender.send(event).is_ok()) {});
    let (mut view, mut seen, mut looked) = (View::default(), Seen::default(), Instant::now());
    let mut ticks = tokio::time::interval(interval);
    while !view.left {
        tokio::select! {
            _ = ticks.tick() => {}
            event = keys.recv() => match event {
                None => return Ok(()),
                Some(Event::Key(key)) if key.kind == KeyEventKind::Press => {
                    if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
                        return Ok(());
                    }
                    view.key(key.code);
                }
                Some(_) => {}
            },
        }
        let asked =
            async { anyhow::Ok(args.asking.port.ask(Method::GET, &view.path()).await?.good()?) }.await;
        match asked.and_then(|body| Ok(serde_json::from_slice(&body)?)) {
            Ok(top) => seen.take(top, looked.elapsed()),
            Err(error) => seen.error = Some(format!("{error:#}")),
        }
        looked = Instant::now();
        terminal.draw(|frame| draw(frame, &view, &seen))?;
    }
    Ok(())
}

fn draw(frame: &mut Frame<'_>, view: &View, seen: &Seen) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(3), Constraint::Length(1)])
            .areas(frame.area());
    let top = &seen.top;
    let rate = seen.rates.get("all").copied().unwrap_or_default();
    let totals = format!(
        "eastgate: {} open, {rate:.0} made a second, {} failed; {} clusters, table {}",
        text(&top["active"]),
        text(&top["failed"]),
        text(&top["clusters_in_all"]),
        text(&top["table"]),
    );
    let tabs = PANES.iter().enumerate().map(|(index, (_, title))| match index == view.pane {
        true => format!("[{title}]"),
        false => format!(" {title} "),
    });
    let tabs = format!("{}   by {}", tabs.collect::<Vec<_>>().join(" "), ORDERS[view.order]);
    frame.render_widget(Paragraph::new(vec![Line::from(totals).bold(), Line::from(tabs)]), head);
    rows(frame, body, view, seen);
    let foot_line = match (&seen.error, view.typing) {
        (Some(error), _) => Line::from(error.clone()).style(Style::new().fg(Color::Red)),
        (None, true) => Line::from(format!("filter: {}_", view.filter)),
        (None, false) => Line::from("q leave  Tab next list  s sort  / filter  arrows scroll").dim(),
    };
    frame.render_widget(foot_line, foot);
}

fn rows(frame: &mut Frame<'_>, area: Rect, view: &View, seen: &Seen) {
    let (pane, title) = PANES[view.pane];
    let rows: Vec<_> = seen.top[pane].as_array().into_iter().flatten().collect();
    let first = view.first.min(rows.len().saturating_sub(1));
    let row = |row: &&Value| {
        let rate = seen.rates.get(&key(pane, row)).copied().unwrap_or_default();
        let health = match (row["taking"].as_u64(), row["endpoints"].as_u64()) {
            (Some(taking), Some(all)) => format!("{taking}/{all}"),
            _ => String::new(),
        };
        let cells = [
            text(&row["name"]),
            text(&row["active"]),
            format!("{rate:.0}"),
            text(&row["connected"]),
            text(&row["failed"]),
            text(&row["bytes"]),
            health,
        ];
        let is_out = row["taking"].as_u64() == Some(0);
        Row::new(cells).style(if is_out { Style::new().fg(Color::Red) } else { Style::new() })
    };
    let numbers = [9, 7, 10, 8, 14, 9].map(Constraint::Length);
    let widths = [Constraint::Min(20)].into_iter().chain(numbers);
    let table = Table::new(rows.iter().skip(first).map(row), widths)
        .header(Row::new(["NAME", "OPEN", "/S", "MADE", "FAILED", "BYTES", "TAKING"]).bold())
        .block(Block::bordered().title(format!("{title}, {} of them", rows.len())));
    frame.render_widget(table, area);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_choose_what_is_shown_and_letters_are_a_filter_while_one_is_typed() {
        let mut view = View::default();
        for key in
            [KeyCode::Tab, KeyCode::Char('s'), KeyCode::Char('/'), KeyCode::Char('q'), KeyCode::Char('s')]
        {
            view.key(key);
        }
        assert_eq!(view.path(), "/top?format=json&limit=200&by=bytes&filter=qs");
        assert!(view.pane == 1 && !view.left);
        view.key(KeyCode::Backspace);
        view.key(KeyCode::Enter);
        view.key(KeyCode::Char('q'));
        assert!(view.filter == "q" && view.left);
    }

    #[test]
    fn rates_are_what_was_made_between_two_looks() {
        let top = |made: u64| json!({ "connected": made, "clusters": [{ "name": "a", "connected": made }] });
        let mut seen = Seen::default();
        seen.take(top(100), Duration::from_secs(1));
        assert_eq!(seen.rates["all"], 0.0);
        seen.take(top(150), Duration::from_secs(2));
        assert_eq!((seen.rates["all"], seen.rates["clusters  a"]), (25.0, 25.0));
    }
}
