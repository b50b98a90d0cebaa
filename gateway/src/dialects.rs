//! What the gateway counts, under the names that Istio and Envoy have for it, so that dashboards and alerts that were made
//! for them go on working. Everything is read out of the table and the counters when it is scraped: nothing is counted
//! twice, and a cluster that was never asked for has no series but its endpoints'.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use eastgate_config::bootstrap::Settings;
use eastgate_config::xds::Node;
use prometheus::core::Desc;
use prometheus::proto::MetricType;

use crate::metrics::Metrics;
use crate::table::Table;

mod envoy;
mod istio;

use envoy::{Envoy, Lengths, Options};
use istio::{Istio, Reporter};

/// Adds what the settings want, of the tables that are swapped in here and of a gateway with this xDS node and so many
/// data threads.
///
/// # Errors
/// Two metrics have one name, which is a bug that any test finds.
pub fn register(
    metrics: &Metrics,
    table: &Arc<ArcSwap<Table>>,
    (settings, node): (&Settings, &Node),
    threads: usize,
) -> Result<(), prometheus::Error> {
    if settings.metrics.istio {
        let reporter = Reporter::new(node, &settings.node);
        metrics.register_foreign(Istio::new(Arc::clone(table), reporter)?)?;
    }
    if settings.metrics.envoy {
        let options = Options { threads, control_plane: !settings.xds.addresses.is_empty() };
        metrics.register_foreign(Envoy::new(Arc::clone(table), metrics.clone(), options)?)?;
        Lengths::all(table)?.into_iter().try_for_each(|lengths| metrics.register_foreign(lengths))?;
    }
    Ok(())
}

/// A family's name, what it counts, and its kind.
type Named = (&'static str, &'static str, MetricType);

fn describe((name, help, _): &Named, labels: &[&str]) -> Result<Desc, prometheus::Error> {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Desc::new((*name).into(), (*help).into(), labels, HashMap::new())
}
