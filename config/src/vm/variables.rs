//! `${NAME}` in ServiceEntries, which the document leaves to the reader's shell.

use std::collections::BTreeMap;

use super::{Error, GATEWAY};

/// The text with every `${NAME}` replaced. In comments nothing is.
///
/// # Errors
/// A variable that has no value, with its place.
pub fn substitute(path: &str, text: &str, variables: &BTreeMap<String, String>) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_start().starts_with('#') {
            out.push_str(line);
            continue;
        }
        let mut rest = line;
        while let Some((before, name, after)) = next(rest) {
            let place = || format!("{path}:{}", index + 1);
            let value = variables.get(name).ok_or_else(|| match name {
                GATEWAY => Error::NoGateway { place: place(), name: name.to_owned() },
                _ => Error::Variable { place: place(), name: name.to_owned() },
            })?;
            out.push_str(before);
            out.push_str(value);
            rest = after;
        }
        out.push_str(rest);
    }
    Ok(out)
}

/// What stands before the first variable, its name, and what stands behind it.
fn next(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("${")?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}
