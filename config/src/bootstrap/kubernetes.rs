//! Settings of the Kubernetes source: which API servers, and how they are listened to.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Error, empty_is_none};
use crate::duration;

/// The Kubernetes source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Kubernetes {
    #[serde(deserialize_with = "empty_is_none")]
    pub config: Option<String>,
    #[serde(deserialize_with = "empty_is_none")]
    pub context: Option<String>,
    #[serde(deserialize_with = "empty_is_none")]
    pub remote_dir: Option<PathBuf>,
    pub remote_secrets: bool,
    pub secrets: BTreeSet<String>,
    #[serde(with = "duration::text")]
    pub remote_timeout: Duration,
    #[serde(with = "duration::text")]
    pub look_again: Duration,
    #[serde(with = "duration::text")]
    pub coalesce: Duration,
    pub page_size: u32,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            config: None,
            context: None,
            remote_dir: None,
            remote_secrets: false,
            secrets: BTreeSet::new(),
            remote_timeout: Duration::from_secs(30),
            look_again: Duration::from_secs(30),
            coalesce: Duration::from_millis(100),
            page_size: 500,
        }
    }
}

impl Kubernetes {
    pub(super) fn validate(&self) -> Result<(), Error> {
        let wrong = |key: &str, reason: &str| Err(Error::Value { key: key.into(), reason: reason.into() });
        let more = [
            ("source.kubernetes.context", self.context.is_some()),
            ("source.kubernetes.remote_dir", self.remote_dir.is_some()),
            ("source.kubernetes.remote_secrets", self.remote_secrets),
            ("source.kubernetes.secrets", !self.secrets.is_empty()),
        ];
        if let (None, Some((key, _))) = (&self.config, more.into_iter().find(|(_, given)| *given)) {
            return wrong(key, "it belongs to source.kubernetes.config (--kubernetes), which is not given");
        }
        let is_name = |name: &str| {
            (1..=253).contains(&name.len())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
        };
        if let Some(other) = self.secrets.iter().find(|name| !is_name(name)) {
            let reason =
                format!("{other:?} is no Secret's name; the namespace is node.namespace, and not said here");
            return wrong("source.kubernetes.secrets", &reason);
        }
        if self.look_again.is_zero() {
            return wrong("source.kubernetes.look_again", "give a duration above 0, such as 30s");
        }
        if self.page_size == 0 {
            return wrong("source.kubernetes.page_size", "give a number above 0, such as 500");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Layers;

    fn refusal(file: &str) -> String {
        Layers::new().file(file).and_then(Layers::settings).unwrap_err().to_string()
    }

    #[test]
    fn what_belongs_to_the_source_is_not_given_without_it() {
        let error = refusal("source: {kubernetes: {remote_dir: /x}}");
        assert!(error.contains("remote_dir") && error.contains("--kubernetes"), "{error}");
        let elsewhere = refusal("source: {kubernetes: {config: auto, secrets: [other/c]}}");
        assert!(elsewhere.contains("kubernetes.secrets") && elsewhere.contains("other/c"), "{elsewhere}");
        assert!(refusal("source: {kubernetes: {config: auto, page_size: 0}}").contains("such as 500"));
        assert!(refusal("source: {mesh_dir: /x, kubernetes: {config: auto}}").contains("one source"));
    }
}
