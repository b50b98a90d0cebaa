//! The same as text, for people.

use std::fmt::Write;
use std::time::Duration;

use eastgate_config::xds::Alarm;
use eastgate_config::xds::journal::{Names, Push};

use super::changes::Changes;
use super::{last_rejection, time};
use crate::control_plane::View;

/// Names of one kind that are listed before it says how many more there are.
const LISTED: usize = 20;

pub(super) fn status(view: &View) -> String {
    let mut text = String::new();
    let ago = |moment: Duration| format!("{} ago", short(view.now.saturating_sub(moment)));
    let since_epoch = |at: Duration| format!("{} ago", short((view.began + view.now).saturating_sub(at)));
    let stream = match (&view.link.address, view.link.since) {
        (Some(address), Some(since)) => {
            format!("{address} ({}), stream opened {}", view.variant, since_epoch(since))
        }
        _ => format!("none ({})", view.variant),
    };
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key:<15} {value}");
    };
    line("control plane", &stream);
    line("node", &view.node);
    if let Some(at) = view.link.last_response {
        line("last response", &since_epoch(at));
    }
    if let Some(end) = &view.link.last_end {
        line("streams ended", &format!("{}, the last: {end}", view.link.ended));
    }
    if !view.settled {
        line("settled", "no: not everything that was asked for has been heard of yet");
    }
    if view.saved_state {
        line("saved state", "is served; no control plane has confirmed it");
    }
    if view.keeping_back {
        line("guard", "keeps changes back; `eastgate xds release` lets them go");
    }
    let mut rows =
        vec![row(["TYPE", "VERSION", "NONCE", "RESOURCES", "REFUSED", "UPDATED", "TOOK", "LAST REJECTION"])];
    for status in &view.types {
        rows.push(vec![
            kind(&status.type_url).into(),
            status.version.clone(),
            status.nonce.clone(),
            status.resources.to_string(),
            status.rejected.to_string(),
            status.last_update.map_or("never".into(), ago),
            last_push(view, &status.type_url).map(took).unwrap_or_default(),
            status.last_rejection.map_or("never".into(), ago),
        ]);
    }
    text += "\n";
    text += &table(&rows);
    for status in &view.types {
        for reason in last_rejection(view, &status.type_url) {
            let _ = writeln!(text, "\nrefused: {reason}");
        }
    }
    for (what, names) in [
        ("clusters that wait for endpoints", &view.warming),
        ("clusters that chains name and that are not there", &view.missing),
    ] {
        if !names.is_empty() {
            let _ = write!(text, "\n{what}: {}\n{}", names.len(), list("  ", names.iter(), names.len()));
        }
    }
    text
}

pub(super) fn log(view: &View) -> String {
    let heads = [
        "PUSH", "TIME", "TOOK", "TYPE", "VERSION", "ADDED", "CHANGED", "REMOVED", "SAME", "IGNORED",
        "REFUSED", "",
    ];
    let mut rows = vec![row(heads)];
    for push in &view.journal {
        rows.push(vec![
            push.number.to_string(),
            time(view.began + push.at),
            took(push),
            kind(&push.type_url).into(),
            push.version.clone(),
            push.added.count.to_string(),
            push.changed.count.to_string(),
            push.removed.count.to_string(),
            (push.unchanged + push.heartbeats).to_string(),
            push.ignored.to_string(),
            push.rejections.len().to_string(),
            remarks(push),
        ]);
    }
    table(&rows)
}

fn last_push<'a>(view: &'a View, type_url: &str) -> Option<&'a Push> {
    view.journal.iter().rev().find(|push| push.type_url == type_url)
}

/// How long a push took, to the microsecond: most take less than a millisecond.
fn took(push: &Push) -> String {
    push.took.map(|took| format!("{:.3} ms", took.as_secs_f64() * 1000.0)).unwrap_or_default()
}

fn remarks(push: &Push) -> String {
    let mut remarks: Vec<String> = push.unasked.then(|| "not asked for".to_owned()).into_iter().collect();
    for alarm in &push.alarms {
        let (what, kept) = match alarm {
            Alarm::ClustersRemoved { removed, of, kept_until } => {
                (format!("takes away {} of {of} clusters", removed.count), kept_until)
            }
            Alarm::EndpointsEmptied { services, kept_until } => {
                (format!("empties {} clusters", services.count), kept_until)
            }
        };
        remarks.push(if kept.is_some() { format!("{what}, kept back") } else { what });
    }
    let names = |sign: &str, names: &Names| {
        names.first.first().filter(|_| names.count == 1).map(|name| format!("{sign}{name}"))
    };
    remarks.extend(names("+", &push.added));
    remarks.extend(names("~", &push.changed));
    remarks.extend(names("-", &push.removed));
    if let Some(first) = push.rejections.first() {
        remarks.push(format!("refused {first}"));
    }
    remarks.join("; ")
}

pub(super) fn changes(changes: &Changes) -> String {
    if changes.is_empty() {
        return "nothing changed\n".into();
    }
    let mut text = String::new();
    for (type_url, change) in changes {
        let _ = writeln!(text, "{}", kind(type_url));
        for (sign, names) in [("+", &change.added), ("~", &change.changed), ("-", &change.removed)] {
            for name in names {
                let _ = writeln!(text, "  {sign} {name}");
            }
        }
        if change.unnamed > 0 {
            let _ = writeln!(text, "  and {} changes whose names the journal did not keep", change.unnamed);
        }
    }
    text
}

/// What a person calls a type: the last part of its URL.
fn kind(type_url: &str) -> &str {
    type_url.rsplit(['.', '/']).next().unwrap_or(type_url)
}

fn list<'a>(indent: &str, names: impl Iterator<Item = &'a String>, count: usize) -> String {
    let mut text = String::new();
    names.take(LISTED).for_each(|name| {
        let _ = writeln!(text, "{indent}{name}");
    });
    if count > LISTED {
        let _ = writeln!(text, "{indent}and {} more", count - LISTED);
    }
    text
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// Columns as wide as their widest cell; an empty cell is a dash.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = if cell.is_empty() && index + 1 < columns { "-" } else { cell };
            let _ = write!(line, "{cell:<width$}  ");
        }
        text += line.trim_end();
        text += "\n";
    }
    text
}

/// A length of time in its largest unit.
fn short(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
