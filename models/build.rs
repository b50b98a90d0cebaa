//! Takes the gateway's own source with loom's atomics in place of the standard library's, and without its unit tests:
//! nothing in the gateway knows of the models.

use std::path::Path;
use std::{env, fs};

const SOURCES: [&str; 4] = ["gate.rs", "gate/bucket.rs", "in_flight.rs", "upstream/health/alarm.rs"];

fn main() {
    let out = env::var("OUT_DIR").expect("cargo says where");
    for source in SOURCES {
        let path = Path::new("../gateway/src").join(source);
        println!("cargo::rerun-if-changed={}", path.display());
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(code.contains("use std::sync::atomic::"), "{}: there are no atomics in it", path.display());
        // An included file has no head, and each of these stands alone.
        let own = |line: &&str| !["//!", "mod ", "pub use "].iter().any(|head| line.starts_with(head));
        let code: String = code.lines().filter(own).flat_map(|line| [line, "\n"]).collect();
        let code = code.replace("std::sync::atomic", "loom::sync::atomic");
        let name = path.file_name().unwrap_or_default();
        fs::write(Path::new(&out).join(name), code).expect("cargo's directory can be written");
    }
}
