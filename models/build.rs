//! Takes the gateway's own source with loom's atomics in place of the standard library's, and without its unit tests:
//! nothing in the gateway knows of the models.

use std::path::{Path, PathBuf};
use std::{env, error, fs};

const SOURCES: [&str; 4] = ["gate.rs", "gate/bucket.rs", "in_flight.rs", "upstream/health/alarm.rs"];

fn main() -> Result<(), Box<dyn error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for source in SOURCES {
        let path = Path::new("../gateway/src").join(source);
        println!("cargo::rerun-if-changed={}", path.display());
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        if !code.contains("use std::sync::atomic::") {
            return Err(format!("{}: there are no atomics in it", path.display()).into());
        }
        // An included file has no head, and each of these stands alone.
        let own = |line: &&str| !["//!", "mod ", "pub use "].iter().any(|head| line.starts_with(head));
        let code: String = code.lines().filter(own).flat_map(|line| [line, "\n"]).collect();
        let name = path.file_name().unwrap_or_default();
        fs::write(out.join(name), code.replace("std::sync::atomic", "loom::sync::atomic"))?;
    }
    Ok(())
}
