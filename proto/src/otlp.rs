//! What OpenTelemetry's collectors hear ([OTLP](https://github.com/open-telemetry/opentelemetry-proto), its version 1): spans and
//! log records, as far as connections have what they hold.

use prost::{Message, Oneof};

/// A value of an attribute (`AnyValue`).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AnyValue {
    /// The value.
    #[prost(oneof = "Value", tags = "1, 2, 3")]
    pub value: Option<Value>,
}

/// The kinds of values that connections have.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum Value {
    /// Text.
    #[prost(string, tag = "1")]
    Text(String),
    /// Yes or no.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// A number.
    #[prost(int64, tag = "3")]
    Int(i64),
}

/// An attribute.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// Who tells: the gateway.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Resource {
    /// Such as `service.name`.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// Which program tells.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct InstrumentationScope {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// A piece of time, and what happened in it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Span {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// 8 bytes, or none.
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    /// What it is.
    #[prost(string, tag = "5")]
    pub name: String,
    /// 1 within the process, 2 what a client asked for, 3 what another server is asked for.
    #[prost(int32, tag = "6")]
    pub kind: i32,
    /// Since 1970.
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    /// Since 1970.
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    /// What is known of it.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    /// Whether it failed.
    #[prost(message, optional, tag = "15")]
    pub status: Option<SpanStatus>,
}

/// How a span ended.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SpanStatus {
    /// Why it failed.
    #[prost(string, tag = "2")]
    pub message: String,
    /// 0 nothing is said, 2 it failed.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

/// A line of a log.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LogRecord {
    /// Since 1970.
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    /// 9 info, 13 warn.
    #[prost(int32, tag = "2")]
    pub severity_number: i32,
    /// The line.
    #[prost(message, optional, tag = "5")]
    pub body: Option<AnyValue>,
    /// What is known.
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<KeyValue>,
    /// The trace that it belongs to.
    #[prost(bytes = "vec", tag = "9")]
    pub trace_id: Vec<u8>,
    /// The span that it belongs to.
    #[prost(bytes = "vec", tag = "10")]
    pub span_id: Vec<u8>,
    /// When it was taken down.
    #[prost(fixed64, tag = "11")]
    pub observed_time_unix_nano: u64,
}

/// Spans of one program.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ScopeSpans {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// Its spans.
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
}

/// Spans of one process.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ResourceSpans {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Its spans.
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// Spans for a collector.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ExportTraces {
    /// The spans.
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

impl ExportTraces {
    /// The method that takes them.
    pub const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
}

/// Log records of one program.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ScopeLogs {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// Its records.
    #[prost(message, repeated, tag = "2")]
    pub log_records: Vec<LogRecord>,
}

/// Log records of one process.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ResourceLogs {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Its records.
    #[prost(message, repeated, tag = "2")]
    pub scope_logs: Vec<ScopeLogs>,
}

/// Log records for a collector.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ExportLogs {
    /// The records.
    #[prost(message, repeated, tag = "1")]
    pub resource_logs: Vec<ResourceLogs>,
}

impl ExportLogs {
    /// The method that takes them.
    pub const METHOD: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
}

/// What a collector answers to either.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ExportResponse {
    /// There, if it has not taken all.
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// What a collector has not taken.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PartialSuccess {
    /// How many.
    #[prost(int64, tag = "1")]
    pub rejected: i64,
    /// Why.
    #[prost(string, tag = "2")]
    pub error_message: String,
}
