//! What must hold for any set of resources, and for any bytes in place of one.

// The crate itself touches no file; the test that feeds it has to, and a panic in it is the report.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use eastgate_config::istio::{File, Index, Options};
use eastgate_config::listener::{FilterChain, Listener};
use eastgate_config::server_name::{Pattern, SubsetKey};
use eastgate_config::snapshot::Snapshot;
use proptest::prelude::*;

/// Every document of every golden case and example.
static DOCUMENTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for directory in ["tests/golden", "examples"] {
        for case in fs::read_dir(root.join(directory)).unwrap().map(|case| case.unwrap().path()) {
            // Beside the examples of YAML there are examples of Rust.
            if !case.is_dir() {
                continue;
            }
            let entries = fs::read_dir(case).unwrap();
            files.extend(
                entries
                    .map(|entry| entry.unwrap().path())
                    .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
                    .filter(|path| !path.ends_with("snapshot.yaml")),
            );
        }
    }
    files.sort();
    let texts = files.iter().map(|path| fs::read_to_string(path).unwrap());
    texts.flat_map(|text| text.split("\n---\n").map(str::to_owned).collect::<Vec<_>>()).collect()
});

fn load(index: &mut Index, texts: &[(usize, &str)]) -> Snapshot {
    let names: Vec<String> = texts.iter().map(|(number, _)| format!("{number:03}.yaml")).collect();
    let files: Vec<File<'_>> = names.iter().zip(texts).map(|(path, (_, text))| File { path, text }).collect();
    index.load(&files);
    index.snapshot(&Options::default())
}

/// Those that nothing is wrong with; a bad version shows what was there before by design.
static GOOD: LazyLock<Vec<String>> = LazyLock::new(|| {
    let is_good = |text: &&String| load(&mut Index::default(), &[(0, text.as_str())]).rejections.is_empty();
    DOCUMENTS.iter().filter(is_good).cloned().collect()
});

fn some_of(documents: &'static [String]) -> impl Strategy<Value = Vec<(usize, &'static str)>> {
    let all: Vec<(usize, &str)> = documents.iter().map(String::as_str).enumerate().collect();
    let most = all.len();
    proptest::sample::subsequence(all, 0..=most)
}

fn some_documents() -> impl Strategy<Value = Vec<(usize, &'static str)>> {
    some_of(&DOCUMENTS)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_the_files_gives_the_same_snapshot(
        (ordered, shuffled) in some_documents().prop_flat_map(|some| (Just(some.clone()), Just(some).prop_shuffle()))
    ) {
        prop_assert_eq!(load(&mut Index::default(), &ordered), load(&mut Index::default(), &shuffled));
    }

    #[test]
    fn what_was_loaded_before_does_not_show_once_other_files_are_loaded(
        before in some_of(&GOOD), after in some_of(&GOOD)
    ) {
        let mut index = Index::default();
        load(&mut index, &before);
        prop_assert_eq!(load(&mut index, &after), load(&mut Index::default(), &after));
    }

    #[test]
    fn applying_and_deleting_a_resource_restores_the_snapshot(some in some_documents(), which in any::<prop::sample::Index>()) {
        let mut index = Index::default();
        let before = load(&mut index, &some);
        let kinds = [("networking.istio.io/v1", "Gateway"), ("v1", "Service"), ("apps/v1", "Deployment")];
        let (version, kind) = kinds[which.index(kinds.len())];
        let server = serde_json::json!({"port": {"number": 9, "protocol": "TLS"}, "tls": {"mode": "PASSTHROUGH"}, "hosts": ["*"]});
        let resource = serde_json::json!({
            "apiVersion": version, "kind": kind, "metadata": {"name": "newcomer", "namespace": "newcomers"},
            "spec": if kind == "Gateway" { serde_json::json!({"servers": [server]}) } else { serde_json::json!({"ports": [{"port": 80}]}) },
        });
        prop_assert_eq!(index.apply(resource), Ok(()));
        let between = index.snapshot(&Options::default());
        prop_assert!(kind != "Gateway" || between.listeners.contains_key("0.0.0.0_9"));
        index.delete(kind, "newcomers", "newcomer");
        prop_assert_eq!(index.snapshot(&Options::default()), before);
    }

    #[test]
    fn no_chain_is_without_a_cluster_and_no_two_chains_have_one_name(some in some_documents()) {
        let snapshot = load(&mut Index::default(), &some);
        let told = |text: &str| snapshot.cross_check().iter().any(|notice| notice.message.contains(text));
        prop_assert!(!told("no cluster") && !told("is also a name"));
    }

    #[test]
    fn any_text_and_any_damage_to_a_good_one_gives_a_snapshot(
        text in "\\PC{0,200}", which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), cut in 0usize..40
    ) {
        load(&mut Index::default(), &[(0, &text)]);
        let good = &DOCUMENTS[which.index(DOCUMENTS.len())];
        let start = good.floor_char_boundary(at.index(good.len() + 1));
        let end = good.floor_char_boundary((start + cut).min(good.len())).max(start);
        load(&mut Index::default(), &[(0, &format!("{}{text}{}", &good[..start], &good[end..]))]);
    }

    #[test]
    fn any_values_in_a_resource_give_a_snapshot(kind in 0usize..9, spec in any_value()) {
        use eastgate_config::istio::Kind;
        let kind = Kind::ALL[kind];
        let version = kind.versions()[0];
        let version = if kind.group().is_empty() { version.to_owned() } else { format!("{}/{version}", kind.group()) };
        let mut index = Index::default();
        let _ = index.apply(serde_json::json!({
            "apiVersion": version, "kind": kind.as_str(), "metadata": {"name": "a"}, "spec": spec, "endpoints": spec,
        }));
        index.snapshot(&Options::default());
    }
}

/// The cluster that a name leads to, as [`ChainMatch`](eastgate_config::listener::ChainMatch) tells it: as it was sent
/// if a chain takes that, or else rewritten.
fn routed<'a>(listener: &'a Listener, sent: &str) -> Option<&'a str> {
    let takes = |chain: &&FilterChain, name: &str| {
        chain.matches.server_names.iter().any(|pattern| pattern.matches(name))
    };
    let as_sent =
        listener.filter_chains.iter().find(|chain| chain.matches.sent_as.is_empty() && takes(chain, sent));
    let chain = as_sent.or_else(|| {
        let rewritten = listener.rewrites.iter().find_map(|rewrite| rewrite.apply(sent))?;
        let host = SubsetKey::parse(sent).map_or(sent, |key| key.host);
        listener.filter_chains.iter().find(|chain| {
            let aliases = &chain.matches.sent_as;
            takes(chain, &rewritten)
                && (aliases.is_empty() || aliases.iter().any(|alias| alias.matches(host)))
        })
    });
    chain.map(|chain| chain.route.clusters[0].name.as_str())
}

/// One AUTO_PASSTHROUGH server with these hosts, and these services.
fn exposure(hosts: &[&str], services: &[(&str, &str)], entries: &[&str]) -> Snapshot {
    let mut index = Index::default();
    let server = serde_json::json!({"port": {"number": 1, "protocol": "TLS"}, "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": hosts});
    let mut resources =
        vec![("networking.istio.io/v1", "Gateway", "x", "x", serde_json::json!({"servers": [server]}))];
    for (namespace, name) in services {
        let port = serde_json::json!({"ports": [{"port": 80}]});
        resources.push(("v1", "Service", namespace, name, port));
    }
    let port = serde_json::json!([{"number": 80, "name": "a", "protocol": "TCP"}]);
    for host in entries {
        let spec = serde_json::json!({"hosts": [host], "ports": port, "location": "MESH_INTERNAL", "resolution": "DNS"});
        resources.push(("networking.istio.io/v1", "ServiceEntry", "foo", host, spec));
    }
    for (version, kind, namespace, name, spec) in resources {
        let metadata = serde_json::json!({"name": name, "namespace": namespace});
        let resource =
            serde_json::json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec});
        index.apply(resource).unwrap();
    }
    index.snapshot(&Options::default())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// CVE-2021-31921 was the lack of this.
    #[test]
    fn a_name_leads_where_it_says_and_only_if_a_host_of_the_gateway_covers_it(
        hosts in prop::sample::subsequence(vec![
            "*.global", "*.bar.global", "a.bar.global", "*.local", "*.bar.svc.cluster.local", "bar/*.local", "foo/*.global", "./*.local",
        ], 1..4),
        services in prop::sample::subsequence(vec![("bar", "a"), ("bar", "b"), ("foo", "a")], 0..=3),
        entries in prop::sample::subsequence(vec!["a.bar.global", "c.bar.global", "vm.foo.svc.cluster.local"], 0..=3),
    ) {
        let snapshot = exposure(&hosts, &services, &entries);
        let listener = &snapshot.listeners["0.0.0.0_1"];
        let own = |host: &str| -> Option<&str> {
            let (name, rest) = host.split_once('.')?;
            let namespace = rest.strip_suffix(".svc.cluster.local")?;
            services.iter().find(|service| **service == (namespace, name)).map(|service| service.0)
                .or_else(|| entries.contains(&host).then_some("foo"))
        };
        let covered = |host: &str, namespace: &str| hosts.iter().any(|given| {
            let (only, pattern) = given.split_once('/').unwrap_or(("*", given));
            let only = if only == "." { "x" } else { only };
            (only == "*" || only == namespace) && pattern.parse::<Pattern>().unwrap().matches(host)
        });
        for name in ["a.bar", "b.bar", "c.bar", "a.foo", "vm.foo", "nobody.bar"] {
            let (alias, real) = (format!("{name}.global"), format!("{name}.svc.cluster.local"));
            let cluster = |host: &str| SubsetKey { port: 80, subset: "", host }.to_string();
            let real_is_covered = own(&real).is_some_and(|namespace| covered(&real, namespace));
            let expected = real_is_covered.then(|| cluster(&real));
            prop_assert_eq!(routed(listener, &cluster(&real)), expected.as_deref(), "{}", real);
            let expected = match own(&real) {
                // Covered under its own name, a service is reached by its alias, too, as it always was.
                Some(namespace) => (real_is_covered || covered(&alias, namespace)).then(|| cluster(&real)),
                None => (entries.contains(&alias.as_str()) && covered(&alias, "foo")).then(|| cluster(&alias)),
            };
            prop_assert_eq!(routed(listener, &cluster(&alias)), expected.as_deref(), "{}", alias);
        }
    }
}

/// Values that look like parts of a resource more often than chance would have it.
fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let keys = prop::sample::select(vec![
        "servers",
        "port",
        "number",
        "hosts",
        "tls",
        "mode",
        "match",
        "route",
        "destination",
        "host",
        "subsets",
        "name",
        "labels",
        "endpoints",
        "address",
        "addresses",
        "ports",
        "resolution",
        "trafficPolicy",
        "configPatches",
        "patch",
        "value",
        "typed_config",
        "filters",
        "sniHosts",
        "weight",
        "protocol",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (0i64..70000).prop_map(Into::into),
        "[a-z*./_$-]{0,12}".prop_map(Into::into),
        prop::sample::select(vec![
            "TLS",
            "AUTO_PASSTHROUGH",
            "PASSTHROUGH",
            "STATIC",
            "DNS",
            "*.global",
            "10.0.0.1"
        ])
        .prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Into::into),
            prop::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}
