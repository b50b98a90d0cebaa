//! Why a resource was refused, and what an accepted one does that its author may not expect.

use std::fmt;

use serde::Serialize;

/// A resource of any source: a Kubernetes object, or an xDS resource (whose namespace is empty).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ResourceName {
    /// `Gateway`, `Service`, `Listener`, ...
    pub kind: String,
    /// Empty where the kind has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// Where in the source something stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The resource.
    pub resource: ResourceName,
    /// The path of the field, such as `spec.servers[0].port.number`; empty for the resource as a whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// The file and the line in it (from 1), where the source is a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Location {
    /// The path, as the source was given it.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Location { file, line }) = &self.location {
            write!(f, "{file}:{line}: ")?;
        }
        self.resource.fmt(f)?;
        match self.field.as_str() {
            "" => Ok(()),
            field => write!(f, ": {field}"),
        }
    }
}

/// Why a resource was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// The resource and field.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong and what to do about it.
    pub reason: String,
    /// The resource's last good version is still in use.
    pub last_good_kept: bool,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)?;
        if self.last_good_kept { f.write_str(" (its last good version stays in use)") } else { Ok(()) }
    }
}

/// Something in an accepted resource that its author may not expect.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Notice {
    /// The resource and field.
    #[serde(flatten)]
    pub place: Place,
    /// What happens, and what to do if that is not meant.
    pub message: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}
