//! Where an endpoint stands: region, zone, subzone (as in EDS).

use serde::{Deserialize, Serialize};

/// A place in the world, from the largest part to the smallest; parts that are not known are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Locality {
    /// The region, such as `europe-west1`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// The zone in it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// A part of the zone, such as a rack.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subzone: String,
}

impl std::fmt::Display for Locality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [&self.region, &self.zone, &self.subzone];
        let known = parts.iter().rposition(|part| !part.is_empty()).map_or(0, |last| last + 1);
        for (index, part) in parts[..known].iter().enumerate() {
            write!(f, "{}{part}", if index == 0 { "" } else { "/" })?;
        }
        Ok(())
    }
}
