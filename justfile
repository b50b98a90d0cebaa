# `just` lists what there is.

_list:
    @just --list --unsorted

# What a fresh machine needs beyond Rust and a C compiler, for every test to run
setup:
    .ci/setup

# The main job, in one process
demo:
    cargo run --release --bin eastgate -- demo

# Everything that CI runs
ci:
    .ci/run

# The tests
test *ARGS:
    cargo test --workspace {{ARGS}}

# The gateway on go-control-plane
e2e-planes:
    .ci/e2e planes

# The obligations of an xDS client and known failures, played by a scripted control plane
e2e-scripted *ARGS:
    .ci/e2e scripted {{ARGS}}

# The gateway on the real istiod; its first build takes minutes
e2e-istiod:
    .ci/e2e istiod

# The gateway, register and deregister on a real Kubernetes API server; its first build takes minutes
e2e-kubernetes:
    .ci/e2e kubernetes

# Envoy and Eastgate on one control plane, compared, also as istioctl prints them; its first build takes minutes
e2e-judge:
    .ci/e2e judge

# The admin port against its own description (schemathesis), and the status page in Chromium; --screenshots docs renews its pictures
e2e-admin *ARGS:
    .ci/e2e admin {{ARGS}}

# 10,000 connections for each policy through Envoy and through Eastgate, compared endpoint by endpoint
e2e-distribution:
    .ci/e2e distribution

# Formats, lints, documents
lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Every parser of foreign bytes under libFuzzer, for so many seconds each; wants a C++ compiler
fuzz SECONDS="300" *TARGETS:
    .ci/fuzz {{SECONDS}} {{TARGETS}}

# Strange requests at the admin port, so many out of this seed
admin-requests COUNT="100000" SEED="1":
    ADMIN_REQUESTS={{COUNT}} ADMIN_SEED={{SEED}} cargo test -p eastgate --test admin_requests -- --nocapture

# The tests of these parsers under Miri, which wants a nightly toolchain with `miri` and `rust-src`; takes minutes
miri *FILTER:
    .ci/miri {{FILTER}}

# What threads agree on without a lock, in every order of steps that the memory model allows (loom)
models *FILTER:
    cargo test -p eastgate-models {{FILTER}}

# What the binaries are made of, as CycloneDX in target/sbom, and known vulnerabilities where the database can be reached
sbom:
    .ci/sbom

# What a mesh of 10,000 clusters costs: seconds, memory, shares of a core, latency; then the first of it under criterion
scale:
    cargo build --release --bin eastgate
    cargo run --release -p eastgate --example xds_scale
    cargo bench -p eastgate --bench xds_scale

# Rewrites the golden files from what the code makes now; read the difference before you commit it
golden:
    UPDATE=1 cargo test -p eastgate-config --test golden
    UPDATE=1 cargo test -p eastgate --lib -- kubernetes::permissions
    UPDATE=1 cargo test -p eastgate --test reference

# Three pods of httpbin for the five-minute walk (README)
pods:
    cargo run --release --bin eastgate-loadtest -- origin --ca-dir /tmp/eastgate-ca \
        --listen 127.0.0.11:8443 --name httpbin-1 \
        --listen 127.0.0.12:8443 --name httpbin-2 \
        --listen 127.0.0.13:8443 --name httpbin-3

# The page on mesh expansion, walked on four machines out of network namespaces; as root
seed-walk:
    cargo build -p eastgate-loadtest --bin eastgate-loadtest
    E2E=required cargo test -p eastgate --test seed_walk -- --nocapture

# Faults under load, and what became of every connection; as root. A fault lasts for so many connections
chaos CONNECTIONS="1000":
    cargo build -p eastgate-loadtest --bin eastgate-loadtest
    PATH="$PATH:/usr/local/go/bin" CHAOS_CONNECTIONS={{CONNECTIONS}} E2E=required cargo test -p eastgate --test chaos no_connection -- --ignored --nocapture

# Work of all kinds for so many minutes; fails if memory, file descriptors or threads grow
soak MINUTES="30":
    SOAK_MINUTES={{MINUTES}} cargo test --release -p eastgate --test soak -- --ignored --nocapture

# DNS under dnsperf, over UDP and TCP: queries per second, and no answer lost
dns-load SECONDS="10":
    DNSPERF_SECONDS={{SECONDS}} E2E=required cargo test --release -p eastgate --test dns_clients dnsperf -- --nocapture

# Eastgate beside Envoy, HAProxy and nginx, those that are installed (loadtest/README.md)
compare *ARGS:
    cargo build --release --bin eastgate --bin eastgate-loadtest
    target/release/eastgate-loadtest compare --eastgate target/release/eastgate {{ARGS}}

# What hello, route and balancers cost, by time and by instructions (valgrind)
bench *ARGS:
    cargo bench -p eastgate --bench hot_path {{ARGS}}
    .ci/instructions

# 10 GiB in random pieces through a gateway, once with both engines and once with copying alone; SHA-256 at both ends
integrity BYTES="10737418240":
    cargo build --release --bin eastgate --bin eastgate-loadtest
    loadtest/integrity {{BYTES}}

# Connections while go-control-plane changes their endpoints 50 times a second
eds-churn SECONDS="10":
    cargo build --release --bin eastgate --bin eastgate-loadtest
    loadtest/eds-churn {{SECONDS}}

# Hot restarts under an open loop of new connections a second; fails if one is lost
restarts RATE="2000" RESTARTS="20":
    cargo build --release --bin eastgate --bin eastgate-loadtest
    loadtest/restarts {{RATE}} {{RESTARTS}}

# An honest client beside many that drip their ClientHello, a byte each so many milliseconds; fails if it is delayed by more than 10 ms at p99
slowloris CLIENTS="8000" MILLISECONDS="1000":
    cargo build --release --bin eastgate --bin eastgate-loadtest
    loadtest/slowloris {{CLIENTS}} {{MILLISECONDS}}

# Where the gateway's time goes under new connections: target/flamegraph.svg (wants perf and `cargo install inferno`)
flamegraph SECONDS="10":
    CARGO_PROFILE_RELEASE_DEBUG=1 cargo build --release --bin eastgate --bin eastgate-loadtest
    loadtest/flamegraph {{SECONDS}}
