//! Endpoints given by DNS name: looked up off the data threads, kept fresh, and kept when a look-up fails.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use std::path::PathBuf;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cluster::Resolutions;

/// A record's time to live is taken within these bounds: neither a storm of look-ups nor an address kept for a day.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(300);
/// After a failed look-up, the last answer stays in use and this passes before the next.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The DNS servers that the system names, which are looked for until there are some.
#[derive(Debug)]
pub struct System {
    /// `resolv.conf`.
    path: PathBuf,
    found: Option<TokioResolver>,
}

impl System {
    /// Those in this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), found: None }
    }

    /// A resolver that asks them.
    ///
    /// # Errors
    /// The file names none; says what follows and what to do.
    pub fn resolver(&mut self) -> Result<TokioResolver, String> {
        if let Some(found) = &self.found {
            return Ok(found.clone());
        }
        let text = std::fs::read(&self.path).map_err(|error| self.without(&error))?;
        let (config, options) = parse_resolv_conf(text).map_err(|error| self.without(&error))?;
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let made = builder.with_options(options).build().map_err(|error| self.without(&error))?;
        Ok(self.found.insert(made).clone())
    }

    fn without(&self, error: &dyn std::error::Error) -> String {
        let path = self.path.display();
        format!("there is no DNS server to ask: {path}: {error}; write \"nameserver ADDRESS\" there")
    }
}

/// Keeps `resolved` in step with `wanted` until either end is dropped.
pub async fn run(
    mut system: System,
    mut wanted: watch::Receiver<BTreeSet<String>>,
    resolved: watch::Sender<Resolutions>,
) {
    let mut due: BTreeMap<String, Instant> = BTreeMap::new();
    let mut lookups = JoinSet::new();
    let mut failing = BTreeSet::new();
    loop {
        let now = Instant::now();
        {
            let wanted = wanted.borrow_and_update();
            due.retain(|name, _| wanted.contains(name));
            for name in wanted.iter() {
                due.entry(name.clone()).or_insert(now);
            }
            resolved.send_if_modified(|known| {
                let before = known.len();
                known.retain(|name, _| wanted.contains(name));
                known.len() != before
            });
        }
        for (name, at) in &mut due {
            if *at <= now {
                // Not due again before this look-up has ended, which its own timeout sees to.
                *at = now + LONGEST;
                lookups.spawn(look_up(system.resolver(), name.clone()));
            }
        }
        let next = due.values().min().copied().unwrap_or(now + LONGEST);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = resolved.closed() => return,
            () = tokio::time::sleep_until(next) => {}
            Some(Ok((name, answer))) = lookups.join_next() => {
                let Some(at) = due.get_mut(&name) else { continue };
                *at = settle(&resolved, &mut failing, name, answer);
            }
        }
    }
}

type Answer = Result<(Vec<IpAddr>, Instant), String>;

async fn look_up(resolver: Result<TokioResolver, String>, name: String) -> (String, Answer) {
    let resolver = match resolver {
        Ok(resolver) => resolver,
        Err(error) => return (name, Err(error)),
    };
    let answer = match resolver.lookup_ip(name.as_str()).await {
        Ok(found) => {
            let mut addresses: Vec<IpAddr> = found.iter().collect();
            // Answers rotate; a stable order keeps a rotation from looking like a change.
            addresses.sort();
            addresses.dedup();
            Ok((addresses, Instant::from_std(found.valid_until())))
        }
        Err(error) => Err(error.to_string()),
    };
    (name, answer)
}

/// Takes an answer in and says when to ask again. A name that fails is worth a line when it begins to.
fn settle(
    resolved: &watch::Sender<Resolutions>,
    failing: &mut BTreeSet<String>,
    name: String,
    answer: Answer,
) -> Instant {
    let now = Instant::now();
    let (addresses, valid_until) = match answer {
        Ok((addresses, valid_until)) if !addresses.is_empty() => (addresses, valid_until),
        failed => {
            let error = failed.err().unwrap_or_else(|| "it has no address".into());
            if failing.insert(name.clone()) {
                let kept = resolved.borrow().get(&name).map_or(0, Vec::len);
                tracing::warn!(%name, %error, kept, "look-up of an endpoint's name failed; its last addresses stay in use");
            }
            return now + AFTER_FAILURE;
        }
    };
    failing.remove(&name);
    resolved.send_if_modified(|known| known.insert(name, addresses.clone()).as_ref() != Some(&addresses));
    valid_until.clamp(now + SHORTEST, now + LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn servers_that_the_system_does_not_name_are_looked_for_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let mut system = System::new(&path);
        let told = |error: String| {
            assert!(
                error.contains("resolv.conf") && error.contains("write \"nameserver ADDRESS\""),
                "{error}"
            );
        };
        told(system.resolver().unwrap_err());
        std::fs::write(&path, "search example\n").unwrap();
        told(system.resolver().unwrap_err());
        std::fs::write(&path, "nameserver 192.0.2.53\n").unwrap();
        system.resolver().unwrap();
        // What was found stays, whatever becomes of the file.
        std::fs::remove_file(&path).unwrap();
        system.resolver().unwrap();
    }
}
