//! What the mesh may connect to on the VM: listeners that terminate its mutual TLS.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::endpoint::{Address, Endpoint};
use crate::listener::{ChainMatch, ChainOptions, FilterChain, Listener, ListenerOptions, Peers, Role};
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::spiffe::IdPattern;

/// The name of the listener that connections are redirected to.
const REDIRECTED: &str = "inbound";

/// How clients of the mesh are met.
#[derive(Debug, Clone, PartialEq)]
pub struct Inbound {
    /// The VM's own address, at which each port is bound.
    pub address: IpAddr,
    /// Where the firewall redirects them to instead.
    pub redirect: Option<SocketAddr>,
    /// For each port, who gets plain TCP.
    pub ports: BTreeMap<u16, SocketAddr>,
    /// Who may connect. Empty: every identity of the mesh.
    pub allowed: Vec<IdPattern>,
}

/// Adds the listeners and their clusters to a snapshot.
pub fn inbound(inbound: &Inbound, snapshot: &mut Snapshot) {
    let chains = inbound.ports.iter().map(|(port, local)| {
        let cluster = format!("inbound|{port}||");
        let endpoint = Endpoint::new(Address::Socket(*local));
        let cluster = (cluster.clone(), Arc::new(Cluster::new(cluster, vec![endpoint])));
        (*port, cluster, chain(*port, inbound))
    });
    let mut listeners = Vec::new();
    let mut redirected = Vec::new();
    for (port, cluster, chain) in chains {
        snapshot.clusters.extend([cluster]);
        match inbound.redirect {
            Some(_) => redirected.push(chain),
            None => {
                let name = format!("inbound_{}_{port}", inbound.address);
                let address = SocketAddr::new(inbound.address, port);
                listeners.push(listener(name, address, vec![chain], false));
            }
        }
    }
    if let Some(address) = inbound.redirect.filter(|_| !redirected.is_empty()) {
        listeners.push(listener(REDIRECTED.to_owned(), address, redirected, true));
    }
    snapshot
        .listeners
        .extend(listeners.into_iter().map(|listener| (listener.name.clone(), Arc::new(listener))));
}

fn listener(
    name: String,
    address: SocketAddr,
    filter_chains: Vec<FilterChain>,
    original_destination: bool,
) -> Listener {
    // Its ClientHello is not inspected: the TLS session is the gateway's own.
    let options = ListenerOptions {
        plain: true,
        role: Role::Terminate,
        original_destination,
        ..ListenerOptions::default()
    };
    Listener { name, address, rewrites: Vec::new(), filter_chains, options }
}

fn chain(port: u16, inbound: &Inbound) -> FilterChain {
    let name = format!("inbound|{port}||");
    FilterChain {
        matches: ChainMatch::of_port(port),
        route: Route::to(name.clone()),
        idle_timeout: None,
        options: ChainOptions {
            peers: Some(Arc::new(Peers { server_name: None, allowed: inbound.allowed.clone() })),
            ..ChainOptions::default()
        },
        name: name.into(),
    }
}
