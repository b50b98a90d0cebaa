//! Compiles the descriptors that print messages as JSON: prost's types know their fields by number only. Envoy's .proto
//! files lie in the source of the crate `envoy-types`, and protox is a compiler in Rust, so that nothing has to be
//! installed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, error, fs};

use prost::Message;

/// What a listener, a cluster or its endpoints may hold and the gateway reads, and what a control plane commonly puts
/// in beside that.
const ENVOY: &[&str] = &[
    "envoy/admin/v3/config_dump_shared.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/access_loggers/stream/v3/stream.proto",
    "envoy/extensions/clusters/dns/v3/dns_cluster.proto",
    "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
    "envoy/extensions/filters/listener/local_ratelimit/v3/local_ratelimit.proto",
    "envoy/extensions/filters/listener/original_dst/v3/original_dst.proto",
    "envoy/extensions/filters/listener/proxy_protocol/v3/proxy_protocol.proto",
    "envoy/extensions/filters/listener/set_filter_state/v3/set_filter_state.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/connection_limit/v3/connection_limit.proto",
    "envoy/extensions/filters/network/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/network/rbac/v3/rbac.proto",
    "envoy/extensions/filters/network/set_filter_state/v3/set_filter_state.proto",
    "envoy/extensions/filters/network/sni_cluster/v3/sni_cluster.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto",
    "envoy/extensions/load_balancing_policies/maglev/v3/maglev.proto",
    "envoy/extensions/load_balancing_policies/random/v3/random.proto",
    "envoy/extensions/load_balancing_policies/ring_hash/v3/ring_hash.proto",
    "envoy/extensions/load_balancing_policies/round_robin/v3/round_robin.proto",
    "envoy/extensions/load_balancing_policies/wrr_locality/v3/wrr_locality.proto",
    "envoy/extensions/transport_sockets/proxy_protocol/v3/upstream_proxy_protocol.proto",
    "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/extensions/upstreams/tcp/v3/tcp_protocol_options.proto",
    "envoy/service/discovery/v3/discovery.proto",
];
/// Ours.
const OWN: &str = "proto";

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={OWN}");
    // Another version of envoy-types has other files.
    println!("cargo:rerun-if-changed=../Cargo.lock");
    let mut includes = vec![PathBuf::from(OWN)];
    // Each folder holds the files of one project; that of the CEL specification has them one level further down.
    for folder in folders(&envoys()?)? {
        includes.push(folder.join("proto"));
        includes.push(folder);
    }
    includes.retain(|folder| folder.is_dir());
    let mut files: Vec<PathBuf> = ENVOY.iter().map(PathBuf::from).collect();
    for file in fs::read_dir(OWN)? {
        files.push(file?.file_name().into());
    }
    files.sort();
    let mut compiler = protox::Compiler::new(includes)?;
    compiler.include_source_info(false).include_imports(true).open_files(files)?;
    let descriptors = compiler.file_descriptor_set();
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: this is for cargo to run")?;
    fs::write(Path::new(&out).join("descriptors.bin"), descriptors.encode_to_vec())?;
    Ok(())
}

fn folders(root: &Path) -> Result<Vec<PathBuf>, Box<dyn error::Error>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(root)? {
        folders.push(entry?.path());
    }
    folders.sort();
    Ok(folders)
}

/// Where the .proto files of the crate `envoy-types` lie: only cargo knows where it keeps the source of a dependency.
fn envoys() -> Result<PathBuf, Box<dyn error::Error>> {
    // Cargo wants the source of everything in the workspace to answer. What was not needed for this build may not be
    // there yet, so that it has to be let on the network if it cannot do without.
    let metadata = metadata(&["--offline"]).or_else(|_| metadata(&[]))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let manifest = packages
        .iter()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("the crate envoy-types, whose .proto files are needed, is no dependency any more")?;
    let folder = Path::new(manifest).with_file_name("proto");
    if !folder.is_dir() {
        return Err(format!("envoy-types has no .proto files at {} any more", folder.display()).into());
    }
    Ok(folder)
}

fn metadata(arguments: &[&str]) -> Result<serde_json::Value, Box<dyn error::Error>> {
    let variable =
        |name| env::var_os(name).ok_or_else(|| format!("{name} is not set: this is for cargo to run"));
    let asked = Command::new(variable("CARGO")?)
        .args(["metadata", "--format-version", "1", "--filter-platform"])
        .arg(variable("TARGET")?)
        .args(arguments)
        .current_dir(variable("CARGO_MANIFEST_DIR")?)
        .output()?;
    if !asked.status.success() {
        let said = String::from_utf8_lossy(&asked.stderr);
        return Err(format!("cargo metadata does not tell where the source of envoy-types is: {said}").into());
    }
    Ok(serde_json::from_slice(&asked.stdout)?)
}
