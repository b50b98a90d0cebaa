//! A table of many names, and the way of a ClientHello through it: what a connection's own code does between two system
//! calls. Used by the bench `hot_path` and by the example `instructions`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use eastgate::client_hello::{ClientHello, DEFAULT_MAX_MESSAGE, Inspector};
use eastgate::table::{Asked, Table};
use eastgate::upstream::cluster::Resolutions;
use eastgate_config::cluster::{Cluster, Policy};
use eastgate_config::endpoint::{Address, Endpoint};
use eastgate_config::listener::{ChainMatch, Ends, FilterChain, Listener};
use eastgate_config::route::{Rewrite, Route};
use eastgate_config::server_name::Pattern;
use eastgate_config::snapshot::Snapshot;
use eastgate_loadtest::hello;

const LISTENER: &str = "0.0.0.0_15443";

/// The name of a service as a client of another cluster sends it, and as it is routed.
fn name(number: usize, suffix: &str) -> String {
    format!("outbound_.8000_._.service-{number}.namespace-{}.{suffix}", number % 100)
}

/// A listener with one chain for each service, a cluster with a few endpoints behind each.
pub(crate) fn table(services: usize, policy: Policy, endpoints: u16) -> Table {
    let mut snapshot = Snapshot::default();
    let mut filter_chains = Vec::with_capacity(services);
    for number in 0..services {
        let routed = name(number, "svc.cluster.local");
        let place = |port| Endpoint::new(Address::Socket(([10, 0, 0, 1], 1000 + port).into()));
        let mut cluster = Cluster::new(&routed, (0..endpoints).map(place).collect());
        cluster.policy = policy;
        filter_chains.push(FilterChain {
            name: routed.as_str().into(),
            matches: ChainMatch {
                server_names: routed.parse::<Pattern>().into_iter().collect(),
                application_protocols: vec!["istio".into(), "istio-http/1.1".into()],
                ..ChainMatch::default()
            },
            route: Route::to(&routed),
            idle_timeout: None,
            options: Default::default(),
        });
        snapshot.clusters.insert(routed.into(), Arc::new(cluster));
    }
    let listener = Listener {
        name: LISTENER.into(),
        address: ([0, 0, 0, 0], 15443).into(),
        rewrites: vec![Rewrite::global_to("cluster.local")],
        filter_chains,
        options: Default::default(),
    };
    snapshot.listeners.insert(LISTENER.into(), Arc::new(listener));
    Table::build(Arc::new(snapshot), &Resolutions::new(), &Table::default())
}

/// What OpenSSL sends to reach a service of another cluster.
pub(crate) fn flight(number: usize) -> Vec<u8> {
    hello::hello(&name(number, "global")).unwrap_or_default()
}

/// Finds the ClientHello in what a client sent.
pub(crate) fn inspect(flight: &[u8]) -> Option<ClientHello> {
    let mut inspector = Inspector::new(DEFAULT_MAX_MESSAGE);
    inspector.push(flight);
    inspector.advance().ok().flatten()
}

/// Finds the endpoint for a ClientHello: the name as sent is in no chain, the rewritten one is.
pub(crate) fn route(table: &Table, hello: &ClientHello) -> Option<SocketAddr> {
    let remote = ([192, 0, 2, 1], 40_000).into();
    let ends = Ends { destination: ([10, 0, 0, 9], 15443).into(), direct_remote: remote, remote };
    let asked = Asked { server_name: Some(hello.server_name()), ends };
    let routed = table.route(LISTENER, &asked, hello.alpn(), |_| 0).ok()?;
    let balancer = routed.cluster.balancer();
    let picked = balancer.pick(&[], None, Instant::now(), |below| fastrand::u64(..below));
    picked.map(|endpoint| endpoint.address)
}
