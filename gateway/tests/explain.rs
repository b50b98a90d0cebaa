//! `eastgate explain` and `/explain`: what is said becomes of a connection, and what becomes of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::process::{Command, Output};

use eastgate_loadtest::ca::Ca;
use serde_json::Value;
use support::*;

async fn command(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eastgate"));
    command.arg("explain").args(arguments);
    // The gateway runs on this test's own thread.
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/examples/httpbin");

#[tokio::test]
async fn the_example_is_explained_without_a_gateway() {
    let goes = command(&["--sni", GLOBAL, "--alpn", "istio", "--mesh-dir", EXAMPLE]).await;
    assert!(goes.status.success(), "{}", text(&goes));
    for part in ["rewritten", ": takes it", "127.0.0.11:8443", &format!("=> goes to cluster {LOCAL}")] {
        assert!(text(&goes).contains(part), "{part}: {}", text(&goes));
    }
    let refused = command(&["--sni", "outbound_.8000_._.htpbin.bar.global", "--mesh-dir", EXAMPLE]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains(&format!("nearest    {LOCAL}")), "{}", text(&refused));
    let both = command(&["--sni", GLOBAL, "--mesh-dir", EXAMPLE, "--admin", "127.0.0.1:1"]).await;
    assert_eq!(both.status.code(), Some(2), "one or the other: {}", text(&both));
}

#[tokio::test]
async fn a_running_gateway_explains_what_it_does() {
    let pods = pods(&Ca::new().unwrap(), 1).await;
    let endpoints = addresses(&pods);
    let gateway = Gateway::start(&mesh(&endpoints)).await;
    let admin = gateway.app.admin_address().to_string();

    let goes = command(&["--sni", GLOBAL, "--alpn", "istio", "--admin", &admin]).await;
    assert!(goes.status.success(), "{}", text(&goes));
    assert!(text(&goes).contains(&endpoints[0].to_string()), "{}", text(&goes));
    // One verdict in all three ways of asking.
    let json = command(&["--sni", GLOBAL, "--admin", &format!("http://{admin}"), "-o", "json"]).await;
    assert_eq!(json.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let verdict = &json["listeners"][0];
    assert_eq!((&verdict["verdict"]["flag"], &verdict["verdict"]["alert"]), (&"NR".into(), &120.into()));
    let asked = gateway.admin_json(&format!("/explain?sni={GLOBAL}&format=json")).await;
    assert_eq!(asked["listeners"][0]["verdict"], verdict["verdict"]);

    let port = gateway.address.port();
    let here = gateway.admin_json(&format!("/explain?sni={GLOBAL}&alpn=istio&port={port}&format=json")).await;
    assert_eq!(here["listeners"][0]["verdict"]["cluster"], LOCAL, "the port where it is bound");
    let (code, text) = gateway.admin("/explain?sni=a&port=x").await;
    assert!(code == 400 && text.contains("is not a port"), "{text}");
    let (code, text) = gateway.admin("/explain").await;
    assert!(code == 400 && text.contains("?sni=NAME"), "{text}");
}
