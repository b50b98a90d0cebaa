//! Lines for `/etc/hosts`.

use std::fmt;
use std::net::IpAddr;

use super::Error;

/// The lines of a `hosts` file: an address, and its names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts(Vec<(IpAddr, Vec<String>)>);

impl Hosts {
    /// Reads the lines.
    ///
    /// # Errors
    /// A line that is neither empty, a comment nor an address with names.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut lines = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            let Some((address, names)) = words.split_first() else { continue };
            let wrong = || Error::Hosts { line: index + 1, text: line.to_owned() };
            let address = address.parse().map_err(|_| wrong())?;
            if names.is_empty() {
                return Err(wrong());
            }
            lines.push((address, names.iter().map(|name| (*name).to_owned()).collect()));
        }
        Ok(Self(lines))
    }

    /// The address of a name.
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        let has = |names: &[String]| names.iter().any(|other| other.eq_ignore_ascii_case(name));
        self.0.iter().find(|(_, names)| has(names)).map(|(address, _)| *address)
    }

    /// Adds a line, unless the name has one.
    pub fn add(&mut self, address: IpAddr, name: &str) {
        if self.address(name).is_none() {
            self.0.push((address, vec![name.to_owned()]));
        }
    }

    /// Has it no lines?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(address, names)| writeln!(f, "{address} {}", names.join(" ")))
    }
}
