//! Server names: the SNI value of a ClientHello, and the patterns that filter chains match it with.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The longest name that OpenSSL and BoringSSL send or accept (`TLSEXT_MAXLEN_host_name`), in bytes.
pub const MAX_NAME: usize = 255;
/// The longest label of a DNS name ([RFC 1035 §2.3.4](https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4)).
pub const MAX_LABEL: usize = 63;

/// A server name in its one canonical form: lower case, no trailing dot, only letters, digits, `-`, `_`, `|` and
/// dots between labels of 1 to 63 bytes, 255 bytes in all.
///
/// `_` and `|` are no host name characters, but Istio's own names hold them: `outbound_.8000_._.httpbin.bar.global`
/// and, where a client has no SNI configured, `outbound|8000||httpbin.bar.svc.cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ServerName(Box<str>);

/// Why bytes are no server name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No bytes, or nothing but a dot.
    #[error("the name is empty")]
    Empty,
    /// More than [`MAX_NAME`] bytes.
    #[error("the name is longer than 255 bytes")]
    TooLong,
    /// Two dots in a row, or a dot at the start.
    #[error("the name has an empty label")]
    EmptyLabel,
    /// A label of more than [`MAX_LABEL`] bytes.
    #[error("the name has a label longer than 63 bytes")]
    LabelTooLong,
    /// An IPv4 or IPv6 address, which [RFC 6066 §3](https://www.rfc-editor.org/rfc/rfc6066#section-3) forbids.
    #[error("the name is an IP address")]
    IpLiteral,
    /// A NUL, control or non-ASCII byte, a space, or punctuation that no mesh name has.
    #[error("the name has the byte 0x{0:02x}, which no server name may have")]
    BadByte(u8),
}

impl ServerName {
    /// Canonicalises the bytes of an SNI `host_name`.
    ///
    /// # Errors
    /// Says which rule the bytes break; nothing is repaired but case and one trailing dot, because a name that two
    /// parsers could read in two ways must not be routed at all.
    pub fn from_sni(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_NAME {
            return Err(Error::TooLong);
        }
        let name = bytes.strip_suffix(b".").unwrap_or(bytes);
        if name.is_empty() {
            return Err(Error::Empty);
        }
        let text = std::str::from_utf8(name).map_err(|error| Error::BadByte(name[error.valid_up_to()]))?;
        if text.parse::<IpAddr>().is_ok() {
            return Err(Error::IpLiteral);
        }
        if let Some(bad) = name.iter().find(|byte| !is_name_byte(**byte)) {
            return Err(Error::BadByte(*bad));
        }
        for label in text.split('.') {
            match label.len() {
                0 => return Err(Error::EmptyLabel),
                1..=MAX_LABEL => {}
                _ => return Err(Error::LabelTooLong),
            }
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host inside a mesh name (`httpbin.bar.global` in `outbound_.8000_._.httpbin.bar.global`), or the whole
    /// name where it is not of that form.
    pub fn host(&self) -> &str {
        SubsetKey::parse(&self.0).map_or(&self.0, |key| key.host)
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'|' | b'.')
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for ServerName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::from_sni(text.as_bytes())
    }
}

impl<'de> Deserialize<'de> for ServerName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The parts of Istio's SNI form of a cluster name: `outbound_.PORT_.SUBSET_.HOST`
/// (`BuildDNSSrvSubsetKey` and `ParseSubsetKey` in `pilot/pkg/model/service.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubsetKey<'a> {
    /// The service port.
    pub port: u16,
    /// The DestinationRule subset; empty for the whole service.
    pub subset: &'a str,
    /// The service's host.
    pub host: &'a str,
}

impl<'a> SubsetKey<'a> {
    /// Takes a name apart, or gives `None` where it is not of this form. The host may itself contain `_.`.
    pub fn parse(name: &'a str) -> Option<Self> {
        let rest = name.strip_prefix("outbound_.")?;
        let (port, rest) = rest.split_once("_.")?;
        let (subset, host) = rest.split_once("_.")?;
        Some(Self { port: port.parse().ok()?, subset, host })
    }
}

impl fmt::Display for SubsetKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outbound_.{}_.{}_.{}", self.port, self.subset, self.host)
    }
}

/// What a filter chain or a Gateway server matches a name with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// Just this name.
    Exact(ServerName),
    /// Every name that ends in a dot and this one: whole labels, one or more. Written `*.global`.
    Suffix(ServerName),
    /// Every name. Written `*`.
    Any,
}

impl Pattern {
    /// Does the name match?
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == exact.as_str(),
            Self::Suffix(suffix) => {
                name.strip_suffix(suffix.as_str()).is_some_and(|head| head.len() > 1 && head.ends_with('.'))
            }
            Self::Any => true,
        }
    }

    /// Does every name that `other` matches match this one, too?
    pub fn covers(&self, other: &Self) -> bool {
        match other {
            Self::Exact(name) => self.matches(name.as_str()),
            Self::Suffix(suffix) => {
                matches!(self, Self::Any)
                    || self == other
                    || matches!(self, Self::Suffix(_)) && self.matches(suffix.as_str())
            }
            Self::Any => matches!(self, Self::Any),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Suffix(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl std::str::FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.strip_prefix('*') {
            None => text.parse().map(Self::Exact),
            Some("") => Ok(Self::Any),
            Some(rest) => match rest.strip_prefix('.') {
                Some(suffix) => suffix.parse().map(Self::Suffix),
                None => Err(Error::BadByte(b'*')),
            },
        }
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Result<String, Error> {
        ServerName::from_sni(text.as_bytes()).map(|name| name.to_string())
    }

    #[test]
    fn case_and_one_trailing_dot_are_all_that_is_repaired() {
        assert_eq!(name("GOOD.Example."), Ok("good.example".into()));
        assert_eq!(name("good.example.."), Err(Error::EmptyLabel));
        assert_eq!(
            name("outbound_.8000_._.httpbin.bar.global"),
            Ok("outbound_.8000_._.httpbin.bar.global".into())
        );
        assert_eq!(name("outbound|8000||a.b"), Ok("outbound|8000||a.b".into()));
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_no_name() {
        assert_eq!(name(""), Err(Error::Empty));
        assert_eq!(name("."), Err(Error::Empty));
        assert_eq!(name(".good.example"), Err(Error::EmptyLabel));
        assert_eq!(name("x..y"), Err(Error::EmptyLabel));
        assert_eq!(name("127.0.0.1"), Err(Error::IpLiteral));
        assert_eq!(name("::1"), Err(Error::IpLiteral));
        assert_eq!(name("good.example\0.evil"), Err(Error::BadByte(0)));
        assert_eq!(name("good example"), Err(Error::BadByte(b' ')));
        assert_eq!(name("good.example:443"), Err(Error::BadByte(b':')));
        assert_eq!(name("*.wild.example"), Err(Error::BadByte(b'*')));
        assert_eq!(name("é.example"), Err(Error::BadByte(0xc3)));
        assert_eq!(ServerName::from_sni(b"\xff.example"), Err(Error::BadByte(0xff)));
        assert_eq!(name(&"a".repeat(64)), Err(Error::LabelTooLong));
        assert_eq!(name(&"a.".repeat(128)), Err(Error::TooLong));
        assert!(name(&format!("{}a", "a.".repeat(127))).is_ok());
    }

    #[test]
    fn a_subset_key_keeps_port_subset_and_host() {
        let key = SubsetKey::parse("outbound_.8000_.v1_.httpbin.bar.global");
        assert_eq!(key, Some(SubsetKey { port: 8000, subset: "v1", host: "httpbin.bar.global" }));
        let key = SubsetKey::parse("outbound_.80_._.a_.b");
        assert_eq!(key, Some(SubsetKey { port: 80, subset: "", host: "a_.b" }));
        assert_eq!(key.map(|key| key.to_string()), Some("outbound_.80_._.a_.b".into()));
        assert_eq!(SubsetKey::parse("httpbin.bar.global"), None);
        assert_eq!(SubsetKey::parse("outbound_.x_._.a"), None);
    }

    #[test]
    fn a_wildcard_stands_for_whole_labels() {
        let pattern: Pattern = "*.global".parse().unwrap();
        assert!(pattern.matches("httpbin.bar.global"));
        assert!(pattern.matches("x.global"));
        assert!(!pattern.matches("global"));
        assert!(!pattern.matches("xglobal"));
        assert!(!pattern.matches(".global"));
        assert_eq!("*foo".parse::<Pattern>(), Err(Error::BadByte(b'*')));
        assert_eq!("a.*.b".parse::<Pattern>(), Err(Error::BadByte(b'*')));
    }

    #[test]
    fn covering_is_matching_every_name_of_the_other() {
        let covers = |a: &str, b: &str| a.parse::<Pattern>().unwrap().covers(&b.parse().unwrap());
        assert!(covers("*", "*.global") && covers("*", "*") && covers("*", "a.b"));
        assert!(
            covers("*.global", "*.bar.global")
                && covers("*.global", "*.global")
                && covers("*.global", "a.global")
        );
        assert!(
            !covers("*.bar.global", "*.global")
                && !covers("a.global", "*.global")
                && !covers("*.global", "*")
        );
    }
}
