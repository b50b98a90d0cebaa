//! xDS resources from a file, read by the same decoder as those of a control plane, and watched for changes.
//!
//! The file is a `DiscoveryResponse`, as JSON or in protobuf's binary form. Its resources may be of several types; each
//! says its own.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use eastgate_config::node::Identity;
use eastgate_config::snapshot::Snapshot;
use eastgate_config::xds::{CLUSTER, Client, ENDPOINTS, LISTENER, Options, Response, Variant};
use eastgate_proto::Message;
use eastgate_proto::envoy::service::discovery::v3 as discovery;
use eastgate_proto::google::protobuf as pb;
use notify::RecursiveMode;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::source::files;

/// Larger files are not configuration.
const MAX_FILE: u64 = 1 << 30;

/// Why the file cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve {}", path.display())]
pub struct Error {
    path: PathBuf,
    #[source]
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error("it is no DiscoveryResponse: {0}")]
    Decode(#[from] eastgate_proto::DecodeError),
    #[error("it is no DiscoveryResponse as JSON: {0}")]
    Json(#[from] eastgate_proto::json::Unreadable),
}

/// Serves the file: sends its snapshot now and after each change, until nobody listens any more.
///
/// # Errors
/// The file cannot be read to begin with. Later, one that cannot be read is reported, and the last snapshot stays.
pub async fn run(
    path: PathBuf,
    options: Options,
    identity: &Identity,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
) -> Result<(), Error> {
    let (events, mut changed) = mpsc::channel(1);
    // An editor puts another file in its place, so that the directory has to be watched.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let watcher = files::watch_directory(directory, RecursiveMode::NonRecursive, events);
    let began = Instant::now();
    let mut client = Client::new(Variant::Sotw, &identity.node, options);
    let mut bytes = read(&path).await.map_err(|cause| Error { path: path.clone(), cause: cause.into() })?;
    let mut resources = parse(&bytes).map_err(|cause| Error { path: path.clone(), cause })?;
    loop {
        load(&mut client, resources, began.elapsed());
        resources = loop {
            if client.poll_changes().is_some() || snapshots.borrow().is_none() {
                snapshots.send_replace(Some(Arc::new(client.snapshot().clone())));
            }
            let timeout = client.poll_timeout().map(|moment| began + moment);
            tokio::select! {
                () = files::settle(&mut changed, watcher.is_some()) => {}
                () = super::at(timeout) => {
                    client.timeout(began.elapsed());
                    continue;
                }
                () = snapshots.closed() => return Ok(()),
            }
            match read(&path).await {
                Ok(now) if now == bytes => {}
                Ok(now) => match parse(&now) {
                    Ok(resources) => {
                        bytes = now;
                        break resources;
                    }
                    Err(error) => {
                        tracing::warn!("{}: {error}; its last content stays in use", path.display())
                    }
                },
                Err(error) => tracing::warn!("{}: {error}; its last content stays in use", path.display()),
            }
        };
    }
}

async fn read(path: &Path) -> io::Result<Vec<u8>> {
    if tokio::fs::metadata(path).await?.len() > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {} MiB", MAX_FILE >> 20)));
    }
    tokio::fs::read(path).await
}

/// JSON begins with a brace, which in the binary form would be a field that `DiscoveryResponse` does not have.
fn parse(bytes: &[u8]) -> Result<Vec<pb::Any>, Cause> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Ok(discovery::DiscoveryResponse::decode(bytes)?.resources);
    }
    let text = String::from_utf8_lossy(bytes);
    let bytes = eastgate_proto::json::read("envoy.service.discovery.v3.DiscoveryResponse", &text)?;
    Ok(discovery::DiscoveryResponse::decode(&*bytes)?.resources)
}

/// Has the client hold just these. Every type is loaded, so that what the file no longer has goes.
fn load(client: &mut Client, resources: Vec<pb::Any>, now: Duration) {
    let mut by_type: BTreeMap<String, Vec<pb::Any>> = BTreeMap::new();
    for resource in resources {
        let type_url = inner_type(&resource);
        by_type.entry(type_url).or_default().push(resource);
    }
    for type_url in [CLUSTER, ENDPOINTS, LISTENER] {
        let resources = by_type.remove(type_url).unwrap_or_default();
        let response = discovery::DiscoveryResponse {
            type_url: type_url.into(),
            version_info: "file".into(),
            resources,
            ..Default::default()
        };
        client.load(Response::Sotw(response), now);
    }
    for (type_url, resources) in by_type {
        tracing::warn!(type_url, count = resources.len(), "resources of a type that is not served");
    }
}

/// The type of what an envelope (`Resource`) holds, or of what comes without one.
fn inner_type(any: &pb::Any) -> String {
    if !any.type_url.ends_with("/envoy.service.discovery.v3.Resource") {
        return any.type_url.clone();
    }
    let envelope = discovery::Resource::decode(&*any.value).unwrap_or_default();
    envelope.resource.map_or_else(|| any.type_url.clone(), |resource| resource.type_url)
}
