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
mod tests;
