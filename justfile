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

# Formats, lints, documents
lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Rewrites the golden files from what the code makes now; read the difference before you commit it
golden:
    UPDATE=1 cargo test -p eastgate-config --test golden

# Three pods of httpbin for the five-minute walk (README)
pods:
    cargo run --release --bin eastgate-loadtest -- origin --ca-dir /tmp/eastgate-ca \
        --listen 127.0.0.11:8443 --name httpbin-1 \
        --listen 127.0.0.12:8443 --name httpbin-2 \
        --listen 127.0.0.13:8443 --name httpbin-3

# Eastgate beside Envoy, HAProxy and nginx, those that are installed (loadtest/README.md)
compare *ARGS:
    cargo build --release --bin eastgate --bin eastgate-loadtest
    target/release/eastgate-loadtest compare --eastgate target/release/eastgate {{ARGS}}
