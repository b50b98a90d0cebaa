//! Health checks and outlier detection.

use std::time::Duration;

use core::health_check::{GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck, payload};
use eastgate_proto::envoy::config::cluster::v3 as cluster;
use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::google::protobuf as pb;

use super::Problem;
use super::values::{self, duration};
use crate::cluster::{FailurePercentage, HealthCheck, OutlierDetection, Probe, SuccessRate};

/// What `no_traffic_interval` is where it is left out.
const NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);

fn or(value: Option<pb::UInt32Value>, default: u32) -> u32 {
    value.map_or(default, |value| value.value)
}

/// The defaults are Envoy's
/// (<https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/cluster/v3/outlier_detection.proto>).
pub(super) fn outlier_detection(
    message: Option<cluster::OutlierDetection>,
) -> Result<Option<OutlierDetection>, Problem> {
    let Some(message) = message else { return Ok(None) };
    detection(message).map(Some).map_err(|problem| problem.inside("outlier_detection"))
}

fn detection(message: cluster::OutlierDetection) -> Result<OutlierDetection, Problem> {
    let base_ejection_time =
        duration("base_ejection_time", message.base_ejection_time)?.unwrap_or(Duration::from_secs(30));
    let max_ejection_time = duration("max_ejection_time", message.max_ejection_time)?;
    let split = message.split_external_local_origin_errors;
    let (rate, percentage) = match split {
        true => {
            (message.enforcing_local_origin_success_rate, message.enforcing_failure_percentage_local_origin)
        }
        false => (message.enforcing_success_rate, message.enforcing_failure_percentage),
    };
    let [rate, percentage] = [or(rate, 100), or(percentage, 0)].map(|percent| percent.min(100));
    let consecutive = consecutive_failures(&message);
    Ok(OutlierDetection {
        consecutive_failures: consecutive.map(|(failures, _)| failures),
        consecutive_enforcing: consecutive.map_or(100, |(_, enforcing)| enforcing),
        interval: duration("interval", message.interval)?.unwrap_or(Duration::from_secs(10)),
        base_ejection_time,
        max_ejection_time: max_ejection_time.unwrap_or(Duration::from_secs(300)).max(base_ejection_time),
        max_ejection_jitter: duration("max_ejection_time_jitter", message.max_ejection_time_jitter)?
            .unwrap_or_default(),
        max_ejection_percent: or(message.max_ejection_percent, 10).min(100),
        always_eject_one: message.always_eject_one_host.is_some_and(|flag| flag.value),
        success_rate: (rate > 0).then(|| SuccessRate {
            minimum_hosts: or(message.success_rate_minimum_hosts, 5),
            request_volume: or(message.success_rate_request_volume, 100),
            stdev_factor: or(message.success_rate_stdev_factor, 1900),
            enforcing: rate,
        }),
        failure_percentage: (percentage > 0).then(|| FailurePercentage {
            threshold: or(message.failure_percentage_threshold, 85).min(100),
            minimum_hosts: or(message.failure_percentage_minimum_hosts, 5),
            request_volume: or(message.failure_percentage_request_volume, 50),
            enforcing: percentage,
        }),
    })
}

/// Envoy counts three kinds of failure in a row. For a TCP proxy a failed connect is a failure of every kind, so that
/// the lowest threshold that is enforced at all is the one that counts, as often as it is enforced; of equal ones, the one that is
/// enforced more often.
fn consecutive_failures(message: &cluster::OutlierDetection) -> Option<(u32, u32)> {
    let counted = |enforcing: Option<pb::UInt32Value>, default: u32, threshold: Option<pb::UInt32Value>| {
        let kind = (or(threshold, 5), or(enforcing, default).min(100));
        Some(kind).filter(|(threshold, enforcing)| *threshold > 0 && *enforcing > 0)
    };
    if message.split_external_local_origin_errors {
        return counted(
            message.enforcing_consecutive_local_origin_failure,
            100,
            message.consecutive_local_origin_failure,
        );
    }
    let server_errors = counted(message.enforcing_consecutive_5xx, 100, message.consecutive_5xx);
    let gateway_errors =
        counted(message.enforcing_consecutive_gateway_failure, 0, message.consecutive_gateway_failure);
    let kinds = server_errors.into_iter().chain(gateway_errors);
    kinds.min_by_key(|(threshold, enforcing)| (*threshold, std::cmp::Reverse(*enforcing)))
}

pub(super) fn checks(messages: Vec<core::HealthCheck>) -> Result<Vec<HealthCheck>, Problem> {
    let each = messages.into_iter().enumerate();
    each.map(|(index, message)| {
        check(message).map_err(|problem| problem.inside(&format!("health_checks[{index}]")))
    })
    .collect()
}

fn check(message: core::HealthCheck) -> Result<HealthCheck, Problem> {
    let needed = |field: &str, value: Option<pb::Duration>| {
        let value = duration(field, value)?.filter(|value| !value.is_zero());
        value.ok_or_else(|| Problem::at(field, "it must be more than 0"))
    };
    let probe = match message.health_checker {
        Some(HealthChecker::TcpHealthCheck(tcp)) => {
            self::tcp(tcp).map_err(|problem| problem.inside("tcp_health_check"))?
        }
        Some(HealthChecker::HttpHealthCheck(http)) => {
            self::http(http).map_err(|problem| problem.inside("http_health_check"))?
        }
        Some(HealthChecker::GrpcHealthCheck(grpc)) => {
            self::grpc(grpc).map_err(|problem| problem.inside("grpc_health_check"))?
        }
        Some(HealthChecker::CustomHealthCheck(custom)) => {
            return Err(Problem::at("custom_health_check", format!("{:?} is not known here", custom.name)));
        }
        None => return Err(Problem::at("health_checker", "there is none")),
    };
    let interval = needed("interval", message.interval)?;
    let jitter = duration("interval_jitter", message.interval_jitter)?.unwrap_or_default();
    let share = interval.saturating_mul(message.interval_jitter_percent.min(100)) / 100;
    let no_traffic = duration("no_traffic_interval", message.no_traffic_interval)?;
    Ok(HealthCheck {
        interval,
        timeout: needed("timeout", message.timeout)?,
        unhealthy_threshold: or(message.unhealthy_threshold, 1).max(1),
        healthy_threshold: or(message.healthy_threshold, 1).max(1),
        jitter: jitter.saturating_add(share),
        no_traffic_interval: Some(no_traffic.unwrap_or(NO_TRAFFIC_INTERVAL)),
        port: message.alt_port.map(|port| values::port("alt_port", port.value)).transpose()?,
        probe,
    })
}

fn tcp(message: TcpHealthCheck) -> Result<Probe, Problem> {
    if message.proxy_protocol_config.is_some() {
        return Err(Problem::at("proxy_protocol_config", "health checks send no PROXY protocol header"));
    }
    let bytes = |field: &str, payload: Option<core::health_check::Payload>| match payload
        .and_then(|payload| payload.payload)
    {
        Some(payload::Payload::Binary(bytes)) => Ok(bytes),
        Some(payload::Payload::Text(hex)) => {
            from_hex(&hex).ok_or_else(|| Problem::at(field, "its text is not written in hexadecimal"))
        }
        None => Ok(Vec::new()),
    };
    let receive = message.receive.into_iter().map(|payload| bytes("receive", Some(payload)));
    Ok(Probe::Tcp { receive: receive.collect::<Result<_, _>>()?, send: bytes("send", message.send)? })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    let byte = |pair: &[u32]| pair.iter().fold(0_u32, |byte, digit| byte * 16 + digit) as u8;
    Some(digits.chunks(2).map(byte).collect())
}

fn http(message: HttpHealthCheck) -> Result<Probe, Problem> {
    if !message.path.starts_with('/') || message.path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(Problem::at("path", format!("{:?} is no path", message.path)));
    }
    if message.host.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(Problem::at("host", format!("{:?} is no host", message.host)));
    }
    if message.codec_client_type != 0 {
        return Err(Problem::at("codec_client_type", "health checks speak HTTP/1.1"));
    }
    if message.send.is_some() || !message.receive.is_empty() || message.service_name_matcher.is_some() {
        return Err(Problem::at("receive", "only the status of the answer is looked at"));
    }
    let expected = message.expected_statuses.iter().map(|range| {
        let bound = |value: i64| u16::try_from(value).ok().filter(|value| (100..=600).contains(value));
        let range = bound(range.start).zip(bound(range.end));
        range.ok_or_else(|| Problem::at("expected_statuses", "they go from 100 to before 600"))
    });
    let expected = expected.collect::<Result<_, _>>()?;
    Ok(Probe::Http { host: message.host, path: message.path, expected })
}

fn grpc(message: GrpcHealthCheck) -> Result<Probe, Problem> {
    if !message.initial_metadata.is_empty() {
        return Err(Problem::at("initial_metadata", "health checks send none"));
    }
    if message.authority.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(Problem::at("authority", format!("{:?} is no authority", message.authority)));
    }
    Ok(Probe::Grpc { service: message.service_name, authority: message.authority })
}
