//! One element of a list: a resource, its version, and what is wrong with a newer one.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{Failed, List, admin};
use crate::xds::{ENDPOINTS, Json, LISTENER};

/// An element of a list.
pub(super) struct Element<'a> {
    pub(super) list: List,
    /// It stands in a list of `Any`s.
    pub(super) typed: bool,
    pub(super) name: String,
    pub(super) version: String,
    /// None of a resource that was refused and of which there is no older version.
    pub(super) resource: Option<Resource<'a>>,
    pub(super) error: Option<Failure<'a>>,
    pub(super) updated: Option<String>,
}

pub(super) enum Resource<'a> {
    Accepted(Json<'a>),
    /// An assignment that was sent inside of its cluster.
    Carried(Vec<u8>),
    Made(Value),
}

impl Serialize for Resource<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Accepted(json) => json.serialize(serializer),
            Self::Carried(bytes) => Json::new(ENDPOINTS, bytes).serialize(serializer),
            Self::Made(value) => value.serialize(serializer),
        }
    }
}

/// `envoy.admin.v3.UpdateFailureState`.
#[derive(Clone)]
pub(super) struct Failure<'a> {
    pub(super) details: String,
    pub(super) failed: Option<&'a Failed<'a>>,
    /// When the type was last updated, where it is not known of the resource.
    pub(super) updated: Option<&'a str>,
}

impl Serialize for Failure<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let refused = self.failed.map(|failed| failed.refused);
        if let Some(message) = refused.and_then(|refused| refused.message.as_ref()) {
            map.serialize_entry("failed_configuration", &Json::new(&message.type_url, &message.value))?;
        }
        if let Some(at) = self.failed.map(|failed| failed.at.as_str()).or(self.updated) {
            map.serialize_entry("last_update_attempt", at)?;
        }
        match refused.filter(|refused| refused.message.is_none() && refused.size > 0) {
            Some(refused) => {
                let details = format!("{} (its {} bytes were not kept)", self.details, refused.size);
                map.serialize_entry("details", &details)?;
            }
            None => map.serialize_entry("details", &self.details)?,
        }
        if let Some(refused) = refused.filter(|refused| !refused.version.is_empty()) {
            map.serialize_entry("version_info", &refused.version)?;
        }
        map.end()
    }
}

impl Element<'_> {
    /// The fields that say which version of the resource this is, and the resource.
    fn state<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Some(resource) = &self.resource else { return Ok(()) };
        map.serialize_entry("version_info", &self.version)?;
        map.serialize_entry(self.list.field, resource)?;
        if let Some(updated) = &self.updated {
            map.serialize_entry("last_updated", updated)?;
        }
        Ok(())
    }
}

impl Serialize for Element<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if self.typed {
            map.serialize_entry("@type", &admin(self.list.element))?;
        }
        if self.list.type_url == LISTENER {
            map.serialize_entry("name", &self.name)?;
            if self.resource.is_some() {
                map.serialize_entry("active_state", &State(self))?;
            }
        } else {
            self.state(&mut map)?;
        }
        if let Some(error) = &self.error {
            map.serialize_entry("error_state", error)?;
        }
        map.end()
    }
}

/// A listener's element has its versions one level further down.
struct State<'a>(&'a Element<'a>);

impl Serialize for State<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.0.state(&mut map)?;
        map.end()
    }
}
