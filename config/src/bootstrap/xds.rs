//! Settings of the xDS source: which control planes, how they are reached, and what is believed of them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Error, empty_is_none};
use crate::duration;

/// Where istiod serves TLS.
const TLS_PORT: u16 = 15012;
/// Where istiod serves plaintext.
const PLAINTEXT_PORT: u16 = 15010;

/// The xDS source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Xds {
    #[serde(deserialize_with = "one_or_many")]
    pub addresses: Vec<Address>,
    pub variant: Variant,
    #[serde(deserialize_with = "empty_is_none")]
    pub token_path: Option<PathBuf>,
    #[serde(deserialize_with = "one_or_many")]
    pub root_paths: Vec<PathBuf>,
    #[serde(deserialize_with = "empty_is_none")]
    pub server_name: Option<String>,
    #[serde(deserialize_with = "empty_is_none")]
    pub certificate_path: Option<PathBuf>,
    #[serde(deserialize_with = "empty_is_none")]
    pub key_path: Option<PathBuf>,
    pub csr: bool,
    #[serde(deserialize_with = "empty_is_none")]
    pub ca_address: Option<Address>,
    #[serde(with = "duration::text")]
    pub certificate_lifetime: Duration,
    #[serde(deserialize_with = "empty_is_none")]
    pub state_dir: Option<PathBuf>,
    #[serde(with = "duration::text")]
    pub init_timeout: Duration,
    #[serde(with = "duration::text")]
    pub response_timeout: Duration,
    #[serde(with = "duration::text")]
    pub coalesce: Duration,
    pub guard: Guard,
    pub max_message_bytes: usize,
}

impl Default for Xds {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            variant: Variant::Delta,
            token_path: Some("/var/run/secrets/tokens/istio-token".into()),
            root_paths: ["/var/run/secrets/istio/root-cert.pem", "/etc/certs/root-cert.pem"]
                .map(Into::into)
                .into(),
            server_name: None,
            certificate_path: None,
            key_path: None,
            csr: false,
            ca_address: None,
            certificate_lifetime: Duration::from_hours(24),
            state_dir: None,
            init_timeout: Duration::from_secs(15),
            response_timeout: Duration::from_secs(30),
            coalesce: Duration::from_millis(100),
            guard: Guard::default(),
            max_message_bytes: 256 << 20,
        }
    }
}

/// Which of the two ADS methods is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Only what changed is sent.
    Delta,
    /// State of the world.
    Sotw,
}

impl From<Variant> for crate::xds::Variant {
    fn from(variant: Variant) -> Self {
        match variant {
            Variant::Delta => Self::Delta,
            Variant::Sotw => Self::Sotw,
        }
    }
}

/// What is done about an update that takes away suspiciously much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Guard {
    pub action: GuardAction,
    pub max_removed_percent: u32,
    pub min_removed: usize,
    #[serde(with = "duration::text")]
    pub hold_for: Duration,
}

impl Default for Guard {
    fn default() -> Self {
        let crate::xds::Guard { max_removed_percent, min_removed, .. } = crate::xds::Guard::default();
        Self { action: GuardAction::Warn, max_removed_percent, min_removed, hold_for: Duration::from_mins(5) }
    }
}

/// The guard's possible actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardAction {
    /// Nothing.
    Off,
    /// An alarm.
    Warn,
    /// An alarm, and what would go is kept for `hold_for`.
    Hold,
}

impl Xds {
    /// These settings as the conversation takes them.
    pub fn options(&self) -> crate::xds::Options {
        let action = match self.guard.action {
            GuardAction::Off => crate::xds::GuardAction::Off,
            GuardAction::Warn => crate::xds::GuardAction::Warn,
            GuardAction::Hold => crate::xds::GuardAction::Hold(self.guard.hold_for),
        };
        crate::xds::Options {
            init_timeout: self.init_timeout,
            guard: crate::xds::Guard {
                action,
                max_removed_percent: self.guard.max_removed_percent,
                min_removed: self.guard.min_removed,
            },
            ..crate::xds::Options::default()
        }
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        let wrong = |key: &str, reason: &str| Err(Error::Value { key: key.into(), reason: reason.into() });
        if self.certificate_path.is_some() != self.key_path.is_some() {
            return wrong("xds.certificate_path", "a certificate and its xds.key_path are given together");
        }
        if self.csr && self.certificate_path.is_some() {
            return wrong(
                "xds.csr",
                "there is a certificate already: take away xds.certificate_path or xds.csr",
            );
        }
        if self.csr && self.addresses.is_empty() {
            return wrong("xds.csr", "a certificate is for control planes, and xds.addresses has none");
        }
        if self.guard.max_removed_percent > 100 {
            return wrong("xds.guard.max_removed_percent", "give a number from 0 to 100");
        }
        if self.max_message_bytes == 0 {
            return wrong("xds.max_message_bytes", "give a number above 0, such as 268435456");
        }
        for (key, duration) in [
            ("xds.init_timeout", self.init_timeout),
            ("xds.response_timeout", self.response_timeout),
            ("xds.certificate_lifetime", self.certificate_lifetime),
        ] {
            if duration.is_zero() {
                return wrong(key, "give a duration above 0, such as 15s");
            }
        }
        Ok(())
    }
}

/// Where a control plane is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// Over TCP.
    Tcp {
        /// A name or an address; IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
        /// TLS or plaintext.
        tls: bool,
    },
    /// A Unix socket, in plaintext: what speaks there is on this machine.
    Unix(PathBuf),
}

impl Address {
    /// May a secret be sent there?
    pub fn is_private(&self) -> bool {
        !matches!(self, Self::Tcp { tls: false, .. })
    }
}

/// Why a text is no address of a control plane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no control plane; write HOST:PORT, http://HOST:PORT or unix:/PATH")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        let (rest, tls) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (rest, Some(false)),
            (_, Some(rest)) => (rest, Some(true)),
            (None, None) => (text, None),
        };
        let (host, port) = split_port(rest.trim_end_matches('/')).ok_or_else(wrong)?;
        let named = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        let is_host =
            !host.is_empty() && (host.chars().all(named) || host.parse::<std::net::Ipv6Addr>().is_ok());
        if !is_host {
            return Err(wrong());
        }
        let tls = tls.unwrap_or(port != Some(PLAINTEXT_PORT));
        let port = port.unwrap_or(if tls { TLS_PORT } else { PLAINTEXT_PORT });
        Ok(Self::Tcp { host: host.into(), port, tls })
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`; none where the port is no number.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port.parse().ok()?))),
            None if rest.is_empty() => Some((host, None)),
            None => None,
        };
    }
    match text.rsplit_once(':') {
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((text, None)),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port, tls } => {
                let scheme = match (tls, *port) {
                    (false, _) => "http://",
                    (true, PLAINTEXT_PORT) => "https://",
                    (true, _) => "",
                };
                if host.contains(':') {
                    write!(f, "{scheme}[{host}]:{port}")
                } else {
                    write!(f, "{scheme}{host}:{port}")
                }
            }
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A list, or its members in one text with commas between them, as environment variables have it.
pub(super) fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        One(String),
        Many(Vec<String>),
    }
    let texts = match Option::<Given>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Given::One(text)) => text.split(',').map(|part| part.trim().to_owned()).collect(),
        Some(Given::Many(texts)) => texts,
    };
    let texts = texts.into_iter().filter(|text| !text.is_empty());
    texts.map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Layers;
    use super::*;

    fn parsed(text: &str) -> Option<(String, u16, bool)> {
        match text.parse().ok()? {
            Address::Tcp { host, port, tls } => Some((host, port, tls)),
            Address::Unix(path) => Some((path.display().to_string(), 0, true)),
        }
    }

    #[test]
    fn the_port_says_whether_there_is_tls_unless_a_scheme_does() {
        let tcp = |host: &str, port, tls| Some((host.to_owned(), port, tls));
        assert_eq!(parsed("istiod.istio-system.svc:15012"), tcp("istiod.istio-system.svc", 15012, true));
        assert_eq!(parsed("istiod:15010"), tcp("istiod", 15010, false));
        assert_eq!(parsed("https://istiod:15010"), tcp("istiod", 15010, true));
        assert_eq!(parsed("http://127.0.0.1:7000/"), tcp("127.0.0.1", 7000, false));
        assert_eq!(parsed("istiod"), tcp("istiod", 15012, true));
        assert_eq!(parsed("[::1]:443"), tcp("::1", 443, true));
        assert_eq!(parsed("unix:/etc/istio/proxy/XDS"), tcp("/etc/istio/proxy/XDS", 0, true));
        assert_eq!(parsed("unix:///run/x"), tcp("/run/x", 0, true));
        for wrong in ["", "unix:", "a:b", "a:70000", "http://", "a b:1", "::1:443x", "[::1]x", "a/b:1"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_address_is_printed_as_it_is_read() {
        for text in ["istiod:15012", "http://istiod:15010", "https://a:15010", "[::1]:15012", "unix:/x/y"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn secrets_go_nowhere_in_plaintext_but_a_socket_of_this_machine() {
        let private = |text: &str| text.parse::<Address>().unwrap().is_private();
        assert!(private("istiod:15012") && private("unix:/x") && !private("istiod:15010"));
    }

    fn with(file: &str) -> Result<Xds, String> {
        let settings = Layers::new().file(file).and_then(Layers::settings);
        settings.map(|settings| settings.xds).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_are_a_list_or_one_text_with_commas() {
        let list = with("xds: {addresses: ['a:15012', 'http://b:1']}").unwrap();
        let variable = [("EASTGATE_XDS_ADDRESSES".to_owned(), "a:15012, http://b:1".to_owned())];
        let variable = Layers::new().environment(variable).and_then(Layers::settings).unwrap().xds;
        assert_eq!(list, variable);
        assert_eq!(list.addresses.len(), 2);
        assert!(with("xds: {addresses: ['a:b']}").unwrap_err().contains("is no control plane"));
    }

    #[test]
    fn there_is_one_source_and_the_error_names_those_given() {
        let both = "source: {mesh_dir: /x}\nxds: {addresses: [a]}";
        let error = with(both).unwrap_err();
        assert!(
            error.contains("--mesh-dir") && error.contains("--xds)") && !error.contains("--xds-file"),
            "{error}"
        );
    }

    #[test]
    fn a_certificate_comes_with_its_key_and_from_one_place() {
        assert!(with("xds: {certificate_path: /x}").unwrap_err().contains("key_path"));
        assert!(with("xds: {addresses: [a], csr: true, certificate_path: /x, key_path: /y}").is_err());
        assert!(with("xds: {csr: true}").unwrap_err().contains("xds.addresses"));
        assert!(
            with("xds: {guard: {action: hold, hold_for: 10s}}").unwrap().options().guard.action
                == crate::xds::GuardAction::Hold(Duration::from_secs(10))
        );
    }
}
