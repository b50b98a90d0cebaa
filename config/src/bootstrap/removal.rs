//! What becomes of open connections whose endpoint is taken away, or becomes unhealthy.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration;

/// Written as `keep`, `close-idle` or `close-within 30s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Removal {
    /// They go on until they end.
    #[default]
    Keep,
    /// Those go that are idle, or come to be.
    CloseIdle,
    /// All go, spread over this time.
    CloseWithin(Duration),
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::CloseIdle => f.write_str("close-idle"),
            Self::CloseWithin(time) => write!(f, "close-within {}", duration::format(*time)),
        }
    }
}

impl From<Removal> for String {
    fn from(removal: Removal) -> Self {
        removal.to_string()
    }
}

impl TryFrom<String> for Removal {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Removal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is none of keep, close-idle and close-within DURATION, such as close-within 30s"
            )
        };
        match text.split_once(' ') {
            None if text == "keep" => Ok(Self::Keep),
            None if text == "close-idle" => Ok(Self::CloseIdle),
            Some(("close-within", time)) => {
                duration::parse(time.trim()).map(Self::CloseWithin).map_err(|_| wrong())
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_as_it_is_written() {
        for policy in [Removal::Keep, Removal::CloseIdle, Removal::CloseWithin(Duration::from_secs(30))] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for wrong in ["", "close", "close-within", "close-within soon", "keep it"] {
            assert!(wrong.parse::<Removal>().unwrap_err().contains("close-within 30s"), "{wrong}");
        }
    }
}
