//! `SHA256SUMS`, as `sha256sum -c` reads it: a directory that was copied badly is found out before it is laid out.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

/// Its name.
pub(super) const FILE: &str = "SHA256SUMS";

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sums of these files.
pub(super) fn write(files: &BTreeMap<String, Vec<u8>>) -> String {
    files.iter().map(|(name, bytes)| format!("{}  {name}\n", sum(bytes))).collect()
}

/// Checks a directory that has sums.
pub(super) fn check(directory: &Path) -> anyhow::Result<()> {
    let Ok(text) = std::fs::read_to_string(directory.join(FILE)) else { return Ok(()) };
    for line in text.lines() {
        let (wanted, name) = line.split_once("  ").with_context(|| {
            format!(
                "{}: {line:?} is no sum and name; copy the directory again",
                directory.join(FILE).display()
            )
        })?;
        let path = directory.join(name);
        let bytes = std::fs::read(&path).with_context(|| {
            format!("{} is in {FILE} and cannot be read; copy the directory again", path.display())
        })?;
        let differs = || format!("{} is not what {FILE} says; copy the directory again", path.display());
        ensure!(sum(&bytes) == wanted, differs());
    }
    Ok(())
}
