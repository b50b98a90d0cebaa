use std::sync::Arc;
use std::time::Duration;

use eastgate_config::cidr::Cidr;
use eastgate_config::cluster::Cluster;
use eastgate_config::endpoint::{Address, Endpoint, Health};
use eastgate_config::listener::{self, ChainMatch, ConnectionLimit, FilterChain, RateLimit};
use eastgate_config::locality::Locality;
use eastgate_config::rbac::{Action, Permission, Policy, Principal, Rbac};
use eastgate_config::route::{ByServerName, Rewrite, Route, WeightedCluster};
use eastgate_config::snapshot::Snapshot;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;

const HTTPBIN: &str = "outbound_.8000_._.httpbin.bar.svc.cluster.local";

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

fn cluster(name: &str) -> Cluster {
    let endpoint = |last: u8| Endpoint::new(Address::Socket(([10, 0, 0, last], 8443).into()));
    Cluster::new(name, vec![endpoint(1), endpoint(2)])
}

fn table(chains: Vec<FilterChain>, clusters: Vec<Cluster>) -> Table {
    let mut snapshot = Snapshot::default();
    for cluster in clusters {
        snapshot.clusters.insert(cluster.name.as_str().into(), Arc::new(cluster));
    }
    let listener = listener::Listener {
        name: "0.0.0.0_15443".into(),
        address: ([0, 0, 0, 0], 15443).into(),
        rewrites: vec![Rewrite::global_to("cluster.local")],
        filter_chains: chains,
        options: Default::default(),
    };
    snapshot.listeners.insert(listener.name.clone(), Arc::new(listener));
    Table::build(Arc::new(snapshot), &Default::default(), &Table::default())
}

fn question(name: &str, alpn: &[&str]) -> Question {
    let alpn = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Question { server_name: name.into(), alpn, ..Question::default() }
}

/// Compares with a file of `tests/golden/explain`; `UPDATE=1` writes it.
fn golden(file: &str, table: &Table, question: &Question) -> Explanation {
    let explanation = explain(table, question, &BTreeMap::new());
    let text = explanation.to_string();
    let path = format!("{}/tests/golden/explain/{file}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, wanted, "{path}; UPDATE=1 writes it");
    explanation
}

fn httpbin() -> Table {
    let mut cluster = cluster(HTTPBIN);
    let place = &mut cluster.localities[0];
    place.locality = Locality { region: "eu".into(), zone: "eu-a".into(), subzone: String::new() };
    place.endpoints[0].workload = "httpbin-1.bar".into();
    place.endpoints[1].health = Health::Draining;
    let mut far = place.clone();
    far.locality.region = "us".into();
    far.priority = 1;
    far.endpoints = vec![Endpoint::new(Address::Socket(([10, 1, 0, 1], 8443).into()))];
    cluster.localities.push(far);
    cluster.max_connections = Some(1024);
    table(vec![chain(HTTPBIN, &[HTTPBIN], &["istio"], &["*.bar.global"])], vec![cluster])
}

#[test]
fn a_rewritten_name_is_followed_to_its_endpoints() {
    let alias = "outbound_.8000_._.httpbin.bar.global";
    let explained = golden("goes", &httpbin(), &question(alias, &["h2", "istio"]));
    assert!(!explained.is_refusal());
    assert_eq!(explained.listeners[0].verdict.cluster.as_deref(), Some(HTTPBIN));
}

#[test]
fn a_refusal_names_the_chains_that_failed_and_why() {
    golden("no_protocol", &httpbin(), &question("outbound_.8000_._.httpbin.bar.global", &[]));
    golden("only_rewritten", &httpbin(), &question(HTTPBIN, &["istio"]));
    let other = table(vec![chain("other", &[HTTPBIN], &[], &["*.foo.global"])], vec![cluster("other")]);
    golden("not_under", &other, &question("outbound_.8000_._.httpbin.bar.global", &["istio"]));
}

#[test]
fn a_name_that_nobody_has_is_told_what_may_have_been_meant() {
    let explained =
        golden("nearest", &httpbin(), &question("outbound_.8000_._.htpbin.bar.global", &["istio"]));
    assert_eq!(explained.listeners[0].nearest[0].name, HTTPBIN);
    let refused = explained.listeners[0].verdict.refused.as_ref().unwrap();
    assert_eq!((refused.flag, refused.alert_name), ("NR", Some("unrecognized_name")));
    // What a client with that name would never get to.
    golden("no_name", &httpbin(), &question("no such name", &[]));
}

#[test]
fn rules_and_limits_are_shown_with_what_they_said() {
    let mut guarded = chain("guarded", &["a.b"], &[], &[]);
    let inside = Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap();
    let policy = Policy {
        name: "ns[bar]-policy[inside]".into(),
        permissions: vec![Permission::Any],
        principals: vec![Principal::RemoteIp(inside)],
    };
    guarded.options.rbac = vec![Arc::new(Rbac { action: Action::Allow, policies: vec![policy] })];
    guarded.options.connection_limit = Some(ConnectionLimit { max_connections: 5, delay: Duration::ZERO });
    guarded.options.rate_limit = Some(RateLimit {
        max_tokens: 10,
        tokens_per_fill: 2,
        fill_interval: Duration::from_secs(1),
        share_key: String::new(),
    });
    let mut near = chain("near", &["a.b"], &[], &[]);
    near.matches.connection.destination_port = Some(8443);
    let table = table(vec![near, guarded], vec![cluster("guarded")]);
    let asked = |source: &str| Question { source: Some(source.parse().unwrap()), ..question("A.b.", &[]) };
    assert!(!golden("allowed", &table, &asked("10.1.2.3")).is_refusal());
    assert!(golden("denied", &table, &asked("192.0.2.1")).is_refusal());
    golden("source_not_given", &table, &question("a.b", &[]));
}

#[test]
fn a_cluster_without_endpoints_is_a_refusal_even_though_the_way_was_found() {
    let mut sick = cluster("sick");
    sick.localities[0].endpoints.iter_mut().for_each(|endpoint| endpoint.health = Health::Unhealthy);
    // Otherwise so many that are ill make a panic, in which all are used.
    sick.panic_threshold = Some(0);
    let mut by_name =
        Cluster::new("by-name", vec![Endpoint::new(Address::Dns { host: "gw.example".into(), port: 1 })]);
    by_name.max_connections = Some(0);
    let chains = vec![
        chain("sick", &["sick.example"], &[], &[]),
        chain("lost", &["lost.example"], &[], &[]),
        chain("by-name", &["*.example"], &[], &[]),
    ];
    let table = table(chains, vec![sick, by_name]);
    golden("unhealthy", &table, &question("sick.example", &[]));
    golden("no_cluster", &table, &question("lost.example", &[]));
    golden("full", &table, &question("x.example", &[]));
}

#[test]
fn a_chain_that_spreads_shows_each_cluster_with_its_part() {
    let mut spread = chain("spread", &["*.example"], &[], &[]);
    let weighted = |name: &str, weight| WeightedCluster { name: name.into(), weight };
    spread.route.clusters = vec![weighted("old", 3), weighted("new", 1)];
    let mut own = chain("own", &["*.global"], &[], &[]);
    own.route.by_server_name = Some(ByServerName { rewrites: vec![Rewrite::global_to("cluster.local")] });
    let table = table(vec![spread, own], ["old", "new", "own", HTTPBIN].map(cluster).into());
    golden("spread", &table, &question("a.example", &[]));
    golden("named", &table, &question("outbound_.8000_._.httpbin.bar.global", &[]));
}

fn chains() -> impl Strategy<Value = Vec<FilterChain>> {
    let pattern = select(
        &["a.b", "c.a.b", "*.b", "*.a.b", "*", "a.svc.cluster.local", "*.cluster.local", "a.global"][..],
    );
    let one = (
        proptest::collection::vec(pattern, 1..3),
        subsequence(&["istio", "h2"][..], 0..=2),
        proptest::option::weighted(0.2, select(&["*.global", "*.b"][..])),
        proptest::option::weighted(0.2, select(&[15443_u16, 1][..])),
        proptest::option::weighted(0.3, any::<bool>()),
        (proptest::option::weighted(0.2, Just(0_u64)), 0_u8..4),
    );
    let made = one.prop_map(|(patterns, protocols, sent_as, port, deny, (limit, clusters))| {
        let mut chain = chain("x", &patterns, &protocols, &sent_as.into_iter().collect::<Vec<_>>());
        chain.matches.connection.destination_port = port;
        if let Some(deny) = deny {
            let inside = Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap();
            let principals = vec![Principal::RemoteIp(inside)];
            let policies = vec![Policy { name: "p".into(), permissions: vec![Permission::Any], principals }];
            let action = if deny { Action::Deny } else { Action::Allow };
            chain.options.rbac = vec![Arc::new(Rbac { action, policies })];
        }
        chain.options.connection_limit =
            limit.map(|max_connections| ConnectionLimit { max_connections, delay: Duration::ZERO });
        chain.route.clusters = ["there", "there-too", "gone", "empty"][..=usize::from(clusters)]
            .iter()
            .rev()
            .map(|name| WeightedCluster { name: (*name).into(), weight: 1 })
            .collect();
        chain
    });
    proptest::collection::vec(made, 0..6).prop_map(|mut chains| {
        chains.iter_mut().enumerate().for_each(|(index, chain)| chain.name = format!("chain-{index}").into());
        chains
    })
}

proptest! {
    #[test]
    fn an_explanation_ends_where_the_connection_ends(
        chains in chains(),
        name in select(&["a.b", "c.a.b", "x.b", "a.global", "x.global", "other", "a.svc.cluster.local"][..]),
        alpn in subsequence(&["istio", "h2"][..], 0..=2),
        inside in any::<bool>(),
    ) {
        let empty = Cluster::new("empty", Vec::new());
        let table = table(chains, vec![cluster("there"), cluster("there-too"), empty]);
        let source = IpAddr::from(if inside { [10, 0, 0, 1] } else { [192, 0, 2, 1] });
        let asked = Question { source: Some(source), ..question(name, &alpn) };
        let explained = explain(&table, &asked, &BTreeMap::new());
        let verdict = &explained.listeners[0].verdict;

        let name: ServerName = name.parse().unwrap();
        let remote = (source, 0).into();
        let ends = Ends { destination: ([0, 0, 0, 0], 15443).into(), direct_remote: remote, remote };
        let to = Asked { server_name: Some(&name), ends };
        let offered = alpn.iter().map(|protocol| protocol.as_bytes());
        match table.route("0.0.0.0_15443", &to, offered, |_| 0) {
            Ok(routed) => {
                prop_assert_eq!(verdict.chain.as_deref(), Some(&*routed.chain));
                prop_assert_eq!(verdict.cluster.as_ref(), Some(&routed.cluster.config.name));
                prop_assert_eq!(&verdict.rewritten, &routed.rewritten);
                let full = routed.limits.is_some();
                let flag = if full { Some("OM") } else if routed.cluster.endpoints.is_empty() { Some("UH") } else { None };
                prop_assert_eq!(verdict.refused.as_ref().map(|refused| refused.flag), flag);
            }
            Err(error) => {
                let refused = Refused::from(Error::from(error));
                prop_assert_eq!(verdict.refused.as_ref(), Some(&refused));
                prop_assert!(verdict.cluster.is_none());
            }
        }
    }
}
