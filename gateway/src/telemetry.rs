//! The process's own log, on standard error.

use std::io::IsTerminal;

use anyhow::Context;
use eastgate_config::bootstrap::{Format, Log};
use tracing_subscriber::EnvFilter;

/// The Kubernetes client logs every attempt that fails as an error; the source says the same once. `log.level` may name
/// them and have them speak.
const OTHERS: &str = "kube_client=off,kube_runtime=off";

/// Starts the log.
///
/// # Errors
/// The level is none.
pub fn start(settings: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{OTHERS},{}", settings.level)).with_context(|| {
        format!("log.level: {:?} is no level; give error, warn, info or debug", settings.level)
    })?;
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match settings.format {
        Format::Json => log.json().init(),
        Format::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}
