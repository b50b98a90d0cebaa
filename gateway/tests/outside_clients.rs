//! TLS clients and PROXY protocol headers by others, from Python's registry: tlslite-ng, curl_cffi's browsers, proxy-protocol;
//! and a scanner of servers, sslyze.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/haproxy.rs"]
mod haproxy;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::{self, Origin};
use haproxy::HaProxy;
use serde_json::json;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Whether the Python that `.ci/setup` makes has this module; otherwise one line, or a failure where `E2E=required`.
fn python(module: &str) -> Option<PathBuf> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e/venv/bin/python");
    let python = std::env::var_os("E2E_PYTHON").map_or(made, PathBuf::from);
    let asked =
        Command::new(&python).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
    let is_there = asked.is_ok_and(|status| status.success());
    let missing = format!("{} has no {module}; .ci/setup makes it", python.display());
    assert!(is_there || std::env::var("E2E").as_deref() != Ok("required"), "{missing}");
    if !is_there {
        eprintln!("not run: {missing}");
    }
    is_there.then_some(python)
}

async fn check(python: &Path, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside_clients/check.py");
    let mut command = Command::new(python);
    command.arg(script).args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", text.trim_end());
    text
}

/// A gateway with a pod for mesh clients and, by another name, for all others; and the CA's certificate.
async fn start(alpn: &[&str]) -> (Origin, Gateway, tempfile::NamedTempFile) {
    let ca = Ca::new().unwrap();
    let mut options = origin::Options::new("pod", ca.issue(&[SPIFFE, "httpbin.example.com"]).unwrap());
    options.alpn.extend(alpn.iter().map(|protocol| (*protocol).to_owned()));
    let pod = Origin::start(options).await.unwrap();
    let mut documents = mesh(&[pod.address()]);
    documents.extend(plain_name());
    let gateway = Gateway::start(&documents).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ca.certificate_pem()).unwrap();
    (pod, gateway, file)
}

/// A server of mode PASSTHROUGH: its clients need not be the mesh's.
fn plain_name() -> [(&'static str, serde_json::Value); 2] {
    let gateway = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": { "name": "plain", "namespace": "bar" },
        "spec": {
            "selector": { "istio": "ingressgateway" },
            "servers": [{
                "port": { "number": 15443, "name": "tls", "protocol": "TLS" },
                "tls": { "mode": "PASSTHROUGH" },
                "hosts": ["httpbin.example.com"],
            }],
        },
    });
    let service = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": "plain", "namespace": "bar" },
        "spec": {
            "hosts": ["httpbin.example.com"],
            "gateways": ["plain"],
            "tls": [{
                "match": [{ "port": 15443, "sniHosts": ["httpbin.example.com"] }],
                "route": [{ "destination": { "host": "httpbin.bar.svc.cluster.local", "port": { "number": 8000 } } }],
            }],
        },
    });
    [("plain.json", gateway), ("plain-service.json", service)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tlslite_gets_through_whole_and_in_pieces_or_is_told_why_not() {
    let Some(python) = python("tlslite") else { return };
    let (_pod, gateway, ca) = start(&["http/1.1"]).await;
    let ca = ca.path().display().to_string();
    check(&python, &["tlslite", &gateway.address.to_string(), &ca]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_browser_gets_through() {
    let Some(python) = python("curl_cffi") else { return };
    let (_pod, gateway, ca) = start(&["http/1.1"]).await;
    let ca = ca.path().display().to_string();
    check(&python, &["browsers", &gateway.address.to_string(), &ca]).await;
}

/// A server with an RSA key that speaks whatever OpenSSL still does, which is more than anybody should.
async fn lenient_server() -> Option<HaProxy> {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (key, chain) = (path("key.pem"), path("chain.pem"));
    let mut command = Command::new("openssl");
    command.args([
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &chain, "-days", "2",
    ]);
    command
        .args(["-subj", "/CN=httpbin.example.com"])
        .args(["-addext", "subjectAltName=DNS:httpbin.example.com"]);
    if !command.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        assert_ne!(std::env::var("E2E").as_deref(), Ok("required"), "no openssl; .ci/setup installs it");
        eprintln!("not run: a server with an RSA key wants openssl; .ci/setup installs it");
        return None;
    }
    let pem = [chain, key].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    let bind = "ssl crt PEM ssl-min-ver TLSv1.0 alpn h2,http/1.1 ciphers ALL:@SECLEVEL=0";
    let rest = "  mode http\n  http-request return status 200 content-type text/plain string served\n";
    HaProxy::start(bind, rest, &pem).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scanner_finds_the_same_through_the_gateway_as_without_it() {
    let Some(python) = python("sslyze") else { return };
    let Some(server) = lenient_server().await else { return };
    let mut documents = mesh(&[server.address]);
    documents.extend(plain_name());
    let gateway = Gateway::start(&documents).await;
    check(&python, &["scan", &server.address.to_string(), &gateway.address.to_string()]).await;
}

#[tokio::test]
async fn headers_of_another_library_are_read() {
    let Some(python) = python("proxyprotocol") else { return };
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = Gateway::start_with(&mesh(&addresses(&pods)), |layers| {
        layers.flag("listen.proxy_protocol_from", Some(json!("127.0.0.0/8")))
    })
    .await;
    let headers = check(&python, &["headers"]).await;
    let mut count = 0;
    for line in headers.lines() {
        let [header, client, unique_id] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let header: Vec<u8> = (0..header.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&header[at..at + 2], 16).unwrap())
            .collect();
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let own = stream.local_addr().unwrap().to_string();
        stream.write_all(&[&header[..], &client_hello(GLOBAL, &["istio"])].concat()).await.unwrap();
        // The pod's ServerHello.
        assert_eq!(stream.read_u8().await.unwrap(), 22, "{line}");
        drop(stream);
        count += 1;
        let records = gateway.records(count).await;
        let record = &records[count - 1];
        assert_eq!(
            record["client_addr"],
            if client == "-" { own.as_str() } else { client },
            "{line}: {record}"
        );
        let said = record["proxied"].as_str().unwrap_or_default();
        assert_eq!(said.contains(&format!("unique_id={unique_id}")), unique_id != "-", "{line}: {record}");
    }
    assert_eq!(count, 8);
}

#[tokio::test]
async fn another_library_reads_the_headers_that_are_written() {
    let Some(python) = python("proxyprotocol") else { return };
    let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (version, name) in [("V1", "-"), ("V2", GLOBAL)] {
        let mut documents = mesh(&[pod.local_addr().unwrap()]);
        documents[3] = ("policy.json", policy(json!({ "proxyProtocol": { "version": version } })));
        let gateway = Gateway::start(&documents).await;
        let hello = client_hello(GLOBAL, &["istio"]);
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        client.write_all(&hello).await.unwrap();
        let (mut upstream, _) = pod.accept().await.unwrap();
        let mut came = Vec::new();
        while !came.ends_with(&hello) {
            assert_ne!(upstream.read_buf(&mut came).await.unwrap(), 0, "the hello comes behind the header");
        }
        let header: String =
            came[..came.len() - hello.len()].iter().map(|byte| format!("{byte:02x}")).collect();
        let own = client.local_addr().unwrap();
        assert_eq!(check(&python, &["read", &header]).await.trim_end(), format!("{own} {name}"));
    }
}
