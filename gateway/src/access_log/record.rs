//! What is known of a connection, and when it is written.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use eastgate_config::cluster::Cluster;
use eastgate_config::locality::Locality;
use eastgate_config::server_name::ServerName;
use serde::Serialize;

use super::AccessLog;
use crate::attempt::Attempt;
use crate::client_hello::RandomPrefix;
use crate::metrics::{Flag, Usage};

/// What a connection's line says. Field names are the line's keys.
#[derive(Debug, Serialize)]
pub struct Record {
    /// When the connection was accepted.
    #[serde(serialize_with = "timestamp")]
    pub start: SystemTime,
    #[serde(skip)]
    pub(super) began: Instant,
    /// It is counted by its server name, once that is known to be listed.
    #[serde(skip)]
    pub listed: bool,
    /// Where it is counted, once it is led to a cluster.
    #[serde(skip)]
    pub(super) usage: Option<Arc<Usage>>,
    /// What only some formats want.
    #[serde(skip)]
    pub extra: Option<Box<Extra>>,
    /// How long it was open.
    pub duration_ms: u64,
    /// From accept to the end of the ClientHello.
    #[serde(rename = "hello_ms", serialize_with = "milliseconds")]
    pub hello: Micros,
    /// From accept to a connected endpoint.
    #[serde(rename = "connect_ms", serialize_with = "milliseconds")]
    pub connect: Micros,
    /// The listener's name.
    pub listener: Arc<str>,
    /// Who connected.
    pub client_addr: SocketAddr,
    /// What a load balancer before the gateway says of the connection beside addresses (PROXY protocol version 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxied: Option<Box<str>>,
    /// The name that was sent, in canonical form: it holds no byte that could forge a line.
    pub server_name: Option<ServerName>,
    /// The beginning of the ClientHello's random bytes, which are the same at every hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_random: Option<RandomPrefix>,
    /// The version of the table that it was routed by.
    pub table: u64,
    /// The name it was routed by, where a rewrite made it.
    pub rewritten: Option<String>,
    /// The filter chain.
    pub route: Option<Arc<str>>,
    /// The cluster.
    #[serde(serialize_with = "name")]
    pub cluster: Option<Arc<Cluster>>,
    /// The endpoint that was connected, or the last one that was tried.
    pub endpoint: Option<SocketAddr>,
    /// Where that endpoint stands.
    #[serde(serialize_with = "place")]
    pub locality: Option<Arc<Locality>>,
    /// Who is at the other end of the gateway's own TLS session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Bytes from the client.
    pub to_upstream_bytes: u64,
    /// Bytes to the client.
    pub to_client_bytes: u64,
    /// Connection attempts.
    pub attempts: u32,
    /// What moved the bytes.
    pub engine: &'static str,
    /// How it ended.
    pub flag: Flag,
    /// Why it ended, where that was not ordinary.
    pub error: Option<Cow<'static, str>>,
}

impl Record {
    /// What the connection is known by as an example for a histogram, where it began with a ClientHello.
    pub fn example(&self) -> Option<(u64, SystemTime)> {
        Some((self.client_random?.number(), self.start))
    }

    /// How long after the connection's beginning this was.
    pub fn after(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.began)
    }
}

/// What only some formats want of a connection, and most need not pay for.
#[derive(Debug)]
pub struct Extra {
    /// Counts the connections of the process.
    pub id: u64,
    /// Where the client came to, by the PROXY protocol header if there was one.
    pub local: Option<SocketAddr>,
    /// Who connected, whatever a PROXY protocol header says.
    pub direct_client: SocketAddr,
    /// Where the gateway's own connection to the endpoint comes from.
    pub upstream_local: Option<SocketAddr>,
    /// What became of each attempt to connect.
    pub attempts: Box<[Attempt]>,
}

/// A time in microseconds, of which a connection has several; 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Micros(u32);

impl From<Duration> for Micros {
    /// More than there is room for, over an hour, is as much as there is.
    fn from(time: Duration) -> Self {
        Self(u32::try_from(time.as_micros()).unwrap_or(u32::MAX).max(1))
    }
}

impl Micros {
    /// The time, if there was one.
    pub fn get(self) -> Option<Duration> {
        (self.0 > 0).then(|| Duration::from_micros(self.0.into()))
    }

    fn milliseconds(self) -> Option<f64> {
        (self.0 > 0).then(|| f64::from(self.0) / 1000.0)
    }
}

fn timestamp<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&rfc3339(*time))
}

fn name<S: serde::Serializer>(cluster: &Option<Arc<Cluster>>, serializer: S) -> Result<S::Ok, S::Error> {
    cluster.as_ref().map(|cluster| &cluster.name).serialize(serializer)
}

fn place<S: serde::Serializer>(locality: &Option<Arc<Locality>>, serializer: S) -> Result<S::Ok, S::Error> {
    let known = locality.as_ref().filter(|locality| ***locality != Locality::default());
    known.map(|locality| locality.to_string()).serialize(serializer)
}

fn milliseconds<S: serde::Serializer>(time: &Micros, serializer: S) -> Result<S::Ok, S::Error> {
    time.milliseconds().serialize(serializer)
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "-".into(), |time| format!("{time:.3}"))
}

/// The record of an open connection; written when it is dropped, whatever ended the connection.
#[derive(Debug)]
pub struct Open {
    pub(super) record: Option<Box<Record>>,
    pub(super) log: AccessLog,
}

impl Open {
    /// Notes how the connection ended: in the ordinary way, or with a flag and an error, which is told only if somebody
    /// will read it.
    pub fn close(&mut self, end: Option<(Flag, impl FnOnce() -> String)>) {
        let logged = self.log.is_on();
        (self.flag, self.error) = match end {
            None => (Flag::Ordinary, None),
            Some((flag, explain)) => (flag, logged.then(|| explain().into())),
        };
    }

    /// Counts the connection, and at last its end, among those that were led to a cluster.
    pub fn count(&mut self, usage: &Arc<Usage>) {
        usage.open();
        self.usage = Some(Arc::clone(usage));
    }

    /// What only some formats want, where one does.
    pub fn extra(&mut self) -> Option<&mut Extra> {
        self.extra.as_deref_mut()
    }

    /// Writes nothing: another process goes on with it.
    pub fn forget(mut self) {
        self.record = None;
    }

    /// How long the connection has been open.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }
}

impl std::ops::Deref for Open {
    type Target = Record;

    #[allow(clippy::expect_used, reason = "only drop takes the record out")]
    fn deref(&self) -> &Record {
        self.record.as_ref().expect("the record is there until drop")
    }
}

impl std::ops::DerefMut for Open {
    #[allow(clippy::expect_used, reason = "only drop takes the record out")]
    fn deref_mut(&mut self) -> &mut Record {
        self.record.as_mut().expect("the record is there until drop")
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            if let Some(usage) = &record.usage {
                usage.close(record.flag);
            }
            record.duration_ms = record.began.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
            self.log.push(record);
        }
    }
}
