use eastgate_config::cidr::Cidr;
use eastgate_config::cluster;
use eastgate_config::endpoint::{self, Endpoint};
use eastgate_config::listener::{ChainMatch, ConnectionLimit, ConnectionMatch, FilterChain, Transport};
use eastgate_config::rbac::{Action, Permission, Policy, Principal, Rbac, Refusal};
use eastgate_config::route::{ByServerName, Rewrite, Route, WeightedCluster};
use proptest::prelude::*;

use super::*;

const ISTIO: &[&str] = &["istio", "istio-http/1.1"];

fn chain(name: &str, patterns: &[&str], protocols: &[&str], sent_as: &[&str]) -> FilterChain {
    let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    FilterChain {
        name: name.into(),
        matches: ChainMatch {
            server_names: parsed(patterns),
            application_protocols: protocols.iter().map(|text| text.to_string()).collect(),
            sent_as: parsed(sent_as),
            ..ChainMatch::default()
        },
        route: Route::to(name),
        idle_timeout: None,
        options: Default::default(),
    }
}

fn table(chains: Vec<FilterChain>) -> Table {
    let mut snapshot = Snapshot::default();
    for name in chains.iter().map(|chain| &*chain.name).chain(["not-routed"]) {
        snapshot.clusters.insert(name.into(), Arc::new(cluster::Cluster::new(name, vec![])));
    }
    let listener = eastgate_config::listener::Listener {
        name: "l".into(),
        address: ([127, 0, 0, 1], 15443).into(),
        rewrites: vec![Rewrite::global_to("cluster.local")],
        filter_chains: chains,
        options: Default::default(),
    };
    snapshot.listeners.insert("l".into(), Arc::new(listener));
    Table::build(Arc::new(snapshot), &Resolutions::new(), &Table::default())
}

fn asked(name: &ServerName) -> Asked<'_> {
    let remote = ([192, 0, 2, 1], 1).into();
    let ends = Ends { destination: ([127, 0, 0, 1], 15443).into(), direct_remote: remote, remote };
    Asked { server_name: Some(name), ends }
}

fn route(table: &Table, name: &str, protocols: &[&str]) -> Result<String, Error> {
    let name = name.parse().unwrap();
    let offered = protocols.iter().map(|protocol| protocol.as_bytes());
    table.route("l", &asked(&name), offered, |_| 0).map(|routed| routed.cluster.config.name.clone())
}

#[test]
fn exact_goes_before_the_longest_suffix_and_that_before_the_default() {
    let table = table(vec![
        chain("default", &["*"], &[], &[]),
        chain("short", &["*.example"], &[], &[]),
        chain("long", &["*.wild.example"], &[], &[]),
        chain("exact", &["a.wild.example"], &[], &[]),
    ]);
    for (name, cluster) in [
        ("a.wild.example", "exact"),
        ("b.wild.example", "long"),
        ("c.b.wild.example", "long"),
        ("wild.example", "short"),
        ("example", "default"),
        ("other", "default"),
    ] {
        assert_eq!(route(&table, name, &[]).unwrap(), cluster, "{name}");
    }
}

#[test]
fn only_what_a_chain_names_is_reachable() {
    let table = table(vec![chain("a.b", &["a.b"], &[], &[])]);
    assert!(route(&table, "a.b", &[]).is_ok());
    // A cluster of this very name exists, but no chain names it.
    assert_eq!(route(&table, "not-routed", &[]), Err(Error::NoChain { rewritten: None }));
    let routed = table.route("other", &asked(&"a.b".parse().unwrap()), std::iter::empty(), |_| 0);
    assert_eq!(routed.map(drop), Err(Error::NoListener));
}

#[test]
fn a_chain_that_asks_for_a_protocol_takes_nobody_else_and_there_is_no_way_back() {
    let table = table(vec![
        chain("mesh", &["a.example"], ISTIO, &[]),
        chain("wild", &["*.example"], &[], &[]),
        chain("both-mesh", &["b.example"], ISTIO, &[]),
        chain("both-plain", &["b.example"], &[], &[]),
    ]);
    assert_eq!(route(&table, "a.example", &["h2", "istio"]).unwrap(), "mesh");
    for offered in [&[][..], &["h2"], &["ISTIO"], &["istio-http/1.0"]] {
        assert_eq!(route(&table, "a.example", offered), Err(Error::NoProtocol { chain: "mesh".into() }));
    }
    assert_eq!(route(&table, "b.example", &["istio"]).unwrap(), "both-mesh");
    assert_eq!(route(&table, "b.example", &["h2"]).unwrap(), "both-plain");
}

#[test]
fn the_name_as_sent_goes_first_and_then_the_rewritten_one() {
    let table = table(vec![
        chain("own", &["outbound_.80_._.a.b.svc.cluster.local"], &[], &[]),
        chain("global", &["outbound_.80_._.c.b.global"], &[], &[]),
        chain("hidden", &["outbound_.80_._.c.b.svc.cluster.local"], &[], &[]),
    ]);
    assert_eq!(route(&table, "outbound_.80_._.a.b.global", &[]).unwrap(), "own");
    assert_eq!(route(&table, "OUTBOUND_.80_._.A.b.Global.", &[]).unwrap(), "own");
    assert_eq!(route(&table, "outbound_.80_._.c.b.global", &[]).unwrap(), "global");
    let error = route(&table, "outbound_.81_._.a.b.global", &[]).unwrap_err();
    assert!(error.to_string().ends_with("nor rewritten to outbound_.81_._.a.b.svc.cluster.local"), "{error}");
}

#[test]
fn a_service_exposed_by_its_alias_alone_is_not_reached_by_its_own_name() {
    let table =
        table(vec![chain("bar", &["outbound_.80_._.a.bar.svc.cluster.local"], &[], &["*.bar.global"])]);
    assert_eq!(route(&table, "outbound_.80_._.a.bar.global", &[]).unwrap(), "bar");
    assert!(route(&table, "outbound_.80_._.a.bar.svc.cluster.local", &[]).is_err());
}

#[test]
fn a_route_spreads_by_weight() {
    let mut spread = chain("a", &["a.b"], &[], &[]);
    let weighted = |name: &str, weight| WeightedCluster { name: name.into(), weight };
    spread.route.clusters = vec![weighted("a", 0), weighted("b", 3), weighted("c", 1)];
    let points: Vec<_> = (0..4)
        .map(|point| {
            drawn(&spread.route, |total| {
                assert_eq!(total, 4);
                point
            })
        })
        .collect();
    assert_eq!(points, ["b", "b", "b", "c"]);
}

#[test]
fn what_did_not_change_is_the_same_in_the_next_table() {
    let one = table(vec![chain("a", &["a.b"], &[], &[])]);
    let snapshot = Arc::new((*one.snapshot).clone());
    let two = Table::build(snapshot, &Resolutions::new(), &one);
    assert!(Arc::ptr_eq(&one.listeners["l"], &two.listeners["l"]));
    assert!(Arc::ptr_eq(&one.clusters["a"], &two.clusters["a"]));
    assert_eq!(two.version, one.version + 1);
}

/// A cluster of one endpoint, which the highest number gives by its DNS name.
fn numbered(name: &str, number: u16) -> Arc<cluster::Cluster> {
    let address = match number {
        3 => endpoint::Address::Dns { host: "d.example".into(), port: 1 },
        port => endpoint::Address::Socket(([10, 0, 0, 1], port).into()),
    };
    Arc::new(cluster::Cluster::new(name, vec![Endpoint::new(address)]))
}

fn addresses(table: &Table) -> std::collections::BTreeMap<&str, Vec<std::net::SocketAddr>> {
    let shown = table.clusters.iter().map(|(name, cluster)| {
        assert_eq!(**name, cluster.config.name);
        (&**name, cluster.endpoints.iter().map(|endpoint| endpoint.address).collect())
    });
    shown.collect()
}

type Edit = (u32, Option<u16>);

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    proptest::collection::vec((0_u32..200, proptest::option::weighted(0.7, 0_u16..4)), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_table_is_what_its_snapshot_says_whatever_the_one_before_was(
        steps in proptest::collection::vec((edits(), any::<bool>(), 1_u8..4), 1..12),
    ) {
        let mut clusters = imbl::OrdMap::new();
        let mut old = Table::default();
        for (edits, afresh, answer) in steps {
            for (number, content) in edits {
                let name = format!("c{number}");
                match content {
                    Some(content) => clusters.insert(name.as_str().into(), numbered(&name, content)),
                    None => clusters.remove(name.as_str()),
                };
            }
            if afresh {
                // As from a source that shares nothing from one snapshot to the next.
                clusters = clusters.into_iter().map(|(name, cluster)| (name, Arc::new((*cluster).clone()))).collect();
            }
            let resolved = [("d.example".to_owned(), vec![[10, 0, 1, answer].into()])].into();
            let snapshot = Arc::new(Snapshot { clusters: clusters.clone(), ..Default::default() });
            let (next, replaced) = Table::succeed(Arc::clone(&snapshot), &resolved, &old);
            for gone in old.clusters().filter(|one| !next.clusters().any(|other| Arc::ptr_eq(one, other))) {
                prop_assert!(replaced.iter().any(|one| Arc::ptr_eq(one, gone)), "nobody keeps {}", gone.config.name);
            }
            let whole = Table::build(snapshot, &resolved, &Table::default());
            prop_assert_eq!(addresses(&next), addresses(&whole));
            prop_assert_eq!(next.dns_names(), whole.dns_names());
            old = next;
        }
    }
}

#[test]
fn a_chain_to_a_cluster_that_is_not_there_says_so() {
    let mut lost = chain("a", &["a.b"], &[], &[]);
    lost.route = Route::to("nowhere");
    let error = route(&table(vec![lost]), "a.b", &[]).unwrap_err();
    assert_eq!(error, Error::NoCluster { chain: "a".into(), cluster: "nowhere".into() });
}

#[test]
fn rules_about_the_client_are_enforced_after_the_chain_is_found() {
    let mut guarded = chain("a", &["a.b"], &[], &[]);
    let inside = Cidr::new("192.0.2.0".parse().unwrap(), 24).unwrap();
    let policy = |principal| Policy {
        name: "p".into(),
        permissions: vec![Permission::Any],
        principals: vec![principal],
    };
    let allow = Rbac { action: Action::Allow, policies: vec![policy(Principal::RemoteIp(inside))] };
    guarded.options.rbac = vec![Arc::new(allow.clone())];
    assert!(route(&table(vec![guarded.clone()]), "a.b", &[]).is_ok());
    guarded.options.rbac.push(Arc::new(Rbac { action: Action::Deny, ..allow }));
    let table = table(vec![guarded, chain("wide", &["*"], &[], &[])]);
    assert_eq!(
        route(&table, "a.b", &[]),
        Err(Error::Denied { chain: "a".into(), why: Refusal::Denied("p".into()).into() }),
        "no wider chain may take it"
    );
}

#[test]
fn a_name_chooses_its_own_cluster_only_where_the_chain_says_so_and_covers_it() {
    let sni = "outbound_.80_._.a.b.svc.cluster.local";
    let mut by_name = chain("by-name", &["*.global"], &[], &[]);
    by_name.route.by_server_name = Some(ByServerName { rewrites: vec![Rewrite::global_to("cluster.local")] });
    let table = table(vec![by_name, chain(sni, &["nobody"], &[], &[])]);
    assert_eq!(route(&table, "outbound_.80_._.a.b.global", &[]).unwrap(), sni);
    assert_eq!(
        route(&table, "outbound_.81_._.a.b.global", &[]).unwrap(),
        "by-name",
        "the chain's own cluster"
    );
    assert_eq!(route(&table, "not-routed.global", &[]).unwrap(), "by-name");
    assert!(route(&table, sni, &[]).is_err(), "no pattern of the chain covers it");
}

#[test]
fn chains_of_one_name_are_told_apart_by_where_the_connection_comes_from() {
    let mut near = chain("near", &["a.b"], &[], &[]);
    near.matches.connection.source_ranges = vec![Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap()];
    let mut other_port = chain("port", &["a.b"], &[], &[]);
    other_port.matches.connection.destination_port = Some(1);
    let table = table(vec![near, other_port, chain("rest", &["a.b"], &[], &[])]);
    assert_eq!(route(&table, "a.b", &[]).unwrap(), "rest");
}

#[test]
fn a_connection_without_a_hello_is_taken_by_a_chain_that_wants_none() {
    let mut plain = chain("plain", &["*"], &[], &[]);
    plain.matches.connection = ConnectionMatch { transport: Transport::Any, ..Default::default() };
    let table = table(vec![chain("tls", &["*"], &[], &[]), plain]);
    let asked = Asked { server_name: None, ends: asked(&"a.b".parse().unwrap()).ends };
    let routed = table.route("l", &asked, std::iter::empty(), |_| 0).unwrap();
    assert_eq!(&*routed.chain, "plain");
}

#[test]
fn what_is_counted_towards_a_limit_outlives_the_table() {
    let mut limited = chain("a", &["a.b"], &[], &[]);
    limited.options.connection_limit = Some(ConnectionLimit { max_connections: 1, delay: Duration::ZERO });
    let one = table(vec![limited.clone()]);
    let pass = limit_of(&one).enter();
    limited.options.max_connect_attempts = Some(2);
    let mut snapshot = (*one.snapshot).clone();
    let mut listener = (*snapshot.listeners["l"]).clone();
    listener.filter_chains = vec![limited];
    snapshot.listeners.insert("l".into(), Arc::new(listener));
    let two = Table::build(Arc::new(snapshot), &Resolutions::new(), &one);
    assert!(pass.is_some() && limit_of(&two).enter().is_none());
    drop(pass);
    assert!(limit_of(&two).enter().is_some());
}

fn limit_of(table: &Table) -> crate::gate::Gate {
    let name = "a.b".parse().unwrap();
    let routed = table.route("l", &asked(&name), std::iter::empty(), |_| 0).unwrap();
    routed.limits.unwrap().connections.as_ref().unwrap().0.clone()
}
