//! The process's own log, on standard error.

use std::io::IsTerminal;
use std::sync::OnceLock;

use anyhow::Context;
use eastgate_config::bootstrap::{Format, Log};
use tracing_subscriber::filter::LevelFilter;
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
    let own = |part: &&str| OTHERS.split(',').all(|other| other != *part);
    Some(text.split(',').filter(own).collect::<Vec<_>>().join(","))
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

/// Logs these modules at these levels from now on, and all else as before: `source::xds:debug,relay:info`, as Envoy's
/// `/logging?paths=` has it.
///
/// # Errors
/// There is no such module or level, or the log is not the gateway's own.
pub fn set_modules(paths: &str) -> anyhow::Result<()> {
    let current = level().context("the log is not the gateway's own")?;
    set(&with(&current, paths)?)
}

fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let parts: Vec<_> = level.split(',').map(|part| word(part).unwrap_or(part)).collect();
    // The library takes a word that is no level for a module, of which all is logged, and of the others nothing.
    let is_bare =
        |part: &&&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let unknown = parts.iter().filter(is_bare).find(|part| part.parse::<LevelFilter>().is_err());
    let none = parts.iter().all(|part| part.is_empty()).then_some(&level);
    let text = parts.join(",");
    match unknown.or(none) {
        Some(word) => Err(no_level(word)),
        None => EnvFilter::try_new(format!("{OTHERS},{text}")).with_context(|| no_level(&text)),
    }
}

/// The filter, in which these modules have these levels.
fn with(filter: &str, paths: &str) -> anyhow::Result<String> {
    let mut parts: Vec<_> = filter.split(',').map(str::to_owned).collect();
    for path in paths.split(',') {
        let (module, level) = path
            .rsplit_once(':')
            .with_context(|| format!("{path:?}: write MODULE:LEVEL, such as source::xds:debug"))?;
        let level = word(level).with_context(|| no_level(level))?;
        let module = module.strip_prefix("eastgate::").unwrap_or(module);
        let first = module.split("::").next().unwrap_or_default();
        if !modules().any(|known| known == first) {
            let known = modules().collect::<Vec<_>>().join(", ");
            anyhow::bail!("there is no module {first:?}; there are {known}");
        }
        let target = format!("eastgate::{module}");
        parts.retain(|part| part.split('=').next() != Some(&target));
        parts.push(format!("{target}={level}"));
    }
    Ok(parts.join(","))
}

/// The gateway's modules, which are what its log's lines are of.
fn modules() -> impl Iterator<Item = &'static str> {
    let lines = include_str!("lib.rs").lines();
    lines.filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
}

/// A level in the library's word, given in that or in Envoy's.
fn word(level: &str) -> Option<&'static str> {
    let same = ["trace", "debug", "info", "warn", "error", "off"].into_iter().find(|word| *word == level);
    same.or(match level {
        "warning" => Some("warn"),
        "critical" => Some("error"),
        _ => None,
    })
}

fn no_level(level: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "{level:?} is no level; give error, warn, info, debug, or a filter such as info,eastgate::relay=debug"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_gets_its_level_and_all_else_keeps_its_own() {
        let with = |filter: &str, paths: &str| with(filter, paths).map_err(|error| error.to_string());
        assert_eq!(
            with("info,eastgate::relay=warn", "source::xds:debug,eastgate::relay:critical"),
            Ok("info,eastgate::source::xds=debug,eastgate::relay=error".into())
        );
        assert_eq!(with("info,eastgate::dns=warn", "dns:off"), Ok("info,eastgate::dns=off".into()));
        assert!(with("info", "upstram:debug").unwrap_err().contains("upstream"));
        assert!(with("info", "dns:loud").unwrap_err().contains("\"loud\" is no level"));
        assert!(with("info", "dns").unwrap_err().contains("MODULE:LEVEL"));
    }

    #[test]
    fn a_level_is_one_of_ours_or_of_envoys_and_a_misspelt_one_is_refused() {
        for level in ["info", "warning", "off", "info,eastgate=debug", "eastgate::relay=trace"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["inof", "debug,loud", "", ",", "eastgate=loud"] {
            assert!(filter(level).is_err(), "{level}");
        }
    }
}
