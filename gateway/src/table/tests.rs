use eastgate_config::cluster;
use eastgate_config::listener::{ChainMatch, FilterChain};
use eastgate_config::route::{Rewrite, Route, WeightedCluster};

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
    for name in chains.iter().map(|chain| &chain.name).chain([&"not-routed".to_string()]) {
        snapshot.clusters.insert(name.clone(), Arc::new(cluster::Cluster::new(name, vec![])));
    }
    let listener = config::Listener {
        name: "l".into(),
        address: ([127, 0, 0, 1], 15443).into(),
        rewrites: vec![Rewrite::global_to("cluster.local")],
        filter_chains: chains,
        options: Default::default(),
    };
    snapshot.listeners.insert("l".into(), Arc::new(listener));
    Table::build(Arc::new(snapshot), &Resolutions::new(), &Table::default())
}

fn route(table: &Table, name: &str, protocols: &[&str]) -> Result<String, Error> {
    let name = name.parse().unwrap();
    let offered = protocols.iter().map(|protocol| protocol.as_bytes());
    table.route("l", &name, offered, |_| 0).map(|routed| routed.cluster.config.name.clone())
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
    let routed = table.route("other", &"a.b".parse().unwrap(), std::iter::empty(), |_| 0);
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

#[test]
fn a_chain_to_a_cluster_that_is_not_there_says_so() {
    let mut lost = chain("a", &["a.b"], &[], &[]);
    lost.route = Route::to("nowhere");
    let error = route(&table(vec![lost]), "a.b", &[]).unwrap_err();
    assert_eq!(error, Error::NoCluster { chain: "a".into(), cluster: "nowhere".into() });
}
