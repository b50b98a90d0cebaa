//! File, environment and flags laid over each other, key by key.

use serde_json::{Map, Value};

use super::{ENV_PREFIX, KEYS, Settings, at};

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not YAML, or not a map.
    #[error("the settings file is not a YAML map: {0}")]
    Syntax(String),
    /// No setting has this name.
    #[error("there is no setting {key:?}{hint}")]
    Unknown {
        /// As it was written.
        key: String,
        /// The nearest one that exists.
        hint: String,
    },
    /// The value does not fit the key.
    #[error("{key}: {reason}")]
    Value {
        /// The key, or the environment variable.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// Settings in the making: the defaults, with each layer laid over the ones before.
#[derive(Debug)]
pub struct Layers {
    tree: Value,
}

impl Layers {
    /// The defaults alone.
    pub fn new() -> Self {
        Self { tree: serde_json::to_value(Settings::default()).unwrap_or_default() }
    }

    /// Lays the text of a settings file over it.
    ///
    /// # Errors
    /// The text is no YAML map, or names a setting that there is none of.
    pub fn file(mut self, text: &str) -> Result<Self, Error> {
        let given: Value = serde_saphyr::from_str(text).map_err(|error| Error::Syntax(error.to_string()))?;
        match given {
            Value::Null => {}
            Value::Object(map) => self.lay(&map, "")?,
            _ => return Err(Error::Syntax("it holds a list or a single value".into())),
        }
        Ok(self)
    }

    /// Lays a map of settings over it, as a file has one.
    ///
    /// # Errors
    /// It names a setting that there is none of.
    pub fn map(mut self, given: &Map<String, Value>) -> Result<Self, Error> {
        self.lay(given, "")?;
        Ok(self)
    }

    /// Lays environment variables over it; those without the prefix `EASTGATE_` are passed over.
    ///
    /// # Errors
    /// A variable has the prefix and names no setting.
    pub fn environment(
        mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        for (name, text) in variables {
            if !name.starts_with(ENV_PREFIX) || is_service_link(&name) {
                continue;
            }
            let Some(key) = KEYS.iter().find(|key| key.variable() == name) else {
                let hint = nearest(&name, KEYS.iter().map(super::Key::variable));
                return Err(Error::Unknown { key: name, hint });
            };
            self.put(key.path, text_value(at(&self.tree, key.path), &text));
            // A wrong value is reported under the variable's name, where the user will look for it.
            if let Err(Error::Value { reason, .. }) = self.read() {
                return Err(Error::Value { key: name, reason });
            }
        }
        Ok(self)
    }

    /// Lays one flag's value over it. The key is one of [`KEYS`].
    pub fn flag(mut self, path: &str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.put(path, value.into());
        }
        self
    }

    /// The effective settings.
    ///
    /// # Errors
    /// Names the key whose value does not fit.
    pub fn settings(self) -> Result<Settings, Error> {
        let settings = self.read()?;
        settings.validate()?;
        Ok(settings)
    }

    fn read(&self) -> Result<Settings, Error> {
        serde_path_to_error::deserialize(&self.tree).map_err(|error| Error::Value {
            key: error.path().to_string(),
            reason: error.inner().to_string(),
        })
    }

    fn lay(&mut self, map: &Map<String, Value>, prefix: &str) -> Result<(), Error> {
        for (name, value) in map {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let inner = format!("{path}.");
            match value {
                _ if KEYS.iter().any(|key| key.path == path) => self.put(&path, value.clone()),
                Value::Object(map) if KEYS.iter().any(|key| key.path.starts_with(&inner)) => {
                    self.lay(map, &path)?
                }
                Value::Null if KEYS.iter().any(|key| key.path.starts_with(&inner)) => {}
                _ if KEYS.iter().any(|key| key.path.starts_with(&inner)) => {
                    return Err(Error::Value {
                        key: path,
                        reason: "it holds further keys; give a map".into(),
                    });
                }
                _ => {
                    let hint = nearest(&path, KEYS.iter().map(|key| key.path.to_owned()));
                    return Err(Error::Unknown { key: path, hint });
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, path: &str, value: Value) {
        let slot = path.split('.').fold(&mut self.tree, |node, part| &mut node[part]);
        *slot = value;
    }
}

impl Default for Layers {
    fn default() -> Self {
        Self::new()
    }
}

/// Is it one of the variables that Kubernetes gives every container for a Service named `eastgate` or `eastgate-...`
/// (`EASTGATE_SERVICE_HOST`, `EASTGATE_PORT_15443_TCP_ADDR`, ...)? Nobody means a setting by them.
/// <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
pub(super) fn is_service_link(name: &str) -> bool {
    let is_port = |tail: &str| tail.is_empty() || tail.starts_with('_');
    name.ends_with("_SERVICE_HOST")
        || name.split_once("_SERVICE_PORT").is_some_and(|(_, tail)| is_port(tail))
        || name.ends_with("_PORT")
        || name.rsplit_once("_PORT_").is_some_and(|(_, tail)| tail.starts_with(|c: char| c.is_ascii_digit()))
}

/// Reads a variable's text as YAML, so that lists and maps can be given, too; but where the setting is text (or may
/// be absent), `123` and `true` stay text.
fn text_value(default: Option<&Value>, text: &str) -> Value {
    let parsed = serde_saphyr::from_str(text).unwrap_or_else(|_| Value::from(text));
    match default {
        Some(Value::String(_) | Value::Null) if !parsed.is_string() => Value::from(text),
        _ => parsed,
    }
}

/// `; did you mean ...?` with the candidate that takes the fewest edits, if it is near at all.
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> String {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, &candidate), candidate))
        .min()
        .filter(|(edits, candidate)| *edits <= candidate.len() / 2)
        .map_or_else(
            || "; `eastgate config` prints all there are".into(),
            |(_, near)| format!("; did you mean {near}?"),
        )
}
