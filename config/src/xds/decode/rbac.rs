//! RBAC: rules are enforced as they stand or the filter chain is refused; none is skipped.

// Control planes still send what Envoy has deprecated.
#![allow(deprecated)]

use eastgate_proto::envoy::config::rbac::v3 as wire;
use eastgate_proto::envoy::r#type::matcher::v3 as matcher;
use matcher::string_matcher::MatchPattern;
use wire::permission::Rule;
use wire::principal::Identifier;

use super::Problem;
use super::values::{port, range};
use crate::rbac::{Action, Permission, Policy, Principal, Rbac, StringMatch, StringTest};

/// None where the rules only log.
pub(super) fn decode(message: &wire::Rbac) -> Result<Option<Rbac>, Problem> {
    let action = match wire::rbac::Action::try_from(message.action) {
        Ok(wire::rbac::Action::Allow) => Action::Allow,
        Ok(wire::rbac::Action::Deny) => Action::Deny,
        Ok(wire::rbac::Action::Log) => return Ok(None),
        Err(_) => return Err(Problem::at("action", format!("{} is not known here", message.action))),
    };
    let mut policies = Vec::with_capacity(message.policies.len());
    for (name, message) in &message.policies {
        let policy = policy(name, message);
        policies.push(policy.map_err(|problem| problem.inside(&format!("policies[{name:?}]")))?);
    }
    policies.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Some(Rbac { action, policies }))
}

fn policy(name: &str, message: &wire::Policy) -> Result<Policy, Problem> {
    if message.condition.is_some() || message.checked_condition.is_some() {
        return Err(Problem::at("condition", "CEL is not evaluated here"));
    }
    let permissions = each("permissions", &message.permissions, permission)?;
    let principals = each("principals", &message.principals, principal)?;
    Ok(Policy { name: name.into(), permissions, principals })
}

fn each<M, T>(
    field: &str,
    messages: &[M],
    read: impl Fn(&M) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let numbered = messages.iter().enumerate();
    numbered
        .map(|(index, message)| read(message).map_err(|problem| problem.inside(&format!("{field}[{index}]"))))
        .collect()
}

fn unsupported<T>(field: &str) -> Result<T, Problem> {
    Err(Problem::at(
        field,
        "a rule about what a passthrough gateway cannot see is not enforced, and not skipped",
    ))
}

fn permission(message: &wire::Permission) -> Result<Permission, Problem> {
    match &message.rule {
        Some(Rule::Any(true)) => Ok(Permission::Any),
        Some(Rule::AndRules(set)) => each("and_rules", &set.rules, permission).map(Permission::All),
        Some(Rule::OrRules(set)) => each("or_rules", &set.rules, permission).map(Permission::OneOf),
        Some(Rule::NotRule(other)) => {
            let other = permission(other).map_err(|problem| problem.inside("not_rule"))?;
            Ok(Permission::Not(Box::new(other)))
        }
        Some(Rule::DestinationIp(cidr)) => range("destination_ip", cidr).map(Permission::DestinationIp),
        Some(Rule::DestinationPort(value)) => {
            let port = port("destination_port", *value)?;
            Ok(Permission::DestinationPorts(port, u32::from(port) + 1))
        }
        Some(Rule::DestinationPortRange(ports)) => {
            let bounds = u16::try_from(ports.start).ok().zip(u32::try_from(ports.end).ok());
            let bounds = bounds.filter(|(start, end)| u32::from(*start) < *end && *end <= 65_536);
            let (start, end) =
                bounds.ok_or_else(|| Problem::at("destination_port_range", "it is no range of ports"))?;
            Ok(Permission::DestinationPorts(start, end))
        }
        Some(Rule::RequestedServerName(name)) => {
            server_name(name).map_err(|problem| problem.inside("requested_server_name"))
        }
        Some(Rule::Any(false)) => Err(Problem::at("any", "it must be true")),
        Some(Rule::Header(_)) => unsupported("header"),
        Some(Rule::UrlPath(_)) => unsupported("url_path"),
        Some(Rule::Metadata(_)) => unsupported("metadata"),
        Some(Rule::SourcedMetadata(_)) => unsupported("sourced_metadata"),
        Some(Rule::Matcher(_)) => unsupported("matcher"),
        Some(Rule::UriTemplate(_)) => unsupported("uri_template"),
        None => Err(Problem::whole("there is no rule that is known here")),
    }
}

fn server_name(message: &matcher::StringMatcher) -> Result<Permission, Problem> {
    let text = |test| StringMatch { ignore_case: message.ignore_case, test };
    let test = match &message.match_pattern {
        Some(MatchPattern::Exact(text)) => StringTest::Exact(text.clone()),
        Some(MatchPattern::Prefix(text)) => StringTest::Prefix(text.clone()),
        Some(MatchPattern::Suffix(text)) => StringTest::Suffix(text.clone()),
        Some(MatchPattern::Contains(text)) => StringTest::Contains(text.clone()),
        // The two that istiod makes of `*`. Any other expression would need RE2's own grammar.
        Some(MatchPattern::SafeRegex(regex)) if regex.regex == ".*" => return Ok(Permission::Any),
        Some(MatchPattern::SafeRegex(regex)) if regex.regex == ".+" => {
            let empty = Permission::ServerName(text(StringTest::Exact(String::new())));
            return Ok(Permission::Not(Box::new(empty)));
        }
        Some(MatchPattern::SafeRegex(_)) => return unsupported("safe_regex"),
        Some(MatchPattern::Custom(_)) => return unsupported("custom"),
        None => return Err(Problem::whole("there is no pattern")),
    };
    Ok(Permission::ServerName(text(test)))
}

fn principal(message: &wire::Principal) -> Result<Principal, Problem> {
    match &message.identifier {
        Some(Identifier::Any(true)) => Ok(Principal::Any),
        Some(Identifier::AndIds(set)) => each("and_ids", &set.ids, principal).map(Principal::All),
        Some(Identifier::OrIds(set)) => each("or_ids", &set.ids, principal).map(Principal::OneOf),
        Some(Identifier::NotId(other)) => {
            let other = principal(other).map_err(|problem| problem.inside("not_id"))?;
            Ok(Principal::Not(Box::new(other)))
        }
        Some(Identifier::DirectRemoteIp(cidr)) => {
            range("direct_remote_ip", cidr).map(Principal::DirectRemoteIp)
        }
        Some(Identifier::RemoteIp(cidr)) => range("remote_ip", cidr).map(Principal::RemoteIp),
        // Deprecated, and by its definition the address after the PROXY protocol.
        Some(Identifier::SourceIp(cidr)) => range("source_ip", cidr).map(Principal::RemoteIp),
        Some(Identifier::Authenticated(_)) => Ok(Principal::PeerCertificate),
        // istiod puts the peer's identity here as well, which only its own filters on a terminated session set.
        Some(Identifier::FilterState(state)) if state.key == "io.istio.peer_principal" => {
            Ok(Principal::PeerCertificate)
        }
        Some(Identifier::Any(false)) => Err(Problem::at("any", "it must be true")),
        Some(Identifier::FilterState(_)) => unsupported("filter_state"),
        Some(Identifier::Header(_)) => unsupported("header"),
        Some(Identifier::UrlPath(_)) => unsupported("url_path"),
        Some(Identifier::Metadata(_)) => unsupported("metadata"),
        Some(Identifier::SourcedMetadata(_)) => unsupported("sourced_metadata"),
        Some(Identifier::Custom(_)) => unsupported("custom"),
        None => Err(Problem::whole("there is no principal that is known here")),
    }
}
