//! The one source that the settings name.

use std::sync::Arc;

use eastgate_config::bootstrap::Settings;
use eastgate_config::snapshot::Snapshot;
use eastgate_config::xds::Node;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::options;
use crate::control_plane::{self, Handle};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::source::{files, kubernetes, vm, xds};
use crate::tls::Mesh;

/// Where snapshots come from: one of the sources.
pub(super) fn source(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    settings: &Arc<Settings>,
    metrics: &Metrics,
    (readiness, mesh): (&Readiness, &Arc<Mesh>),
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
) -> anyhow::Result<(Option<Handle>, Node)> {
    if let Some(directory) = settings.vm.config_dir.clone() {
        let ends = vm::Ends { snapshots, mesh: Arc::clone(mesh), metrics: metrics.clone() };
        let running = vm::run(directory, Arc::clone(settings), options(settings)?, ends);
        tasks.spawn(async move { Ok(running.await?) });
        return Ok((None, Node::default()));
    }
    if let Some(root) = settings.source.mesh_dir.clone() {
        let options = options(settings)?;
        tasks.spawn(async move { Ok(files::run(root, options, snapshots).await?) });
        return Ok((None, Node::default()));
    }
    if settings.source.kubernetes.config.is_some() {
        let (options, settings) = (options(settings)?, Arc::clone(settings));
        let ends = kubernetes::Ends { snapshots, metrics: metrics.kubernetes.clone() };
        tasks.spawn(async move { Ok(kubernetes::run(settings, options, ends).await?) });
        return Ok((None, Node::default()));
    }
    let identity = xds::identity(settings);
    if let Some(path) = settings.source.xds_file.clone() {
        let (options, node) = (settings.xds_options(), identity.node.clone());
        tasks.spawn(async move { Ok(xds::file::run(path, options, &identity, snapshots).await?) });
        return Ok((None, node));
    }
    anyhow::ensure!(
        !settings.xds.addresses.is_empty(),
        "nothing to serve: give --mesh-dir DIR (source.mesh_dir in the settings) with Istio and Kubernetes YAML, \
         --kubernetes (source.kubernetes.config), --xds ADDRESS (xds.addresses) of a control plane, or --xds-file FILE (source.xds_file) of xDS resources",
    );
    let (handle, commands) = control_plane::handle();
    let (metrics, readiness) = (metrics.xds.clone(), readiness.clone());
    let ends = xds::Ends { snapshots, metrics, readiness, commands };
    let node = identity.node.clone();
    let running = xds::run(Arc::clone(settings), identity, ends);
    tasks.spawn(async move {
        running.await;
        Ok(())
    });
    Ok((Some(handle), node))
}
