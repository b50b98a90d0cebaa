//! AuthorizationPolicy: who may connect, by Istio's rules for TCP
//! (<https://istio.io/latest/docs/reference/config/security/authorization-policy/>).
//!
//! A gateway that passes TLS through knows addresses, ports and the server name. What only HTTP has, it never sees: a rule
//! of an ALLOW policy that asks for such a thing matches nothing, and one of a DENY policy is taken without it, so that
//! either way less is let in and not more. A peer's certificate is not seen either; there nothing has that identity.

use super::findings::Findings;
use super::resource::Object;
use super::schema::authorization_policy::{self as schema, Condition, Operation, Source};
use super::schema::{Labels, selects};
use super::translation::{Output, World};
use super::{Options, ROOT_NAMESPACE};
use crate::cidr::Cidr;
use crate::listener::FilterChain;
use crate::rbac::{Action, Permission, Policy, Principal, Rbac, StringMatch, StringTest};

/// An AuthorizationPolicy, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AuthorizationPolicy {
    selector: Labels,
    /// For Gateways of the Gateway API and for waypoints, which the gateway is not.
    targeted: bool,
    /// None where it only audits.
    action: Option<Action>,
    rules: Vec<Policy>,
}

/// A part of a rule: its field, the values of which one must match, and those of which none may.
struct Part<'a> {
    name: &'static str,
    values: &'a [String],
    not: &'a [String],
}

/// What a value of a field is to a gateway that passes TLS through.
enum Known<T> {
    Test(T),
    /// HTTP alone has it.
    Http,
    /// It is no value.
    Wrong(String),
}

/// A rule of an ALLOW policy that can match nothing here.
struct Never;

impl AuthorizationPolicy {
    /// Checks an AuthorizationPolicy of this name.
    pub(super) fn parse(schema: &schema::AuthorizationPolicy, findings: &mut Findings) -> Self {
        let action = match schema.action {
            schema::Action::Allow => Some(Action::Allow),
            schema::Action::Deny => Some(Action::Deny),
            schema::Action::Audit => {
                findings
                    .notice("spec.action", "AUDIT changes nothing here: the access log has every connection");
                None
            }
            schema::Action::Custom => {
                let message = "no provider is asked here, so that whatever the rules match is denied; use ALLOW and DENY";
                findings.notice("spec.action", message);
                Some(Action::Deny)
            }
        };
        let targeted = !(schema.target_ref.is_null() && schema.target_refs.is_null());
        if targeted {
            let message = "it is for what targetRefs name, and not applied to this gateway; use selector";
            findings.notice("spec.targetRefs", message);
        }
        let allows = action == Some(Action::Allow);
        let rules = schema.rules.iter().enumerate();
        let rules =
            rules.filter_map(|(index, rule)| parse_rule(rule, index, allows, findings).ok()).collect();
        let selector = schema.selector.as_ref().map(|selector| selector.labels.clone()).unwrap_or_default();
        Self { selector, targeted, action, rules }
    }

    /// Is it for the gateway with these options? Those of the root namespace are for every namespace.
    fn is_for(&self, namespace: &str, options: &Options) -> bool {
        !self.targeted
            && (namespace == ROOT_NAMESPACE || namespace == options.namespace)
            // As with Gateways: a gateway that has no labels is meant by every selector.
            && (options.labels.is_empty() || selects(&self.selector, &options.labels))
    }
}

fn parse_rule(
    rule: &schema::Rule,
    index: usize,
    allows: bool,
    findings: &mut Findings,
) -> Result<Policy, Never> {
    let field = format!("spec.rules[{index}]");
    let mut reading = Reading { allows, never: false, findings };
    let mut asked = Vec::new();
    let mut asking = Vec::new();
    for (index, condition) in rule.when.iter().enumerate() {
        reading.condition(condition, &format!("{field}.when[{index}]"), &mut asked, &mut asking);
    }
    let mut permissions = Vec::new();
    for (index, to) in rule.to.iter().enumerate() {
        let field = format!("{field}.to[{index}].operation");
        let Some(operation) = &to.operation else {
            reading.findings.refuse(field, "there is no operation; give one, such as ports");
            continue;
        };
        permissions.push(all(reading.operation(operation, &field), &asked, Permission::All, Permission::Any));
    }
    let mut principals = Vec::new();
    for (index, from) in rule.from.iter().enumerate() {
        let field = format!("{field}.from[{index}].source");
        let Some(source) = &from.source else {
            reading.findings.refuse(field, "there is no source; give one, such as ipBlocks");
            continue;
        };
        principals.push(all(reading.source(source, &field), &asking, Principal::All, Principal::Any));
    }
    if rule.to.is_empty() {
        permissions.push(all(Vec::new(), &asked, Permission::All, Permission::Any));
    }
    if rule.from.is_empty() {
        principals.push(all(Vec::new(), &asking, Principal::All, Principal::Any));
    }
    if reading.never {
        Err(Never)
    } else {
        Ok(Policy { name: format!("rule {}", index + 1), permissions, principals })
    }
}

/// All of these and of those; nothing asked for is anything.
fn all<T: Clone>(mut these: Vec<T>, those: &[T], join: fn(Vec<T>) -> T, any: T) -> T {
    these.extend_from_slice(those);
    match these.len() {
        0 => any,
        1 => these.remove(0),
        _ => join(these),
    }
}

/// Reads one rule.
struct Reading<'f> {
    allows: bool,
    /// It asks for what is never seen, and so lets nobody in.
    never: bool,
    findings: &'f mut Findings,
}

impl Reading<'_> {
    fn operation(&mut self, operation: &Operation, field: &str) -> Vec<Permission> {
        let parts = [
            ("hosts", &operation.hosts, &operation.not_hosts),
            ("methods", &operation.methods, &operation.not_methods),
            ("paths", &operation.paths, &operation.not_paths),
        ];
        for (name, values, not) in parts {
            self.part(field, &Part { name, values, not }, |_| Known::<Permission>::Http, permission_of);
        }
        let ports = Part { name: "ports", values: &operation.ports, not: &operation.not_ports };
        self.part(field, &ports, destination_port, permission_of).into_iter().flatten().collect()
    }

    fn source(&mut self, source: &Source, field: &str) -> Vec<Principal> {
        let certificate = |_: &str| Known::Test(Principal::PeerCertificate);
        let mut found = Vec::new();
        let parts = [
            ("principals", &source.principals, &source.not_principals),
            ("namespaces", &source.namespaces, &source.not_namespaces),
            ("serviceAccounts", &source.service_accounts, &source.not_service_accounts),
        ];
        for (name, values, not) in parts {
            if !(values.is_empty() && not.is_empty()) {
                self.tell_of_certificates(&format!("{field}.{name}"));
            }
            found.extend(self.part(field, &Part { name, values, not }, certificate, principal_of));
        }
        let http = Part {
            name: "requestPrincipals",
            values: &source.request_principals,
            not: &source.not_request_principals,
        };
        self.part(field, &http, |_| Known::<Principal>::Http, principal_of);
        let blocks = Part { name: "ipBlocks", values: &source.ip_blocks, not: &source.not_ip_blocks };
        found.extend(self.part(field, &blocks, |text| range(text, Principal::DirectRemoteIp), principal_of));
        let blocks = Part {
            name: "remoteIpBlocks",
            values: &source.remote_ip_blocks,
            not: &source.not_remote_ip_blocks,
        };
        found.extend(self.part(field, &blocks, |text| range(text, Principal::RemoteIp), principal_of));
        found.into_iter().flatten().collect()
    }

    fn condition(
        &mut self,
        condition: &Condition,
        field: &str,
        asked: &mut Vec<Permission>,
        asking: &mut Vec<Principal>,
    ) {
        let Condition { key, values, not_values } = condition;
        if values.is_empty() && not_values.is_empty() {
            self.findings.refuse(field, "there are no values; give values or notValues");
        }
        let part = Part { name: "", values, not: not_values };
        match key.as_str() {
            "destination.ip" => {
                let of = |text: &str| range(text, Permission::DestinationIp);
                asked.extend(self.part(field, &part, of, permission_of).into_iter().flatten());
            }
            "destination.port" => {
                asked.extend(self.part(field, &part, destination_port, permission_of).into_iter().flatten());
            }
            "connection.sni" => {
                let of = |text: &str| Known::Test(Permission::ServerName(string_match(text)));
                asked.extend(self.part(field, &part, of, permission_of).into_iter().flatten());
            }
            "source.ip" => {
                let of = |text: &str| range(text, Principal::DirectRemoteIp);
                asking.extend(self.part(field, &part, of, principal_of).into_iter().flatten());
            }
            "remote.ip" => {
                let of = |text: &str| range(text, Principal::RemoteIp);
                asking.extend(self.part(field, &part, of, principal_of).into_iter().flatten());
            }
            "source.namespace" | "source.principal" | "source.serviceAccount" => {
                self.tell_of_certificates(&format!("{field}.key"));
                let of = |_: &str| Known::Test(Principal::PeerCertificate);
                asking.extend(self.part(field, &part, of, principal_of).into_iter().flatten());
            }
            http if ["request.", "experimental.envoy.filters."]
                .iter()
                .any(|start| http.starts_with(start)) =>
            {
                self.part(&format!("{field}.key"), &part, |_| Known::<Permission>::Http, permission_of);
            }
            _ => {
                let known = "connection.sni, destination.ip, destination.port, source.ip or remote.ip";
                self.findings.refuse(format!("{field}.key"), format!("{key:?} is no attribute; use {known}"));
            }
        }
    }

    /// One of the values, and none of the others.
    fn part<T>(
        &mut self,
        field: &str,
        part: &Part<'_>,
        known: impl Fn(&str) -> Known<T>,
        combine: fn(Vec<T>, bool) -> T,
    ) -> Vec<Option<T>> {
        let lists = [(part.values, false), (part.not, true)];
        let read = |(list, not): (&[String], bool)| {
            let mut tests = Vec::new();
            for value in list {
                match known(value) {
                    Known::Test(test) => tests.push(test),
                    Known::Http => self.http(field, part.name),
                    Known::Wrong(reason) => self.findings.refuse(place(field, part.name, not), reason),
                }
            }
            (!tests.is_empty()).then(|| combine(tests, not))
        };
        lists.map(read).into_iter().collect()
    }

    fn http(&mut self, field: &str, name: &str) {
        let place = place(field, name, false);
        if self.findings.notices.iter().any(|(told, _)| *told == place) {
            return;
        }
        let message = if self.allows {
            "only HTTP has it, which is not seen here: the rule lets nobody in"
        } else {
            "only HTTP has it, which is not seen here: the rule denies whatever the rest of it matches"
        };
        self.never |= self.allows;
        self.findings.notice(place, message);
    }

    fn tell_of_certificates(&mut self, field: &str) {
        let message = "clients' certificates are not seen here, since their TLS passes through: nobody has that identity";
        self.findings.notice(field, message);
    }
}

fn place(field: &str, name: &str, not: bool) -> String {
    match (name, not) {
        ("", false) => field.to_owned(),
        ("", true) => format!("{field}.notValues"),
        (name, false) => format!("{field}.{name}"),
        (name, true) => {
            let mut letters = name.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            format!("{field}.not{}", first.into_iter().chain(letters).collect::<String>())
        }
    }
}

fn permission_of(mut tests: Vec<Permission>, not: bool) -> Permission {
    let test = if tests.len() == 1 { tests.remove(0) } else { Permission::OneOf(tests) };
    if not { Permission::Not(Box::new(test)) } else { test }
}

fn principal_of(mut tests: Vec<Principal>, not: bool) -> Principal {
    let test = if tests.len() == 1 { tests.remove(0) } else { Principal::OneOf(tests) };
    if not { Principal::Not(Box::new(test)) } else { test }
}

fn destination_port(text: &str) -> Known<Permission> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Known::Test(Permission::DestinationPorts(port, u32::from(port) + 1)),
        _ => Known::Wrong(format!("{text:?} is no port; give one from 1 to 65535, in quotes")),
    }
}

fn range<T>(text: &str, of: fn(Cidr) -> T) -> Known<T> {
    match text.parse() {
        Ok(range) => Known::Test(of(range)),
        Err(error) => Known::Wrong(format!("{error}")),
    }
}

/// As Istio matches: `*` is anything that is there, and a `*` at one end stands for any text.
fn string_match(text: &str) -> StringMatch {
    let test = match (text, text.strip_prefix('*'), text.strip_suffix('*')) {
        ("*", ..) => StringTest::Present,
        (_, Some(end), _) => StringTest::Suffix(end.to_owned()),
        (_, _, Some(start)) => StringTest::Prefix(start.to_owned()),
        _ => StringTest::Exact(text.to_owned()),
    };
    StringMatch { ignore_case: true, test }
}

/// What the policies for the gateway make of it: what is denied goes before what is allowed, and where anything is
/// allowed, only that is.
pub(super) fn rules(world: &World<'_>, out: &mut Output) -> Vec<std::sync::Arc<Rbac>> {
    let for_us: Vec<(&Object, &AuthorizationPolicy)> = world
        .resources
        .authorization_policies
        .iter()
        .filter(|(object, policy)| policy.is_for(&object.name.namespace, world.options))
        .copied()
        .collect();
    for (object, _) in &for_us {
        out.uses(object);
    }
    let of = |action: Action| {
        let mut policies = Vec::new();
        let mut names = Vec::new();
        for (object, policy) in for_us.iter().filter(|(_, policy)| policy.action == Some(action)) {
            let name = format!("{}/{}", object.name.namespace, object.name.name);
            let rules = policy.rules.iter();
            policies
                .extend(rules.map(|rule| Policy { name: format!("{name} {}", rule.name), ..rule.clone() }));
            names.push(name);
        }
        (!names.is_empty()).then(|| std::sync::Arc::new(Rbac { action, policies }))
    };
    [of(Action::Deny), of(Action::Allow)].into_iter().flatten().collect()
}

/// Has every chain heed them.
pub(super) fn guard<'c>(chains: impl Iterator<Item = &'c mut FilterChain>, rules: &[std::sync::Arc<Rbac>]) {
    for chain in chains {
        chain.options.rbac = rules.to_vec();
    }
}

#[cfg(test)]
mod tests {
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
        let peer = Peer {
            destination: "192.0.2.1:15443".parse().unwrap(),
            direct_remote: remote,
            remote,
            server_name,
        };
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
}
