//! What reading a resource finds: reasons to refuse it, and surprises to tell its author of.

use std::fmt::Display;

use super::document::Lines;
use crate::rejection::{Location, Place, ResourceName};

/// Collected while a resource is read; paths are field paths such as `spec.servers[0].port`.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) refusals: Vec<(String, String)>,
    pub(super) notices: Vec<(String, String)>,
}

impl Findings {
    /// The resource must not be used as it is.
    pub(super) fn refuse(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.refusals.push((field.into(), reason.into()));
    }

    /// The resource is used, in a way that its author may not expect.
    pub(super) fn notice(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.notices.push((field.into(), message.into()));
    }

    /// The value, or `None` after refusing the resource for the error.
    pub(super) fn take<T, E: Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.refuse(field, error.to_string())).ok()
    }

    /// A port number, or `None` after refusing the resource.
    pub(super) fn port(&mut self, field: &str, number: i64) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        if port.is_none() {
            self.refuse(field, format!("{number} is not a port; give one from 1 to 65535"));
        }
        port
    }
}

/// Where a resource came from.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Origin {
    pub(super) file: Option<String>,
    pub(super) lines: Lines,
}

impl Origin {
    /// A field of the resource, with its line.
    pub(super) fn place(&self, resource: &ResourceName, field: &str) -> Place {
        let location = self
            .file
            .as_ref()
            .map(|file| Location { file: file.clone(), line: self.lines.of(field).unwrap_or(1) });
        Place { resource: resource.clone(), field: field.to_owned(), location }
    }
}
