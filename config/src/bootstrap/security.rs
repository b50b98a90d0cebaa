//! What the process gives up for itself once it runs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::xds::one_or_many;

/// The sandbox; docs/security.md says what is left in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Security {
    pub landlock: bool,
    pub seccomp: bool,
    #[serde(deserialize_with = "one_or_many")]
    pub readable: Vec<PathBuf>,
}
