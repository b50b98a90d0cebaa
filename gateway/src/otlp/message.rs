//! Records as spans and log records: pure.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eastgate_config::bootstrap;
use eastgate_proto::otlp::{
    AnyValue, ExportLogs, ExportTraces, InstrumentationScope, KeyValue, LogRecord, Resource, ResourceLogs,
    ResourceSpans, ScopeLogs, ScopeSpans, Span, SpanStatus, Value,
};

use crate::access_log::Record;
use crate::attempt::{self, Attempt};
use crate::client_hello::RandomPrefix;
use crate::metrics::Flag;

/// What a span is: a step within the process, what a client asked for, what an endpoint is asked for.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
/// What it came to.
const FAILED: i32 = 2;
/// How much a log record weighs.
const INFO: i32 = 9;
const WARN: i32 = 13;

/// The ids of a connection's spans: its trace, and the first of its spans, after which the others are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    trace: [u8; 16],
    span: u64,
}

/// Ids for a connection. Its trace is the beginning of its ClientHello's random bytes, behind zeros: these bytes are the same
/// at every hop that passes it through, so that gateways in a row tell of one trace.
pub(super) fn ids(record: &Record) -> Ids {
    let random = record.client_random.map_or(0, RandomPrefix::number);
    let number = if random == 0 { fastrand::u64(1..) } else { random };
    // There are fewer attempts than leave no number for a span.
    Ids { trace: u128::from(number).to_be_bytes(), span: fastrand::u64(1..u64::MAX >> 1) }
}

/// Who tells: the gateway.
#[derive(Debug)]
pub(super) struct Reporter(Resource);

impl Reporter {
    /// By the settings of its node.
    pub(super) fn new(node: &bootstrap::Node) -> Self {
        let name = node.labels.get("service.istio.io/canonical-name").or_else(|| node.labels.get("app"));
        let name = name.map_or("eastgate", String::as_str);
        Self(Resource {
            attributes: vec![
                text("service.name", name),
                text("service.namespace", &node.namespace),
                text("service.version", env!("CARGO_PKG_VERSION")),
            ],
        })
    }

    fn scope() -> Option<InstrumentationScope> {
        Some(InstrumentationScope { name: "eastgate".into(), version: env!("CARGO_PKG_VERSION").into() })
    }

    pub(super) fn traces(&self, told: &[(&Record, Ids)]) -> ExportTraces {
        let spans = told.iter().flat_map(|(record, ids)| spans(record, *ids)).collect();
        let scope_spans = vec![ScopeSpans { scope: Self::scope(), spans }];
        ExportTraces { resource_spans: vec![ResourceSpans { resource: Some(self.0.clone()), scope_spans }] }
    }

    pub(super) fn logs(&self, told: &[(&Record, Ids)]) -> ExportLogs {
        let log_records = told.iter().map(|(record, ids)| log_record(record, *ids)).collect();
        let scope_logs = vec![ScopeLogs { scope: Self::scope(), log_records }];
        ExportLogs { resource_logs: vec![ResourceLogs { resource: Some(self.0.clone()), scope_logs }] }
    }
}

/// When its phases ended, from the start: hello, connect, and all of it.
fn phases(record: &Record) -> (Option<Duration>, Option<Duration>, Duration) {
    let (hello, connect) = (record.hello.get(), record.connect.get());
    let known = hello.max(connect).unwrap_or_default();
    // Milliseconds may be less than the microseconds before them.
    (hello, connect, known.max(Duration::from_millis(record.duration_ms)))
}

/// The span of a connection, one for each phase that it came to, and one for each attempt to connect.
fn spans(record: &Record, ids: Ids) -> Vec<Span> {
    let start = nanos(record.start);
    let (hello, connect, end) = phases(record);
    let at = |after: Duration| start.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX));
    let span = |number: u64, name: &str, kind, (from, to): (Duration, Duration)| Span {
        trace_id: ids.trace.to_vec(),
        span_id: (ids.span + number).to_be_bytes().to_vec(),
        parent_span_id: if number == 0 { Vec::new() } else { ids.span.to_be_bytes().to_vec() },
        name: name.into(),
        kind,
        start_time_unix_nano: at(from),
        end_time_unix_nano: at(to),
        attributes: Vec::new(),
        status: None,
    };
    let failed = record.error.as_deref().filter(|_| record.flag != Flag::Ordinary);
    let status = failed.map(|error| SpanStatus { message: error.into(), code: FAILED });
    let mut whole = span(0, "connection", SERVER, (Duration::ZERO, end));
    whole.attributes = attributes(record);
    whole.status = status.clone();
    let mut all = vec![whole];
    // A phase that did not come to its end is the one that the connection ended in.
    let mut first = span(1, "hello", INTERNAL, (Duration::ZERO, hello.unwrap_or(end)));
    let Some(hello) = hello else {
        first.status = status;
        all.push(first);
        return all;
    };
    all.push(first);
    if record.cluster.is_some() {
        let mut second = span(2, "connect", INTERNAL, (hello, connect.unwrap_or(end)));
        second.attributes.push(number("eastgate.attempts", record.attempts.into()));
        second.attributes.extend(record.endpoint.into_iter().flat_map(peer));
        second.status = status.clone().filter(|_| connect.is_none());
        all.push(second);
    }
    let attempts = record.extra.iter().flat_map(|extra| &extra.attempts);
    all.extend(attempts.zip(4..).map(|(attempt, number)| {
        let (began, ended) = (record.after(attempt.began), attempt.ended.map(|at| record.after(at)));
        attempted(span(number, "attempt", CLIENT, (began, ended.unwrap_or(end))), attempt)
    }));
    if let Some(connect) = connect {
        let mut third = span(3, "relay", INTERNAL, (connect, end));
        third.attributes = vec![
            text("eastgate.engine", record.engine),
            count("eastgate.to_upstream_bytes", record.to_upstream_bytes),
            count("eastgate.to_client_bytes", record.to_client_bytes),
        ];
        third.status = status;
        all.push(third);
    }
    all
}

/// An attempt to connect to an endpoint. That another was faster, or nobody wanted it any more, is no failure.
fn attempted(mut span: Span, attempt: &Attempt) -> Span {
    let (word, why) = match &attempt.result {
        attempt::Result::Abandoned => ("abandoned", None),
        attempt::Result::Connected => ("connected", None),
        attempt::Result::Failed(why) => ("failed", Some(why)),
        attempt::Result::Overtaken => ("overtaken", None),
    };
    span.attributes = peer(attempt.endpoint);
    span.attributes.push(text("eastgate.outcome", word));
    span.status = why.map(|why| SpanStatus { message: why.clone(), code: FAILED });
    span
}

fn peer(endpoint: SocketAddr) -> Vec<KeyValue> {
    vec![
        text("network.peer.address", &endpoint.ip().to_string()),
        number("network.peer.port", endpoint.port().into()),
    ]
}

fn log_record(record: &Record, ids: Ids) -> LogRecord {
    let end = record.start + phases(record).2;
    let mut attributes = attributes(record);
    attributes.push(count("eastgate.duration_ms", record.duration_ms));
    attributes.push(count("eastgate.to_upstream_bytes", record.to_upstream_bytes));
    attributes.push(count("eastgate.to_client_bytes", record.to_client_bytes));
    let name = record.server_name.as_ref().map(ToString::to_string);
    let body = match &record.error {
        Some(error) => format!("{} {}: {error}", name.as_deref().unwrap_or("-"), record.flag),
        None => name.unwrap_or_default(),
    };
    LogRecord {
        time_unix_nano: nanos(end),
        observed_time_unix_nano: nanos(end),
        severity_number: if record.flag == Flag::Ordinary { INFO } else { WARN },
        body: Some(AnyValue { value: Some(Value::Text(body)) }),
        attributes,
        trace_id: ids.trace.to_vec(),
        span_id: ids.span.to_be_bytes().to_vec(),
    }
}

/// What a connection is known by, under OpenTelemetry's names as far as there are any.
fn attributes(record: &Record) -> Vec<KeyValue> {
    let mut all = vec![
        text("client.address", &record.client_addr.ip().to_string()),
        number("client.port", record.client_addr.port().into()),
        text("network.transport", "tcp"),
        text("eastgate.listener", &record.listener),
        text("eastgate.flag", record.flag.name()),
    ];
    let given = [
        ("tls.client.server_name", record.server_name.as_ref().map(ToString::to_string)),
        ("eastgate.rewritten", record.rewritten.clone()),
        ("eastgate.route", record.route.as_ref().map(ToString::to_string)),
        ("eastgate.cluster", record.cluster.as_ref().map(|cluster| cluster.name.clone())),
        ("eastgate.endpoint", record.endpoint.map(|endpoint| endpoint.to_string())),
    ];
    all.extend(given.into_iter().filter_map(|(key, value)| Some(text(key, &value?))));
    all
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(Value::Text(value.into())) }) }
}

fn number(key: &str, value: i64) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(Value::Int(value)) }) }
}

fn count(key: &str, value: u64) -> KeyValue {
    number(key, value.try_into().unwrap_or(i64::MAX))
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
