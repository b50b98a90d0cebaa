//! Durations as Istio, Envoy and Go write them: `10s`, `1m30s`, `250ms`, `1.5h`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// Reads a duration such as `10s`, `1m30s` or `250ms`.
///
/// # Errors
/// The message shows what a duration looks like.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration (write it like 10s, 250ms or 1h30m)");
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest == "0" {
        return Ok(total);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        total = Duration::try_from_secs_f64(number * seconds)
            .ok()
            .and_then(|part| total.checked_add(part))
            .ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(total)
}

/// Writes a duration so that [`parse`] reads the same one (down to nanoseconds).
pub fn format(duration: Duration) -> String {
    let nanos = duration.subsec_nanos();
    if duration.is_zero() {
        return "0s".into();
    }
    if nanos == 0 {
        return format!("{}s", duration.as_secs());
    }
    let (part, unit) = match nanos {
        n if n % 1_000_000 == 0 => (n / 1_000_000, "ms"),
        n if n % 1_000 == 0 => (n / 1_000, "us"),
        n => (n, "ns"),
    };
    match duration.as_secs() {
        0 => format!("{part}{unit}"),
        seconds => format!("{seconds}s{part}{unit}"),
    }
}

/// For `#[serde(with = "duration::text")]`.
pub mod text {
    use super::*;

    /// Writes the text form.
    #[allow(clippy::missing_errors_doc)]
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(*duration))
    }

    /// Reads the text form.
    #[allow(clippy::missing_errors_doc)]
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// For `#[serde(with = "duration::optional_text")]`.
pub mod optional_text {
    use super::*;

    /// Writes the text form, or null.
    #[allow(clippy::missing_errors_doc)]
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_str(&format(*duration)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the text form, or null.
    #[allow(clippy::missing_errors_doc)]
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| parse(&text).map_err(serde::de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_the_field_are_read() {
        assert_eq!(parse("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("0.25s"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn anything_else_says_what_a_duration_looks_like() {
        for text in ["", "10", "s", "-1s", "10 s", "1e9h", "10x", "99999999999999999999h"] {
            assert!(parse(text).is_err_and(|message| message.contains("10s")), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for nanos in [0, 1, 1_000, 2_000_000, 1_000_000_000, 61_250_000_000, 3_600_000_000_001] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}
