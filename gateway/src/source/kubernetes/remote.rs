//! The kubeconfigs of the mesh's other clusters: files of a directory, and Secrets as `istioctl create-remote-secret`
//! makes them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use eastgate_config::bootstrap::Settings;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use notify::RecursiveMode;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;

use super::why;
use crate::source::files;
use crate::source::xds::backoff::Backoff;

/// What istiod looks for.
const REMOTE_SECRET: &str = "istio/multiCluster=true";
/// A larger file is no kubeconfig.
const MAX_KUBECONFIG: u64 = 1 << 20;

type Kubeconfigs = BTreeMap<String, String>;

/// Sends all kubeconfigs by the names of their clusters, now and after each change.
pub(super) async fn run(settings: Arc<Settings>, home: Client, all: watch::Sender<Option<Kubeconfigs>>) {
    let source = &settings.source.kubernetes;
    let (events, mut changed) = mpsc::channel(1);
    let directory = source.remote_dir.as_deref();
    let watcher = directory.and_then(|dir| files::watch_directory(dir, RecursiveMode::NonRecursive, events));
    let (sender, mut secrets) = watch::channel((!source.remote_secrets).then(Kubeconfigs::new));
    let watching = secrets_of(home, &settings.node.namespace, sender);
    let mut watching = std::pin::pin!(watching);
    let mut found = directory.and_then(read).unwrap_or_default();
    loop {
        if let Some(mut now) = secrets.borrow_and_update().clone() {
            now.extend(found.clone());
            all.send_if_modified(|known| {
                let is_new = known.as_ref() != Some(&now);
                *known = Some(now);
                is_new
            });
        }
        tokio::select! {
            () = &mut watching, if source.remote_secrets => return,
            Ok(()) = secrets.changed(), if source.remote_secrets => {}
            () = files::settle(&mut changed, watcher.is_some()), if directory.is_some() => {
                // A directory that cannot be read takes no cluster away.
                found = directory.and_then(read).unwrap_or(found);
            }
            () = all.closed() => return,
        }
    }
}

/// The files of the directory, by their names without `.yaml` and the like.
fn read(directory: &Path) -> Option<Kubeconfigs> {
    let listed = std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let refuse = |error: &_| {
        tracing::warn!("source.kubernetes.remote_dir: cannot read {}: {error}", directory.display());
    };
    let entries = listed.inspect_err(refuse).ok()?;
    let mut found = Kubeconfigs::new();
    for entry in entries {
        let path = entry.path();
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_wanted = !name.starts_with('.')
            && std::fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= MAX_KUBECONFIG);
        match std::fs::read_to_string(&path) {
            Ok(text) if is_wanted => {
                found.insert(name, text);
            }
            Err(error) if is_wanted => tracing::warn!("cannot read {}: {error}", path.display()),
            _ => {}
        }
    }
    Some(found)
}

/// Follows the Secrets; never ends while somebody listens.
async fn secrets_of(home: Client, namespace: &str, all: watch::Sender<Option<Kubeconfigs>>) {
    let secret = ApiResource {
        group: String::new(),
        version: "v1".into(),
        api_version: "v1".into(),
        kind: "Secret".into(),
        plural: "secrets".into(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(home, namespace, &secret);
    let mut events = std::pin::pin!(watcher::watcher(api, watcher::Config::default().labels(REMOTE_SECRET)));
    let (mut known, mut listed) = (BTreeMap::new(), BTreeMap::new());
    let mut backoff = Backoff::default();
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!("the Secrets labelled {REMOTE_SECRET} cannot be watched: {}", why(&error));
                tokio::time::sleep(backoff.wait(fastrand::f64())).await;
                continue;
            }
        };
        backoff.reset();
        match event {
            Event::Init => {
                listed.clear();
                continue;
            }
            Event::InitApply(secret) => {
                listed.insert(secret.metadata.name.clone(), of_secret(&secret));
                continue;
            }
            Event::InitDone => known = std::mem::take(&mut listed),
            Event::Apply(secret) => {
                known.insert(secret.metadata.name.clone(), of_secret(&secret));
            }
            Event::Delete(secret) => {
                known.remove(&secret.metadata.name);
            }
        }
        all.send_replace(Some(
            known.values().flatten().map(|(name, text)| (name.clone(), text.clone())).collect(),
        ));
    }
}

/// Each key is the name of a cluster.
fn of_secret(secret: &DynamicObject) -> Kubeconfigs {
    let data = secret.data.get("data").and_then(Value::as_object).into_iter().flatten();
    data.filter_map(|(name, text)| {
        let bytes = STANDARD.decode(text.as_str()?).ok()?;
        Some((name.clone(), String::from_utf8(bytes).ok()?))
    })
    .collect()
}
