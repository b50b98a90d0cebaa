//! Who may connect: the network rules of an AuthorizationPolicy, as Envoy's RBAC filter has them.
//!
//! What a passthrough gateway can know of a connection is its addresses, its ports and the server name. Rules about
//! the peer's certificate never match here, because the TLS session is not ours.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::cidr::Cidr;

/// Rules of one filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rbac {
    /// What a match means.
    pub action: Action,
    /// Any of them matching is a match; by name.
    pub policies: Vec<Policy>,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Only connections that match may go on.
    Allow,
    /// Connections that match may not.
    Deny,
}

/// Matches where one of the permissions and one of the principals do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Its name, for people.
    pub name: String,
    /// What is asked for.
    pub permissions: Vec<Permission>,
    /// Who asks.
    pub principals: Vec<Principal>,
}

/// What a connection asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Anything.
    Any,
    /// All of them.
    All(Vec<Permission>),
    /// One of them.
    OneOf(Vec<Permission>),
    /// Anything else.
    Not(Box<Permission>),
    /// An address of ours in the range.
    DestinationIp(Cidr),
    /// A port of ours from the first to before the second.
    DestinationPorts(u16, u32),
    /// A server name.
    ServerName(StringMatch),
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// Anyone.
    Any,
    /// All of them.
    All(Vec<Principal>),
    /// One of them.
    OneOf(Vec<Principal>),
    /// Anyone else.
    Not(Box<Principal>),
    /// The peer of the TCP connection.
    DirectRemoteIp(Cidr),
    /// The client, as a PROXY protocol header tells it.
    RemoteIp(Cidr),
    /// A peer with some certificate; never known here.
    PeerCertificate,
}

/// A test on a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StringMatch {
    /// Compare without regard to ASCII case.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignore_case: bool,
    /// The test.
    #[serde(flatten)]
    pub test: StringTest,
}

/// How a text is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StringTest {
    /// Equal.
    Exact(String),
    /// Begins so.
    Prefix(String),
    /// Ends so.
    Suffix(String),
    /// Has it somewhere.
    Contains(String),
    /// Is not empty.
    Present,
}

/// What is known of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer<'a> {
    /// The address that it came to.
    pub destination: SocketAddr,
    /// The peer of the TCP connection.
    pub direct_remote: IpAddr,
    /// The client.
    pub remote: IpAddr,
    /// The name that it sent; empty without one.
    pub server_name: &'a str,
}

/// Why a connection may not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// This policy denies it.
    Denied(String),
    /// Only certain connections are allowed, and it is none of them.
    NotAllowed,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(policy) => write!(f, "denied by {policy}"),
            Self::NotAllowed => f.write_str("no policy that allows anything allows this"),
        }
    }
}

impl Rbac {
    /// May the connection go on?
    pub fn allows(&self, peer: &Peer<'_>) -> bool {
        self.refuses(peer).is_none()
    }

    /// Why the connection may not go on, if it may not.
    pub fn refuses(&self, peer: &Peer<'_>) -> Option<Refusal> {
        match (self.action, self.matched(peer)) {
            (Action::Allow, None) => Some(Refusal::NotAllowed),
            (Action::Deny, Some(policy)) => Some(Refusal::Denied(policy.name.clone())),
            (Action::Allow, Some(_)) | (Action::Deny, None) => None,
        }
    }

    /// The first policy that the connection matches.
    pub fn matched(&self, peer: &Peer<'_>) -> Option<&Policy> {
        self.policies.iter().find(|policy| {
            policy.permissions.iter().any(|permission| permission.matches(peer))
                && policy.principals.iter().any(|principal| principal.matches(peer))
        })
    }
}

impl Permission {
    fn matches(&self, peer: &Peer<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::All(all) => all.iter().all(|one| one.matches(peer)),
            Self::OneOf(some) => some.iter().any(|one| one.matches(peer)),
            Self::Not(other) => !other.matches(peer),
            Self::DestinationIp(range) => range.contains(peer.destination.ip()),
            Self::DestinationPorts(from, before) => {
                (u32::from(*from)..*before).contains(&u32::from(peer.destination.port()))
            }
            Self::ServerName(name) => name.matches(peer.server_name),
        }
    }
}

impl Principal {
    fn matches(&self, peer: &Peer<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::All(all) => all.iter().all(|one| one.matches(peer)),
            Self::OneOf(some) => some.iter().any(|one| one.matches(peer)),
            Self::Not(other) => !other.matches(peer),
            Self::DirectRemoteIp(range) => range.contains(peer.direct_remote),
            Self::RemoteIp(range) => range.contains(peer.remote),
            Self::PeerCertificate => false,
        }
    }
}

impl StringMatch {
    /// Does the text pass?
    pub fn matches(&self, text: &str) -> bool {
        let fold = |text: &str| if self.ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let text = fold(text);
        match &self.test {
            StringTest::Exact(other) => text == fold(other),
            StringTest::Prefix(other) => text.starts_with(&fold(other)),
            StringTest::Suffix(other) => text.ends_with(&fold(other)),
            StringTest::Contains(other) => text.contains(&fold(other)),
            StringTest::Present => !text.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(remote: &str, server_name: &'static str) -> Peer<'static> {
        let remote = remote.parse().unwrap();
        Peer { destination: "10.0.0.1:15443".parse().unwrap(), direct_remote: remote, remote, server_name }
    }

    fn rules(action: Action, permission: Permission, principal: Principal) -> Rbac {
        let policy = Policy { name: "p".into(), permissions: vec![permission], principals: vec![principal] };
        Rbac { action, policies: vec![policy] }
    }

    #[test]
    fn allow_lets_through_what_matches_and_deny_what_does_not() {
        let inside = Principal::RemoteIp(Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap());
        let allow = rules(Action::Allow, Permission::Any, inside.clone());
        assert!(allow.allows(&peer("10.1.1.1", "a")) && !allow.allows(&peer("11.1.1.1", "a")));
        let deny = rules(Action::Deny, Permission::Any, inside);
        assert!(!deny.allows(&peer("10.1.1.1", "a")) && deny.allows(&peer("11.1.1.1", "a")));
    }

    #[test]
    fn a_certificate_is_never_known_and_its_absence_is() {
        let allow = rules(Action::Allow, Permission::Any, Principal::PeerCertificate);
        assert!(!allow.allows(&peer("10.1.1.1", "a")));
        let not = Principal::Not(Box::new(Principal::PeerCertificate));
        assert!(!rules(Action::Deny, Permission::Any, not).allows(&peer("10.1.1.1", "a")));
    }

    #[test]
    fn no_policies_match_nothing() {
        let none = |action| Rbac { action, policies: Vec::new() };
        assert!(!none(Action::Allow).allows(&peer("10.1.1.1", "a")));
        assert!(none(Action::Deny).allows(&peer("10.1.1.1", "a")));
    }

    #[test]
    fn permissions_combine() {
        let name = |test| Permission::ServerName(StringMatch { ignore_case: true, test });
        let both = Permission::All(vec![
            Permission::DestinationPorts(15443, 15444),
            Permission::OneOf(vec![
                name(StringTest::Suffix(".GLOBAL".into())),
                name(StringTest::Exact("x".into())),
            ]),
            Permission::Not(Box::new(name(StringTest::Prefix("secret".into())))),
        ]);
        let allow = rules(Action::Allow, both, Principal::Any);
        assert!(allow.allows(&peer("1.1.1.1", "a.global")) && allow.allows(&peer("1.1.1.1", "x")));
        assert!(!allow.allows(&peer("1.1.1.1", "secret.global")) && !allow.allows(&peer("1.1.1.1", "y")));
    }
}
