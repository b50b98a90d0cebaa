//! What is told of connections and of the process, and where.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Error, empty_is_none};
use crate::duration;
use crate::log_format::Line;

/// Where connections are recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct AccessLog {
    pub path: String,
    pub format: Format,
    pub format_string: String,
    pub fields: BTreeMap<String, String>,
    pub only_failures: bool,
    #[serde(with = "duration::text")]
    pub min_duration: Duration,
    pub sample_percent: f64,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            path: "-".into(),
            format: Format::Json,
            format_string: String::new(),
            fields: BTreeMap::new(),
            only_failures: false,
            min_duration: Duration::ZERO,
            sample_percent: 100.0,
        }
    }
}

impl AccessLog {
    pub(super) fn validate(&self) -> Result<(), Error> {
        let wrong = |key: String, reason: String| Err(Error::Value { key, reason });
        if !(0.0..=100.0).contains(&self.sample_percent) {
            return wrong("access_log.sample_percent".into(), "give a number from 0 to 100".into());
        }
        if let Err(error) = Line::parse(&self.format_string) {
            return wrong("access_log.format_string".into(), error.to_string());
        }
        for (key, text) in &self.fields {
            if let Err(error) = Line::parse(text) {
                return wrong(format!("access_log.fields.{key}"), error.to_string());
            }
        }
        Ok(())
    }
}

/// What OpenTelemetry's collectors are told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Otlp {
    #[serde(deserialize_with = "empty_is_none")]
    pub address: Option<String>,
    #[serde(deserialize_with = "empty_is_none")]
    pub ca_path: Option<PathBuf>,
    pub logs: bool,
    pub traces: bool,
}

impl Default for Otlp {
    fn default() -> Self {
        Self { address: None, ca_path: None, logs: true, traces: true }
    }
}

/// How lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// The process's own log, on standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Log {
    pub level: String,
    pub format: Format,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: Format::Text }
    }
}

/// What metrics there are beside those that are always there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Metrics {
    pub istio: bool,
    pub envoy: bool,
    pub server_names: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { istio: true, envoy: true, server_names: 50 }
    }
}
