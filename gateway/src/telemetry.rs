//! The process's own log, on standard error.

use std::io::IsTerminal;
use std::sync::OnceLock;

use anyhow::Context;
use eastgate_config::bootstrap::{Format, Log};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The Kubernetes client logs every attempt that fails as an error; the source says the same once. `log.level` may name
/// them and have them speak.
const OTHERS: &str = "kube_client=off,kube_runtime=off";

/// What is logged, of the one log that a process has.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log.
///
/// # Errors
/// The level is none.
pub fn start(settings: &Log) -> anyhow::Result<()> {
    let filter = filter(&settings.level).context("log.level")?;
    let (filter, level) = reload::Layer::new(filter);
    let log = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match settings.format {
        Format::Json => registry.with(log.json()).init(),
        Format::Text => registry.with(log.with_ansi(std::io::stderr().is_terminal())).init(),
    }
    // There is one log, and one start of it.
    let _ = LEVEL.set(level);
    Ok(())
}

/// What is logged at present; `None` where the log is not the gateway's own.
pub fn level() -> Option<String> {
    let text = LEVEL.get()?.with_current(ToString::to_string).ok()?;
    // The library gives a filter's parts in an order of its own.
    let parts: Vec<_> = text.split(',').filter(|part| !OTHERS.contains(part)).collect();
    Some(parts.join(","))
}

/// Logs at this level from now on.
///
/// # Errors
/// The level is none, or the log is not the gateway's own.
pub fn set(level: &str) -> anyhow::Result<()> {
    let filter = filter(level)?;
    let handle = LEVEL.get().context("the log is not the gateway's own")?;
    handle.reload(filter).context("the log has ended")
}

fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(format!("{OTHERS},{level}"))
        .with_context(|| format!("{level:?} is no level; give error, warn, info or debug"))
}
