//! Workload identities ([SPIFFE](https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md)), and the patterns by
//! which peers are let in.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Every identity begins with it.
const SCHEME: &str = "spiffe://";

/// Who a workload is: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`, the form that Istio's CA issues.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// Without the scheme.
    principal: String,
}

/// Why a text is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no workload identity; write spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT")]
pub struct NotAnId(String);

impl SpiffeId {
    /// The identity of a service account.
    ///
    /// # Errors
    /// A part is empty or holds a slash.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, NotAnId> {
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// As Istio's `AuthorizationPolicy` writes it: without the scheme.
    pub fn principal(&self) -> &str {
        &self.principal
    }
}

impl FromStr for SpiffeId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let wrong = || NotAnId(text.to_owned());
        let principal = text.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let parts: Vec<&str> = principal.split('/').collect();
        let is_plain = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
            !part.is_empty() && part.chars().all(plain)
        };
        match parts.as_slice() {
            [domain, "ns", namespace, "sa", account]
                if [domain, namespace, account].into_iter().all(|part| is_plain(part)) =>
            {
                Ok(Self { principal: principal.to_owned() })
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.principal)
    }
}

/// Some identities, written as in `AuthorizationPolicy.source.principals`
/// (<https://istio.io/latest/docs/reference/config/security/authorization-policy/#Source>): one in full, `*` for all, or
/// a `*` at the beginning or the end. The scheme may stand before it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IdPattern {
    /// Every identity.
    Any,
    /// This one.
    Exact(String),
    /// Those that begin so.
    Prefix(String),
    /// Those that end so.
    Suffix(String),
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no pattern of identities; write cluster.local/ns/bar/sa/httpbin, cluster.local/ns/bar/*, */sa/httpbin or *"
)]
pub struct NotAPattern(String);

impl IdPattern {
    /// Is it one of those?
    pub fn matches(&self, id: &SpiffeId) -> bool {
        let principal = id.principal();
        match self {
            Self::Any => true,
            Self::Exact(whole) => principal == whole,
            Self::Prefix(start) => principal.starts_with(start.as_str()),
            Self::Suffix(end) => principal.ends_with(end.as_str()),
        }
    }
}

impl FromStr for IdPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        let bare = text.strip_prefix(SCHEME).unwrap_or(text);
        let pattern = match (bare, bare.strip_prefix('*'), bare.strip_suffix('*')) {
            ("*", ..) => return Ok(Self::Any),
            (_, Some(end), _) => Self::Suffix(end.to_owned()),
            (_, _, Some(start)) => Self::Prefix(start.to_owned()),
            _ => Self::Exact(bare.to_owned()),
        };
        let (Self::Exact(rest) | Self::Prefix(rest) | Self::Suffix(rest)) = &pattern else {
            return Ok(pattern);
        };
        let is_whole =
            !matches!(pattern, Self::Exact(_)) || format!("{SCHEME}{rest}").parse::<SpiffeId>().is_ok();
        let is_bad = rest.is_empty() || rest.contains('*') || rest.contains(char::is_whitespace) || !is_whole;
        if is_bad { Err(NotAPattern(text.to_owned())) } else { Ok(pattern) }
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(whole) => f.write_str(whole),
            Self::Prefix(start) => write!(f, "{start}*"),
            Self::Suffix(end) => write!(f, "*{end}"),
        }
    }
}

impl Serialize for IdPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for IdPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_a_domain_a_namespace_and_an_account() {
        let id: SpiffeId = "spiffe://cluster.local/ns/bar/sa/httpbin".parse().unwrap();
        assert_eq!(id.principal(), "cluster.local/ns/bar/sa/httpbin");
        assert_eq!(SpiffeId::new("cluster.local", "bar", "httpbin").unwrap(), id);
        for text in [
            "",
            "spiffe://",
            "https://a/ns/b/sa/c",
            "spiffe://a/ns/b/sa/",
            "spiffe:///ns/b/sa/c",
            "spiffe://a/ns/b/sa/c/d",
            "spiffe://a/sa/b/ns/c",
            "spiffe://a/ns/b c/sa/d",
            "spiffe://a/ns/../sa/é",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn patterns_match_as_in_an_authorization_policy() {
        let id: SpiffeId = "spiffe://cluster.local/ns/bar/sa/httpbin".parse().unwrap();
        let matches = |text: &str| text.parse::<IdPattern>().unwrap().matches(&id);
        for text in [
            "*",
            "cluster.local/ns/bar/sa/httpbin",
            "spiffe://cluster.local/ns/bar/sa/httpbin",
            "cluster.local/ns/bar/*",
            "spiffe://cluster.local/*",
            "*/sa/httpbin",
            "*bin",
        ] {
            assert!(matches(text), "{text}");
        }
        for text in ["cluster.local/ns/bar/sa/http", "cluster.local/ns/foo/*", "*/sa/sleep", "cluster.loca/*"]
        {
            assert!(!matches(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_and_a_pattern_reads_back() {
        for text in ["", "httpbin", "a*b", "**", "*a*", "spiffe://", "cluster.local/ns/a b/*"] {
            assert!(text.parse::<IdPattern>().is_err(), "{text:?}");
        }
        for text in ["*", "a/ns/b/sa/c", "a/*", "*/c"] {
            assert_eq!(text.parse::<IdPattern>().unwrap().to_string(), text);
        }
    }
}
