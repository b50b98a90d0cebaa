//! Records as lines: JSON, or text by a format string.

use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;

use eastgate_config::bootstrap::{self, Format};
use eastgate_config::log_format::{self, Line, Operator, Part, Piece};

use super::Record;
use super::record::rfc3339;
use crate::metrics::Flag;

/// `access_log.format: text`: in the order of Istio's default, as far as the values exist here.
const TEXT: &str = "[%START_TIME%] %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %UPSTREAM_HOST% \
    %UPSTREAM_CLUSTER% %LISTENER_NAME% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %FILTER_CHAIN_NAME% \"%ERROR%\"";

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its file.
    #[error("access_log.path: cannot open {path}")]
    Open {
        /// As it is set.
        path: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A format string.
    #[error("{key}: {source}")]
    Format {
        /// The setting.
        key: String,
        /// What is wrong with it.
        source: log_format::Error,
    },
    /// What `%START_TIME(...)%` is to look like.
    #[error("%START_TIME({0})%: that is no format of strftime: {1}")]
    Time(String, jiff::Error),
}

/// What lines look like.
#[derive(Debug)]
pub struct Shape {
    kind: Kind,
    hostname: String,
}

#[derive(Debug)]
enum Kind {
    /// Every field of the record.
    Json,
    Text(Line),
    /// An object with these keys.
    Fields(Vec<(String, Line)>),
}

impl Shape {
    /// As the settings say.
    ///
    /// # Errors
    /// A format string is none.
    pub fn new(settings: &bootstrap::AccessLog) -> Result<Self, Error> {
        let line = |key: &str, text: &str| {
            let line = Line::parse(text)
                .map_err(|source| Error::Format { key: format!("access_log.{key}"), source })?;
            checked(line)
        };
        let kind = match (settings.format_string.as_str(), settings.format) {
            ("", _) if !settings.fields.is_empty() => {
                let fields = settings.fields.iter();
                let fields =
                    fields.map(|(key, text)| Ok((key.clone(), line(&format!("fields.{key}"), text)?)));
                Kind::Fields(fields.collect::<Result<_, Error>>()?)
            }
            ("", Format::Json) => Kind::Json,
            ("", Format::Text) => Kind::Text(line("format", TEXT)?),
            (text, _) => Kind::Text(line("format_string", text.trim_end_matches('\n'))?),
        };
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let hostname = hostname.trim().to_owned();
        Ok(Self { kind, hostname })
    }

    /// Is there an operator in it that most connections need not remember anything for?
    pub fn wants_extra(&self) -> bool {
        let wants = |line: &Line| {
            line.operators().any(|operator| {
                matches!(
                    operator,
                    Operator::UpstreamLocal(_)
                        | Operator::DownstreamLocal(_)
                        | Operator::DownstreamDirectRemote(_)
                        | Operator::ConnectionId
                )
            })
        };
        match &self.kind {
            Kind::Json => false,
            Kind::Text(line) => wants(line),
            Kind::Fields(fields) => fields.iter().any(|(_, line)| wants(line)),
        }
    }

    /// Adds the record's line. Nothing that is written to memory fails.
    pub(super) fn line(&self, out: &mut Vec<u8>, record: &Record) {
        match &self.kind {
            Kind::Json => drop(serde_json::to_writer(&mut *out, record)),
            Kind::Text(line) => self.text(out, line, record),
            Kind::Fields(fields) => self.fields(out, fields, record),
        }
        out.push(b'\n');
    }

    fn text(&self, out: &mut Vec<u8>, line: &Line, record: &Record) {
        for part in &line.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Value { operator, limit } => {
                    let begin = out.len();
                    self.value(out, operator, record);
                    cut(out, begin, *limit);
                    // Names of a configuration and errors of others must not be able to begin a line.
                    out[begin..]
                        .iter_mut()
                        .filter(|byte| byte.is_ascii_control())
                        .for_each(|byte| *byte = b'_');
                }
            }
        }
    }

    /// As in Envoy, what is one operator and nothing else has its own type, or none.
    fn fields(&self, out: &mut Vec<u8>, fields: &[(String, Line)], record: &Record) {
        let mut object = serde_json::Map::new();
        for (key, line) in fields {
            let mut text = Vec::new();
            self.text(&mut text, line, record);
            let text = String::from_utf8_lossy(&text).into_owned();
            let value = match (line.0.as_slice(), text.parse::<u64>()) {
                ([Part::Value { .. }], _) if text == "-" => serde_json::Value::Null,
                ([Part::Value { operator, .. }], Ok(number)) if is_number(operator) => number.into(),
                _ => text.into(),
            };
            object.insert(key.clone(), value);
        }
        drop(serde_json::to_writer(out, &object));
    }

    fn value(&self, out: &mut Vec<u8>, operator: &Operator, record: &Record) {
        let failed = |flags: &[Flag]| record.error.as_deref().filter(|_| flags.contains(&record.flag));
        let extra = record.extra.as_deref();
        match operator {
            Operator::StartTime(format) if format.is_empty() => show(out, Some(rfc3339(record.start))),
            Operator::StartTime(format) => {
                let time = jiff::Timestamp::try_from(record.start).ok();
                show(out, time.map(|time| time.strftime(format).to_string()));
            }
            Operator::Duration => show(out, Some(record.duration_ms)),
            Operator::BytesReceived => show(out, Some(record.to_upstream_bytes)),
            Operator::BytesSent => show(out, Some(record.to_client_bytes)),
            Operator::Flags => show(out, Some(record.flag)),
            Operator::FlagsLong => show(out, Some(record.flag.long_name())),
            Operator::Details => show(out, failed(&[Flag::NoRoute]).map(|_| "filter_chain_not_found")),
            Operator::TerminationDetails => {
                let told = [UPSTREAM, CLIENT, &[Flag::NoRoute]].iter().any(|flags| failed(flags).is_some());
                show(out, record.error.as_deref().filter(|_| !told).map(in_one_word));
            }
            Operator::UpstreamFailure => show(out, failed(UPSTREAM).map(in_one_word)),
            Operator::DownstreamFailure => show(out, failed(CLIENT).map(in_one_word)),
            // The one that was tried last, and the one that was connected.
            Operator::Host => show(out, record.endpoint),
            Operator::Upstream(piece) => {
                address(out, record.endpoint.filter(|_| is_connected(record)), *piece)
            }
            Operator::UpstreamLocal(piece) => {
                address(out, extra.and_then(|extra| extra.upstream_local), *piece);
            }
            Operator::Cluster => show(out, record.cluster.as_ref().map(|cluster| &cluster.name)),
            Operator::DownstreamRemote(piece) => address(out, Some(record.client_addr), *piece),
            Operator::DownstreamDirectRemote(piece) => {
                address(out, extra.map(|extra| extra.direct_client), *piece);
            }
            Operator::DownstreamLocal(piece) => address(out, extra.and_then(|extra| extra.local), *piece),
            Operator::ServerName => show(out, record.server_name.as_ref()),
            Operator::FilterChain => show(out, record.route.as_ref()),
            Operator::ConnectionId => show(out, extra.map(|extra| extra.id)),
            Operator::ConnectTime => {
                let hello = record.hello.get().unwrap_or_default();
                let took = record.connect.get().map(|connect| connect.saturating_sub(hello).as_millis());
                show(out, took);
            }
            Operator::HelloTime => show(out, record.hello.get().map(|hello| hello.as_millis())),
            Operator::Attempts => show(out, Some(record.attempts)),
            Operator::Hostname => show(out, Some(&self.hostname)),
            // As in Envoy, what no filter chain has is told by the listener.
            Operator::LogType => {
                show(out, Some(record.route.as_ref().map_or("NotSet", |_| "TcpConnectionEnd")))
            }
            Operator::Zero => show(out, Some(0)),
            Operator::Absent => show(out, None::<&str>),
            Operator::Listener => show(out, Some(&record.listener)),
            Operator::RewrittenName => show(out, record.rewritten.as_ref()),
            Operator::Locality => show(out, record.locality.as_ref()),
            Operator::Engine => show(out, Some(record.engine)),
            Operator::Error => show(out, record.error.as_deref()),
        }
    }
}

/// Ends that are down to the endpoint, and to the client's first bytes.
const UPSTREAM: &[Flag] = &[Flag::UpstreamFailed, Flag::UpstreamBroke];
const CLIENT: &[Flag] = &[Flag::ProtocolError];

/// The line, unless the form of a time in it is none.
fn checked(line: Line) -> Result<Line, Error> {
    for operator in line.operators() {
        if let Operator::StartTime(format) = operator {
            jiff::fmt::strtime::format(format, jiff::Timestamp::UNIX_EPOCH)
                .map_err(|error| Error::Time(format.clone(), error))?;
        }
    }
    Ok(line)
}

fn is_number(operator: &Operator) -> bool {
    matches!(
        operator,
        Operator::Duration
            | Operator::BytesReceived
            | Operator::BytesSent
            | Operator::ConnectionId
            | Operator::ConnectTime
            | Operator::HelloTime
            | Operator::Attempts
            | Operator::Zero
            | Operator::Upstream(Piece::Port)
            | Operator::UpstreamLocal(Piece::Port)
            | Operator::DownstreamRemote(Piece::Port)
            | Operator::DownstreamDirectRemote(Piece::Port)
            | Operator::DownstreamLocal(Piece::Port)
    )
}

fn is_connected(record: &Record) -> bool {
    record.connect.get().is_some() || record.engine != "-"
}

fn show(out: &mut Vec<u8>, value: Option<impl Display>) {
    // Nothing that is written to memory fails.
    let _ = match value {
        Some(value) => write!(out, "{value}"),
        None => write!(out, "-"),
    };
}

fn address(out: &mut Vec<u8>, address: Option<SocketAddr>, piece: Piece) {
    match piece {
        Piece::Whole => show(out, address),
        Piece::Ip => show(out, address.map(|address| address.ip())),
        Piece::Port => show(out, address.map(|address| address.port())),
    }
}

/// Reasons are one word of a line that is split at its spaces, as in Envoy.
fn in_one_word(reason: &str) -> String {
    reason.replace(' ', "_")
}

/// Shortens what was added to so many bytes, or to the end of the character before.
fn cut(out: &mut Vec<u8>, begin: usize, limit: Option<usize>) {
    let Some(limit) = limit.filter(|limit| out.len() - begin > *limit) else { return };
    let is_inside = |byte: Option<&u8>| byte.is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    let mut end = begin + limit;
    while end > begin && is_inside(out.get(end)) {
        end -= 1;
    }
    out.truncate(end);
}
