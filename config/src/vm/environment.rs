//! `cluster.env`: lines of `NAME=VALUE`, as a shell and systemd's `EnvironmentFile` read them.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::Error;

/// The variables of `cluster.env`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Reads the lines; of two of the same name the later counts. Quotes of either kind are taken off, as is `export`.
    ///
    /// # Errors
    /// A line that is neither empty, a comment nor `NAME=VALUE`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut variables = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = || Error::Line { line: index + 1, text: line.to_owned() };
            let (name, value) =
                line.strip_prefix("export ").unwrap_or(line).split_once('=').ok_or_else(wrong)?;
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(is_name) {
                return Err(wrong());
            }
            variables.insert(name.to_owned(), unquoted(value.trim()).ok_or_else(wrong)?.to_owned());
        }
        Ok(Self(variables))
    }

    /// The value of a variable that is there and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Every variable.
    pub fn all(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The value of the first of these that is there.
    pub(super) fn parse_one<T: FromStr>(
        &self,
        names: &[&'static str],
        wanted: &'static str,
    ) -> Result<Option<T>, Error> {
        let found = names.iter().find_map(|name| Some((*name, self.get(name)?)));
        let Some((name, value)) = found else { return Ok(None) };
        value.parse().map(Some).map_err(|_| Error::Value { name, value: value.to_owned(), wanted })
    }

    /// A list with commas; `None` for `*`, and an empty one where there is no such variable.
    pub(super) fn list<T: FromStr>(
        &self,
        name: &'static str,
        wanted: &'static str,
    ) -> Result<Option<Vec<T>>, Error> {
        let Some(value) = self.get(name) else { return Ok(Some(Vec::new())) };
        if value.trim() == "*" {
            return Ok(None);
        }
        let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items =
            items.map(|item| item.parse().map_err(|_| Error::Value { name, value: item.to_owned(), wanted }));
        items.collect::<Result<_, _>>().map(Some)
    }
}

/// The value without its quotes; `None` where they do not close.
fn unquoted(value: &str) -> Option<&str> {
    match value.chars().next() {
        Some(quote @ ('\'' | '"')) => value.strip_prefix(quote)?.strip_suffix(quote),
        _ => Some(value),
    }
}
