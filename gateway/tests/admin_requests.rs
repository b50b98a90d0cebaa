//! Strange requests at the admin port, thousands of them out of one seed: each is answered or its connection ended, none
//! makes a handler panic, and whoever comes after is served.
//!
//! `ADMIN_REQUESTS` says how many (nightly many more), `ADMIN_SEED` which.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use eastgate_loadtest::ca::Ca;
use fastrand::Rng;
use serde_json::Value;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// What is put where a value is due.
const VALUES: [&str; 40] = [
    "",
    "json",
    "true",
    "-1",
    "0",
    "1e999",
    "NaN",
    "18446744073709551616",
    "1h",
    "-1h",
    "99999999999999999999h",
    "%00",
    "%ff%fe",
    "%",
    "%2",
    "%zz",
    "%0d%0aset-cookie:%20a",
    "..%2f..%2fetc%2fpasswd",
    "/../../etc/passwd",
    "*",
    "*.global",
    "(a+)+$",
    "((((",
    "[",
    "a{99999}{99999}",
    "\\",
    "\"",
    "'",
    "<script>",
    "🦀",
    "xn--",
    "0-17",
    "0-99999999999999999999",
    "10.0.0.1:8443",
    "[::1]:99999",
    "256.1.1.1",
    "debug",
    "eastgate=trace,h2",
    "dynamic_listeners",
    "outbound_.8000_._.httpbin.bar.global",
];
const METHODS: [&str; 10] = ["GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "BREW"];
const HEADERS: [&str; 14] = [
    "origin: http://evil.example",
    "sec-fetch-site: cross-site",
    "authorization: Bearer ",
    "authorization: Basic Og==",
    "content-type: application/json",
    "content-length: 5",
    "content-length: 99999999999999999999",
    "transfer-encoding: chunked",
    "expect: 100-continue",
    "upgrade: h2c",
    "accept: text/html",
    "if-none-match: *",
    "range: bytes=0-0,5-",
    "host: evil.example",
];

/// Paths with the names of their parameters, as the port itself describes them.
fn described(description: &Value) -> Vec<(String, Vec<String>)> {
    let parameters = |methods: &Value| {
        let of_each =
            methods.as_object().unwrap().values().filter_map(|method| method["parameters"].as_array());
        of_each.flatten().filter_map(|parameter| parameter["name"].as_str().map(str::to_owned)).collect()
    };
    description["paths"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(path, methods)| (path.clone(), parameters(methods)))
        .collect()
}

fn value(random: &mut Rng) -> String {
    match random.u8(..20) {
        0 => "a".repeat(random.usize(..20_000)),
        1 => (0..random.usize(..40)).map(|_| format!("%{:02x}", random.u8(..))).collect(),
        2 => (0..random.usize(..20)).map(|_| random.char(' '..)).collect(),
        _ => random.choice(VALUES).unwrap().to_owned(),
    }
}

/// A request that is mostly one: a path that is there, parameters that it knows, and values that it does not expect.
fn request(random: &mut Rng, paths: &[(String, Vec<String>)]) -> Vec<u8> {
    let (path, names) = random.choice(paths).unwrap();
    let mut line = format!("{} {path}", random.choice(METHODS).unwrap());
    if random.u8(..10) == 0 {
        line += &value(random);
    }
    for index in 0..random.usize(..4) {
        line += if index == 0 { "?" } else { "&" };
        line += names.get(random.usize(..=names.len())).map_or("format", String::as_str);
        if random.u8(..8) > 0 {
            line += "=";
            line += &value(random);
        }
    }
    let mut text = format!("{line} HTTP/1.{}\r\n", if random.u8(..10) == 0 { "0" } else { "1" });
    if random.u8(..20) > 0 {
        text += "host: localhost\r\nconnection: close\r\n";
    }
    for _ in 0..random.usize(..3) {
        text += random.choice(HEADERS).unwrap();
        text += if random.bool() { "\r\n" } else { "x\r\n" };
    }
    text += "\r\n";
    if random.u8(..4) == 0 {
        text += &value(random);
    }
    let mut bytes = text.into_bytes();
    if random.u8(..5) == 0 {
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
    }
    bytes
}

/// The status of the answer, none where the request was no whole one.
async fn answer(address: SocketAddr, request: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may be refused in the middle.
    let _ = stream.write_all(request).await;
    let mut head = Vec::new();
    let reading =
        async { while head.len() < 12 && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {} };
    // Who has not said all is not answered yet, and waits for nothing.
    let _ = tokio::time::timeout(Duration::from_millis(250), reading).await;
    let status = String::from_utf8_lossy(head.get(9..12)?).parse();
    Some(status.unwrap_or_else(|_| panic!("{:?}", String::from_utf8_lossy(&head))))
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_too_strange_for_the_admin_port() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    let paths = described(&gateway.admin_json("/openapi.json").await);
    assert!(paths.len() > 20, "{paths:?}");
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, SeqCst);
        usual(panic);
    }));
    let seed = from_environment("ADMIN_SEED", 1);
    let mut random = Rng::with_seed(seed);
    let mut statuses = std::collections::BTreeMap::<Option<u16>, u32>::new();
    for number in 0..from_environment("ADMIN_REQUESTS", 3_000) {
        let request = request(&mut random, &paths);
        let text = || String::from_utf8_lossy(&request).into_owned();
        let status = answer(gateway.app.admin_address(), &request).await;
        *statuses.entry(status).or_default() += 1;
        // 503: it is not ready, or what was asked for is not there yet.
        assert!(
            status.is_none_or(|status| status < 500 || status == 503),
            "seed {seed}, request {number}: {status:?} to {}",
            text()
        );
        assert_eq!(PANICS.load(SeqCst), 0, "seed {seed}, request {number}: {}", text());
    }
    println!("answers by status: {statuses:?}");
    // There were requests of every kind among them.
    assert!(
        statuses.contains_key(&Some(200))
            && statuses.contains_key(&Some(400))
            && statuses.contains_key(&Some(405))
    );
    assert_eq!(gateway.admin("/server_info").await.0, 200);
}
