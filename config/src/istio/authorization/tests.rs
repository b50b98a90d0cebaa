use super::super::{File, Index};
use super::*;
use crate::rbac::{Peer, Refusal};
use crate::snapshot::Snapshot;

const MESH: &str = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: istio-system}\n\
    spec: {servers: [{port: {number: 15443, name: t, protocol: TLS}, tls: {mode: AUTO_PASSTHROUGH}, hosts: ['*.local']}]}\n\
    ---\napiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: bar}\nspec: {ports: [{port: 80, name: http}]}\n---\n";

fn policy(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: {namespace}}}\n\
         spec: {{{spec}}}\n---\n"
    )
}

fn snapshot(policies: &[String]) -> Snapshot {
    let text = MESH.to_owned() + &policies.concat();
    let mut index = Index::default();
    index.load(&[File { path: "a.yaml", text: &text }]);
    let labels = [("istio".to_owned(), "ingressgateway".to_owned())].into();
    index.snapshot(&Options { labels, namespace: "gateways".into(), ..Options::default() })
}

/// Why a connection from here for this name may not go on.
fn refusal(policies: &[String], remote: &str, server_name: &str) -> Option<Refusal> {
    let snapshot = snapshot(policies);
    assert!(snapshot.rejections.is_empty(), "{:?}", snapshot.rejections);
    let remote = remote.parse().unwrap();
    let peer =
        Peer { destination: "192.0.2.1:15443".parse().unwrap(), direct_remote: remote, remote, server_name };
    let chain = &snapshot.listeners["0.0.0.0_15443"].filter_chains[0];
    chain.options.rbac.iter().find_map(|rules| rules.refuses(&peer))
}

fn allowed(spec: &str, remote: &str, server_name: &str) -> bool {
    refusal(&[policy("istio-system", spec)], remote, server_name).is_none()
}

#[test]
fn deny_goes_before_allow_and_where_anything_is_allowed_only_that_is() {
    let inside = "action: ALLOW, rules: [{from: [{source: {ipBlocks: ['10.0.0.0/8']}}]}]";
    let bad = "action: DENY, rules: [{from: [{source: {ipBlocks: ['10.1.0.0/16']}}]}]";
    let both = [policy("istio-system", inside), policy("gateways", bad)];
    assert_eq!(refusal(&both, "10.2.0.1", "a"), None);
    assert_eq!(refusal(&both, "10.1.0.1", "a"), Some(Refusal::Denied("gateways/p rule 1".into())));
    assert_eq!(refusal(&both, "11.0.0.1", "a"), Some(Refusal::NotAllowed));
    assert_eq!(refusal(&both[1..], "11.0.0.1", "a"), None);
}

#[test]
fn an_empty_policy_allows_nobody_and_an_empty_rule_everybody() {
    assert!(!allowed("", "10.0.0.1", "a"));
    assert!(allowed("rules: [{}]", "10.0.0.1", "a"));
    assert!(allowed("action: DENY", "10.0.0.1", "a"));
    assert!(!allowed("action: DENY, rules: [{}]", "10.0.0.1", "a"));
}

#[test]
fn names_ports_and_addresses_are_matched_as_istio_does() {
    let sni = |values: &str| format!("rules: [{{when: [{{key: connection.sni, values: [{values}]}}]}}]");
    for (values, name, expected) in [
        ("'*.global'", "a.GLOBAL", true),
        ("'outbound_*'", "outbound_.80_._.a.bar", true),
        ("'*'", "a", true),
        ("'*'", "", false),
        ("'a.b'", "a.b.c", false),
    ] {
        assert_eq!(allowed(&sni(values), "10.0.0.1", name), expected, "{values} {name}");
    }
    let port = |ports: &str| format!("rules: [{{to: [{{operation: {{{ports}}}}}]}}]");
    assert!(allowed(&port("ports: ['15443', '80']"), "10.0.0.1", "a"));
    assert!(!allowed(&port("notPorts: ['15443']"), "10.0.0.1", "a"));
    let sources =
        "rules: [{from: [{source: {remoteIpBlocks: ['10.0.0.0/8'], notRemoteIpBlocks: [10.9.9.9]}}]}]";
    assert!(allowed(sources, "10.0.0.1", "a") && !allowed(sources, "10.9.9.9", "a"));
    let both = "rules: [{from: [{source: {ipBlocks: ['10.0.0.0/8']}}], to: [{operation: {ports: ['15443']}}], \
                when: [{key: connection.sni, notValues: ['*.secret']}, {key: destination.ip, values: ['192.0.2.1']}]}]";
    assert!(allowed(both, "10.0.0.1", "a") && !allowed(both, "10.0.0.1", "a.secret"));
    assert!(!allowed(both, "11.0.0.1", "a"));
}

#[test]
fn what_only_http_has_lets_less_in_and_says_so() {
    let rule = |action: &str| {
        format!(
            "action: {action}, rules: [{{to: [{{operation: {{methods: [GET], ports: ['15443']}}}}]}}, \
                                       {{from: [{{source: {{ipBlocks: ['10.0.0.0/8']}}}}]}}]"
        )
    };
    // The rule of an ALLOW policy is gone, and its other one stays.
    assert!(allowed(&rule("ALLOW"), "10.0.0.1", "a") && !allowed(&rule("ALLOW"), "11.0.0.1", "a"));
    assert!(!allowed(&rule("DENY"), "11.0.0.1", "a"));
    let notices = snapshot(&[policy("istio-system", &rule("ALLOW"))]).notices;
    let line = notices.iter().map(ToString::to_string).find(|line| line.contains("methods")).unwrap();
    assert!(
        line.contains("spec.rules[0].to[0].operation.methods") && line.contains("lets nobody in"),
        "{line}"
    );
}

#[test]
fn nobody_has_an_identity_here() {
    let by = |fields: &str| format!("rules: [{{from: [{{source: {{{fields}}}}}]}}]");
    assert!(!allowed(&by("principals: ['*']"), "10.0.0.1", "a"));
    assert!(allowed(&by("notNamespaces: [bar]"), "10.0.0.1", "a"));
    assert!(!allowed(&format!("action: DENY, {}", by("notPrincipals: [a]")), "10.0.0.1", "a"));
}

#[test]
fn other_workloads_and_namespaces_have_their_own_policies() {
    let nobody = |more: &str| policy("gateways", more);
    assert!(refusal(&[policy("bar", "")], "10.0.0.1", "a").is_none());
    assert!(refusal(&[nobody("selector: {matchLabels: {istio: other}}")], "10.0.0.1", "a").is_none());
    assert!(
        refusal(&[nobody("selector: {matchLabels: {istio: ingressgateway}}")], "10.0.0.1", "a").is_some()
    );
    assert!(refusal(&[nobody("targetRefs: [{kind: Gateway, name: g}]")], "10.0.0.1", "a").is_none());
    assert!(refusal(&[nobody("action: AUDIT, rules: [{}]")], "10.0.0.1", "a").is_none());
    assert!(refusal(&[nobody("action: CUSTOM, rules: [{}]")], "10.0.0.1", "a").is_some());
}

#[test]
fn what_is_wrong_is_refused_by_field() {
    let spec = "rules: [{from: [{source: {ipBlocks: [nowhere], notRemoteIpBlocks: [x]}}], to: [{operation: {ports: ['0']}}], \
                when: [{key: connection.sni}, {key: source.colour, values: [red]}]}]";
    let rejections = snapshot(&[policy("gateways", spec)]).rejections;
    let said: Vec<_> = rejections.iter().map(ToString::to_string).collect();
    for field in [
        "from[0].source.ipBlocks",
        "from[0].source.notRemoteIpBlocks",
        "to[0].operation.ports",
        "when[0]: there are no values",
        "when[1].key",
    ] {
        assert!(said.iter().any(|line| line.contains(field)), "{field}: {said:#?}");
    }
}
