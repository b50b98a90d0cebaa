//! Settings of the admin port.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Error, empty_is_none};

/// The admin addresses, and who may use them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Admin {
    pub address: AdminAddress,
    #[serde(deserialize_with = "empty_is_none")]
    pub tls_cert_path: Option<PathBuf>,
    #[serde(deserialize_with = "empty_is_none")]
    pub tls_key_path: Option<PathBuf>,
    #[serde(deserialize_with = "empty_is_none")]
    pub token_path: Option<PathBuf>,
    pub insecure: bool,
    #[serde(deserialize_with = "empty_is_none")]
    pub readiness_address: Option<SocketAddr>,
    #[serde(deserialize_with = "empty_is_none")]
    pub metrics_address: Option<SocketAddr>,
}

/// Where the admin port is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A Unix socket that its owner alone may open: `unix:/PATH`.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => {
                Err(format!("{text:?} names no socket by its whole path, such as unix:/run/eastgate/admin"))
            }
            None => text.parse().map(Self::Tcp).map_err(|_| {
                format!("{text:?} is no address; give IP:PORT, such as 127.0.0.1:15000, or unix:/PATH")
            }),
        }
    }
}

impl Serialize for AdminAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AdminAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: AdminAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 15000))),
            tls_cert_path: None,
            tls_key_path: None,
            token_path: None,
            insecure: false,
            readiness_address: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15021))),
            metrics_address: None,
        }
    }
}

impl Admin {
    pub(super) fn validate(&self) -> Result<(), Error> {
        match (&self.tls_cert_path, &self.tls_key_path) {
            (Some(_), None) => Err(Error::Value {
                key: "admin.tls_key_path".into(),
                reason: "give the key of admin.tls_cert_path".into(),
            }),
            (None, Some(_)) => Err(Error::Value {
                key: "admin.tls_cert_path".into(),
                reason: "give the certificate of admin.tls_key_path".into(),
            }),
            _ => Ok(()),
        }
    }
}
