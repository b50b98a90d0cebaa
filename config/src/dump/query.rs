//! Which part of the dump is asked for, by Envoy's parameters.

use serde_json::{Map, Value};

use super::SECTIONS;

/// What is asked for; the default is everything but endpoints.
#[derive(Debug, Default)]
pub struct Query {
    /// One list alone, its elements as they stand in it.
    pub(super) resource: Option<String>,
    pub(super) keep: Keep,
    /// Resources whose whole name this matches.
    pub(super) names: Option<regress::Regex>,
    pub(super) include_eds: bool,
    pub(super) include_snapshot: bool,
}

/// What is asked for does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No list has the name.
    #[error("resource={0:?}: there is {lists}", lists = lists())]
    Resource(String),
    /// The pattern is none.
    #[error("name_regex={pattern:?} is no regular expression: {reason}")]
    Pattern {
        /// What was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn lists() -> String {
    let names: Vec<_> = SECTIONS.iter().flat_map(|(_, lists)| *lists).map(|list| list.name).collect();
    names.join(", ")
}

impl Query {
    /// By the parameters of the request. Those that are not known here are passed over, as Envoy does.
    ///
    /// # Errors
    /// Says what there is instead.
    pub fn new<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        let mut query = Self::default();
        for (key, value) in parameters {
            match key {
                "resource" => {
                    let known = SECTIONS.iter().flat_map(|(_, lists)| *lists).any(|list| list.name == value);
                    if !known {
                        return Err(Error::Resource(value.into()));
                    }
                    query.resource = Some(value.into());
                }
                "mask" => query.keep = Keep::new(value),
                "name_regex" => {
                    let regex = regress::Regex::new(&format!("^(?:{value})$"));
                    let refused = |error: regress::Error| Error::Pattern {
                        pattern: value.into(),
                        reason: error.to_string(),
                    };
                    query.names = Some(regex.map_err(refused)?);
                }
                // Envoy takes the parameter for its presence; istioctl writes `=true`.
                "include_eds" => query.include_eds = value != "false",
                "include_snapshot" => query.include_snapshot = value != "false",
                _ => {}
            }
        }
        Ok(query)
    }

    /// Is it about some part only?
    pub(super) fn is_narrow(&self) -> bool {
        self.resource.is_some() || self.names.is_some() || !self.keep.is_all()
    }

    pub(super) fn takes(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.find(name).is_some())
    }
}

/// A field mask, seen from inside some field: which of the fields below are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Keep {
    #[default]
    All,
    /// Paths, none of them empty.
    Paths(Vec<Vec<String>>),
}

impl Keep {
    /// Comma between paths, dots between fields.
    fn new(mask: &str) -> Self {
        let path = |path: &str| path.split('.').map(str::to_owned).collect::<Vec<_>>();
        let paths: Vec<_> = mask.split(',').filter(|path| !path.is_empty()).map(path).collect();
        if paths.is_empty() { Self::All } else { Self::Paths(paths) }
    }

    pub(super) fn is_all(&self) -> bool {
        *self == Self::All
    }

    /// What is kept inside a field; none where the field is not.
    pub(super) fn inside(&self, field: &str) -> Option<Self> {
        let Self::Paths(paths) = self else { return Some(Self::All) };
        let mut tails = Vec::new();
        for path in paths {
            match path.split_first() {
                Some((head, [])) if head == field => return Some(Self::All),
                Some((head, tail)) if head == field => tails.push(tail.to_vec()),
                _ => {}
            }
        }
        (!tails.is_empty()).then_some(Self::Paths(tails))
    }
}

/// Takes out what the mask does not keep. Lists are looked through, and a type always stays.
pub(super) fn trim(value: Value, keep: &Keep) -> Value {
    if keep.is_all() {
        return value;
    }
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter_map(|(name, value)| {
                let keep = if name == "@type" { Keep::All } else { keep.inside(&name)? };
                Some((name, trim(value, &keep)))
            });
            Value::Object(kept.collect::<Map<_, _>>())
        }
        Value::Array(values) => values.into_iter().map(|value| trim(value, keep)).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mask_keeps_paths_and_looks_through_lists() {
        let value = json!({ "a": [{ "@type": "t", "b": 1, "c": 2 }], "d": { "e": { "f": 3 } }, "g": 4 });
        let kept = trim(value.clone(), &Keep::new("a.b,d.e"));
        assert_eq!(kept, json!({ "a": [{ "@type": "t", "b": 1 }], "d": { "e": { "f": 3 } } }));
        assert_eq!(trim(value.clone(), &Keep::new("")), value);
        assert_eq!(trim(value, &Keep::new("d,d.x")), json!({ "d": { "e": { "f": 3 } } }));
    }

    #[test]
    fn a_name_is_matched_as_a_whole() {
        let query = Query::new([("name_regex", "a|b.*")]).unwrap();
        assert!(query.takes("a") && query.takes("bc") && !query.takes("ac"));
    }

    #[test]
    fn an_error_says_what_there_is() {
        let error = |key, value| Query::new([(key, value)]).unwrap_err().to_string();
        assert!(error("resource", "x").contains("dynamic_active_clusters"));
        assert!(error("name_regex", "(").contains("no regular expression"));
    }
}
