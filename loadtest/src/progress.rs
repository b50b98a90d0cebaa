//! A bar for people at a terminal; nothing at all for everybody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eastgate_loadtest::stats::Tally;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Often enough to look alive, seldom enough to cost the load nothing.
const TICK: Duration = Duration::from_millis(250);

/// Removes the bar when it is dropped.
pub(crate) struct Shown {
    bar: ProgressBar,
    task: JoinHandle<()>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

/// Shows how much of the time is over and what was done, on stderr if that is a terminal.
pub(crate) fn show(tally: &Arc<Tally>, length: Duration) -> Shown {
    let bar = ProgressBar::new(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {msg}") {
        bar.set_style(style);
    }
    let (shown, tally, from) = (bar.clone(), Arc::clone(tally), Instant::now());
    let task = tokio::spawn(async move {
        while !shown.is_hidden() {
            shown.set_position(u64::try_from(from.elapsed().as_millis()).unwrap_or(u64::MAX));
            let (operations, mib) = (tally.operations(), tally.bytes() >> 20);
            shown.set_message(format!("{operations} done, {mib} MiB"));
            sleep(TICK).await;
        }
    });
    Shown { bar, task }
}

/// A bar for so many steps, each named as it begins.
pub(crate) fn steps(count: u64) -> ProgressBar {
    let bar = ProgressBar::new(count);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}
