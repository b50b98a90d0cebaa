//! The resources as they are written: one serde structure for each message of Istio's networking API with every
//! field that its reference documents, so that a misspelt field is an error and not a silent nothing; and the parts
//! of Kubernetes' core kinds that matter here, leniently, because the API server has already checked those.
//!
//! Numbers that have a range are `i64` here: the range is checked where the message can say what the range is.

// Fields that the gateway accepts and has no use for are part of the schema all the same.
#![allow(dead_code)]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) mod authorization_policy;
pub(super) mod core;
pub(super) mod destination_rule;
pub(super) mod envoy_filter;
pub(super) mod gateway;
pub(super) mod service_entry;
pub(super) mod virtual_service;

/// Labels, annotations, selectors.
pub(super) type Labels = BTreeMap<String, String>;

/// Are all labels of the selector among these?
pub(super) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// `metadata` of every kind, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(deserialize_with = "or_default")]
    pub(super) namespace: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: Labels,
    #[serde(deserialize_with = "or_default")]
    pub(super) annotations: Labels,
}

/// `workloadSelector` of several kinds.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WorkloadSelector {
    #[serde(alias = "matchLabels")]
    pub(super) labels: Labels,
}

/// A port by number.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortSelector {
    pub(super) number: i64,
}

/// A field that is given as `null` is a field that is not given.
pub(super) fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Decodes one field of a resource, or says which field in it is wrong and why.
pub(super) fn decode<T: DeserializeOwned>(root: &str, value: &Value) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.inner().to_string();
        // An unknown field's own name stands at the end of the path; serde counts a missing one to what is around it.
        let field = match (root, path.as_str()) {
            (root, "." | "?") => root.to_owned(),
            ("", path) => path.to_owned(),
            (root, path) if path.starts_with('[') => format!("{root}{path}"),
            (root, path) => format!("{root}.{path}"),
        };
        (field, explain(&inner))
    })
}

/// Adds the remedy to serde's words.
fn explain(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match quoted.split_first() {
        Some((given, known)) if message.starts_with("unknown field") => {
            format!("there is no field {given}{}", nearest(given, known))
        }
        Some((given, known)) if message.starts_with("unknown variant") => {
            format!("{given:?} is not a value of this field{}", nearest(given, known))
        }
        _ => in_the_words_of_yaml(message),
    }
}

/// Serde speaks of Rust's types, which are nothing to the author of a resource.
fn in_the_words_of_yaml(message: &str) -> String {
    let Some((given, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    let is_text = given.starts_with("invalid type: string");
    match expected {
        "a string" => format!("{given}, expected text; put it in quotes"),
        "i64" if is_text => format!("{given}, expected a number; take the quotes away"),
        "i64" => format!("{given}, expected a whole number"),
        "a boolean" => format!("{given}, expected true or false"),
        "a sequence" => format!("{given}, expected a list; start each item with -"),
        fields if fields == "a map" || fields.starts_with("struct ") => format!("{given}, expected fields"),
        _ => message.to_owned(),
    }
}

/// The known name that was probably meant, or all of them.
fn nearest(given: &str, known: &[&str]) -> String {
    let best = known.iter().max_by(|a, b| {
        let near = |name: &str| strsim::jaro_winkler(&given.to_lowercase(), &name.to_lowercase());
        near(a).total_cmp(&near(b))
    });
    match best {
        Some(best) if strsim::jaro_winkler(&given.to_lowercase(), &best.to_lowercase()) > 0.75 => {
            format!("; did you mean {best}?")
        }
        Some(_) => format!("; there are {}", known.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T: DeserializeOwned + std::fmt::Debug>(value: serde_json::Value) -> (String, String) {
        decode::<T>("spec", &value).unwrap_err()
    }

    #[test]
    fn a_misspelt_field_is_named_with_the_one_that_was_meant() {
        let value = serde_json::json!({"servers": [{"port": {"nubmer": 1}}]});
        let (field, reason) = refusal::<gateway::Gateway>(value);
        assert_eq!(field, "spec.servers[0].port.nubmer");
        assert_eq!(reason, "there is no field nubmer; did you mean number?");
    }

    #[test]
    fn a_value_outside_an_enumeration_is_named_with_the_one_that_was_meant() {
        let value = serde_json::json!({"servers": [{"tls": {"mode": "AUTOPASSTHROUGH"}}]});
        let (field, reason) = refusal::<gateway::Gateway>(value);
        assert_eq!(field, "spec.servers[0].tls.mode");
        assert!(reason.ends_with("did you mean AUTO_PASSTHROUGH?"), "{reason}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_told_in_the_words_of_yaml() {
        let reason = |value: serde_json::Value| refusal::<gateway::Gateway>(value).1;
        let text = reason(serde_json::json!({"servers": [{"port": {"number": "1"}}]}));
        assert!(text.ends_with("expected a number; take the quotes away"), "{text}");
        let text = reason(serde_json::json!({"servers": [{"port": 1}]}));
        assert!(text.ends_with("expected fields"), "{text}");
        let text = reason(serde_json::json!({"servers": [{"hosts": "*"}]}));
        assert!(text.ends_with("expected a list; start each item with -"), "{text}");
    }

    #[test]
    fn a_number_where_text_belongs_asks_for_quotes() {
        let value = serde_json::json!({"selector": {"version": 1}});
        let (field, reason) = refusal::<gateway::Gateway>(value);
        assert_eq!(field, "spec.selector.version");
        assert!(reason.ends_with("put it in quotes"), "{reason}");
    }
}
