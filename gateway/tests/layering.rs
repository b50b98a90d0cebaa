//! The rules of the design that a compiler does not hold: who may import whom, and how long a file may be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the gateway, each importing only from rows below its own.
const ROWS: &[&[&str]] = &[
    &[
        "admin_client",
        "attempt",
        "client_hello",
        "control_plane",
        "relay",
        "server_hello",
        "proxy_protocol",
        "metrics",
        "drain",
        "gate",
        "in_flight",
        "kubernetes",
        "readiness",
        "restart",
        "sandbox",
        "signals",
        "telemetry",
    ],
    &["upstream", "access_log", "inspect", "tls"],
    &["failures", "open", "otlp", "table"],
    &["closing", "dialects", "listener", "overload", "shed"],
    &["connection", "publish", "monitor"],
    &["accept", "source", "dns", "admin", "hello_command", "xds_command"],
    &["app", "register", "explain_command", "terminal"],
    &["check", "vm"],
    &["args", "demo", "main"],
];
const LONGEST: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match path.is_dir() {
            // What fuzz/ has of the gateway are links, and is looked at where it is.
            _ if path.is_symlink() => {}
            true if name != "target" && !name.starts_with('.') => sources(&path, found),
            false if name.ends_with(".rs") => found.push(path),
            _ => {}
        }
    }
}

fn row_of(module: &str) -> usize {
    let row = ROWS.iter().position(|row| row.contains(&module));
    row.unwrap_or_else(|| {
        panic!("module {module} stands in no row of this table; give it one, and ARCHITECTURE.md")
    })
}

/// The first path segment after `crate::` on each line that names one, outside comments and tests.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let segment =
        |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    code.flat_map(|line| line.split("crate::").skip(1).map(segment).collect::<Vec<_>>()).collect()
}

#[test]
fn every_module_imports_from_lower_rows_only() {
    let src = root().join("gateway/src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut checked = 0;
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let module = relative.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
        if module == "lib" || relative.ends_with("tests.rs") {
            continue;
        }
        for imported in imports(&fs::read_to_string(&file).unwrap()) {
            checked += 1;
            let fine = imported == module || imported.is_empty() || row_of(&imported) < row_of(&module);
            assert!(fine, "{} imports {imported}, which is not in a lower row", relative.display());
        }
    }
    assert!(checked > 30, "the check has read only {checked} imports");
}

#[test]
fn wire_types_stay_where_they_are_decoded() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    for file in files {
        let path = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let allowed = [
            "proto/",
            "config/src/xds",
            "config/tests/",
            "fuzz/fuzz_targets/",
            "gateway/benches/",
            "gateway/examples/",
            "gateway/src/source/xds",
            "gateway/src/dns/grpc",
            "gateway/src/monitor/probe",
            "gateway/src/otlp",
            "gateway/tests/",
        ];
        let names = fs::read_to_string(&file).unwrap().contains("eastgate_proto::");
        assert!(!names || allowed.iter().any(|prefix| path.starts_with(prefix)), "{path} names wire types");
    }
}

#[test]
fn the_crates_depend_on_each_other_one_way() {
    let manifest = |name: &str| fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
    let depends = |name: &str, on: &str| manifest(name).lines().any(|line| line.starts_with(on));
    for (name, others) in [
        ("proto", &["eastgate-config", "eastgate-loadtest"][..]),
        ("config", &["eastgate-loadtest", "tokio", "notify", "socket2"]),
        ("loadtest", &["eastgate-config", "eastgate.workspace"]),
    ] {
        for other in others {
            assert!(!depends(name, other), "{name} depends on {other}");
        }
    }
}

#[test]
fn no_source_file_is_longer_than_can_be_read() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    assert!(files.len() > 50);
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        let path = file.strip_prefix(root()).unwrap();
        assert!(lines <= LONGEST, "{} has {lines} lines; split it by noun", path.display());
    }
}
