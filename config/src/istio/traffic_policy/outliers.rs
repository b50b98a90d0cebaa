//! `outlierDetection`: when an endpoint that fails is left out.

use std::time::Duration;

use super::super::findings::Findings;
use super::super::schema::destination_rule as schema;
use super::{SHORTEST, time};
use crate::cluster::OutlierDetection;

/// What Envoy does where Istio says nothing.
const FAILURES: i64 = 5;
const MAX_EJECTION_PERCENT: u32 = 10;

/// When an endpoint is left out, and when that has gone too far.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::istio) struct Outliers {
    pub(in crate::istio) detection: OutlierDetection,
    /// In percent; with a smaller share of healthy endpoints, health is not regarded.
    pub(in crate::istio) panic_threshold: u32,
}

impl Outliers {
    /// Checks it. The defaults are Istio's, which never compares success rates.
    pub(super) fn parse(schema: &schema::OutlierDetection, field: &str, findings: &mut Findings) -> Self {
        let mut time = |name: &str, text: &Option<String>, default: u64| {
            time(text.as_ref(), format!("{field}.{name}"), SHORTEST, findings)
                .unwrap_or(Duration::from_secs(default))
        };
        let interval = time("interval", &schema.interval, 10);
        let base_ejection_time = time("baseEjectionTime", &schema.base_ejection_time, 30);
        let mut percent = |name: &str, given: i64| {
            let percent = u32::try_from(given).ok().filter(|percent| *percent <= 100);
            let wrong = || format!("{given} is not a share; give 0 to 100");
            findings.take(&format!("{field}.{name}"), percent.ok_or_else(wrong)).unwrap_or_default()
        };
        let max_ejection_percent = percent("maxEjectionPercent", schema.max_ejection_percent);
        let panic_threshold = percent("minHealthPercent", schema.min_health_percent);
        if max_ejection_percent == 0 {
            let message = format!(
                "maxEjectionPercent is not given and therefore {MAX_EJECTION_PERCENT}: of fewer than ten endpoints none \
                 is ever ejected; give 34 to eject one of three"
            );
            findings.notice(field, message);
        }
        let detection = OutlierDetection {
            consecutive_failures: consecutive_failures(schema, field, findings),
            consecutive_enforcing: 100,
            interval,
            base_ejection_time,
            max_ejection_time: Duration::from_secs(300).max(base_ejection_time),
            max_ejection_jitter: Duration::ZERO,
            max_ejection_percent: match max_ejection_percent {
                0 => MAX_EJECTION_PERCENT,
                given => given,
            },
            always_eject_one: false,
            success_rate: None,
            failure_percentage: None,
        };
        Self { detection, panic_threshold }
    }
}

/// A connection that fails is a failure of every kind that Istio tells apart, so the lowest number counts; 0 switches a
/// kind off.
fn consecutive_failures(
    schema: &schema::OutlierDetection,
    field: &str,
    findings: &mut Findings,
) -> Option<u32> {
    let mut count = |name: &str, given: Option<i64>, default: Option<i64>| {
        let given = given.or(default)?;
        let wrong = |_| format!("{given} is not a number of failures; give 0 or more");
        let count = findings.take(&format!("{field}.{name}"), u32::try_from(given).map_err(wrong))?;
        (count > 0).then_some(count)
    };
    if schema.split_external_local_origin_errors {
        let given = schema.consecutive_local_origin_failures;
        return count("consecutiveLocalOriginFailures", given, Some(FAILURES));
    }
    // The field of old takes the place of the one that is on by default.
    let server = Some(FAILURES).filter(|_| schema.consecutive_errors.is_none());
    let kinds = [
        count("consecutive5xxErrors", schema.consecutive_5xx_errors, server),
        count("consecutiveGatewayErrors", schema.consecutive_gateway_errors, None),
        count("consecutiveErrors", schema.consecutive_errors, None),
    ];
    kinds.into_iter().flatten().min()
}
