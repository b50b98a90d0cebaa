//! The files and Secrets that DestinationRules name for TLS: read, made use of, and looked at again when they change.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use eastgate_config::cluster::UpstreamTls;
use eastgate_config::secrets::{Pem, Secrets};
use notify::{RecommendedWatcher, RecursiveMode};
use tokio::sync::{mpsc, watch};

use super::files;
use super::xds::with_causes;
use crate::metrics;
use crate::tls::client::{self, Client, Known, Wanted};

/// One kind of TLS, as it was last looked at.
#[derive(Debug)]
struct Looked {
    found: Result<Pem, String>,
    /// What is in use.
    made: Result<Arc<Client>, Arc<str>>,
}

/// Keeps `known` in step with `wanted` and with the files, until either end is dropped.
pub async fn run(
    mut wanted: watch::Receiver<Wanted>,
    known: watch::Sender<Arc<Known>>,
    metrics: metrics::Tls,
) {
    let (events, mut changed) = mpsc::channel(1);
    let mut watchers: BTreeMap<PathBuf, Option<RecommendedWatcher>> = BTreeMap::new();
    let mut looked: HashMap<Arc<UpstreamTls>, Looked> = HashMap::new();
    loop {
        let Wanted { kinds: now, secrets } = wanted.borrow_and_update().clone();
        let directories: BTreeSet<PathBuf> = now.iter().flat_map(|tls| directories(tls)).collect();
        watchers.retain(|directory, _| directories.contains(directory));
        for directory in directories {
            if let Entry::Vacant(vacant) = watchers.entry(directory) {
                let watcher =
                    files::watch_directory(vacant.key(), RecursiveMode::NonRecursive, events.clone());
                vacant.insert(watcher);
            }
        }
        let before = looked.len();
        looked.retain(|tls, _| now.contains(tls));
        let mut is_other = looked.len() != before;
        for tls in now {
            is_other |= look(&tls, &secrets, &mut looked, &metrics);
        }
        if is_other {
            let all = looked.iter().map(|(tls, looked)| (Arc::clone(tls), looked.made.clone()));
            known.send_replace(Arc::new(all.collect()));
        }
        let watched = !watchers.is_empty() && watchers.values().all(Option::is_some);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = known.closed() => return,
            () = files::settle(&mut changed, watched), if !watchers.is_empty() => {}
        }
    }
}

/// Where the files are. The directory is watched: a file that is replaced is another one.
fn directories(tls: &UpstreamTls) -> impl Iterator<Item = PathBuf> {
    let files = [&tls.certificate, &tls.key, &tls.roots, &tls.revocations];
    files.into_iter().flatten().filter_map(|path| Path::new(path).parent()).map(Path::to_owned)
}

/// Looks at the files or the Secret of one kind, and says whether it is another one now. What is no good does not take the place of
/// what was.
fn look(
    tls: &Arc<UpstreamTls>,
    secrets: &Secrets,
    looked: &mut HashMap<Arc<UpstreamTls>, Looked>,
    metrics: &metrics::Tls,
) -> bool {
    let found = match secrets.of(tls) {
        Some(found) => found.map_err(|missing| missing.to_string()),
        None => client::read(tls),
    };
    if looked.get(tls).is_some_and(|before| before.found == found) {
        return false;
    }
    let made = match &found {
        Ok(pem) => Client::new(tls, pem, SystemTime::now()).map_err(|error| with_causes(&error)),
        Err(error) => Err(error.clone()),
    };
    let name = tls.sni.as_deref().unwrap_or_default();
    let before = looked.remove(tls).and_then(|before| before.made.ok());
    let made = match (made, before) {
        (Ok(client), before) => {
            if before.is_some() {
                tracing::info!(server_name = name, "what a DestinationRule names for TLS was read again");
            }
            metrics.loads.with_label_values(&["ok"]).inc();
            Ok(Arc::new(client))
        }
        (Err(error), Some(before)) => {
            metrics.loads.with_label_values(&["failed"]).inc();
            tracing::warn!(server_name = name, "{error}; what was there before stays in use");
            Ok(before)
        }
        (Err(error), None) => {
            metrics.loads.with_label_values(&["failed"]).inc();
            tracing::warn!(server_name = name, "{error}; until then its connections are closed");
            Err(error.into())
        }
    };
    looked.insert(Arc::clone(tls), Looked { found, made });
    true
}
