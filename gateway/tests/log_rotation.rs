//! The access log's file is rotated as logrotate does it, under load: rename, SIGHUP. No line is lost. And what of the process's
//! own log is told is changed while it runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

#[path = "support/program.rs"]
mod program;

use std::net::SocketAddr;
use std::path::Path;

use eastgate_loadtest::origin::RawOrigin;
use program::Eastgate;
use support::*;

async fn connections(to: SocketAddr, count: usize) {
    for _ in 0..count {
        say(&mut tunnel(to).await.unwrap()).await;
    }
}

/// The lines of a file, each of them whole.
fn lines(path: &Path) -> usize {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .inspect(|line| drop(serde_json::from_str::<serde_json::Value>(line).expect("a whole line")))
        .count()
}

/// A gateway with these pods, whose access log is in this directory.
async fn gateway(directory: &Path, pods: &[SocketAddr]) -> Eastgate {
    std::fs::create_dir(directory.join("mesh")).unwrap();
    for (name, document) in mesh(pods) {
        std::fs::write(directory.join("mesh").join(name), document.to_string()).unwrap();
    }
    let path = |name: &str| directory.join(name).display().to_string();
    let (mesh, log) = (path("mesh"), path("access.log"));
    let arguments = ["--mesh-dir", &mesh, "--access-log", &log, "--listen", "15443=127.0.0.1:0"];
    Eastgate::start(&arguments, &[("EASTGATE_DRAIN_GRACE", "0s".into())]).await
}

#[tokio::test]
async fn a_rotated_log_has_every_connection_in_one_of_its_files() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("access.log");
    let gateway = gateway(directory.path(), &[pod.address()]).await;
    let address = gateway.listening("0.0.0.0_15443").await;

    let mut files = Vec::new();
    for rotation in 0..5 {
        let load = tokio::spawn(connections(address, 40));
        connections(address, 20).await;
        let old = directory.path().join(format!("access.log.{rotation}"));
        std::fs::rename(&log, &old).unwrap();
        gateway.signal("HUP");
        files.push(old);
        load.await.unwrap();
        while !log.exists() {
            tokio::task::yield_now().await;
        }
    }
    gateway.signal("TERM");
    let (status, text) = gateway.exit().await;
    assert!(status.success(), "{text}");
    files.push(log);
    let counts: Vec<_> = files.iter().map(|path| lines(path)).collect();
    assert_eq!(counts.iter().sum::<usize>(), 300, "{counts:?}");
    assert!(counts.iter().filter(|count| **count > 0).count() > 2, "{counts:?}");
}

#[tokio::test]
async fn an_operator_rotates_it_too_and_so_does_a_signal_while_connections_drain() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (log, old) =
        (directory.path().join("access.log"), |n| directory.path().join(format!("access.log.{n}")));
    let gateway = gateway(directory.path(), &[pod.address()]).await;
    let address = gateway.listening("0.0.0.0_15443").await;
    let reopened = async || {
        while !log.exists() {
            tokio::task::yield_now().await;
        }
    };
    connections(address, 1).await;
    while lines(&log) == 0 {
        tokio::task::yield_now().await;
    }
    std::fs::rename(&log, old(1)).unwrap();
    assert_eq!(gateway.post("/reopen_logs").await, (200, "OK\n".into()));
    reopened().await;

    let mut last = tunnel(address).await.unwrap();
    gateway.signal("TERM");
    gateway.logged(" draining ").await;
    std::fs::rename(&log, old(2)).unwrap();
    gateway.signal("HUP");
    reopened().await;
    say(&mut last).await;
    drop(last);
    let (status, text) = gateway.exit().await;
    assert!(status.success(), "{text}");
    assert_eq!([old(1), old(2), log].map(|path| lines(&path)), [1, 0, 1], "each is where it was told");
}

#[tokio::test]
async fn a_modules_level_is_set_while_it_runs_and_the_others_keep_theirs() {
    let directory = tempfile::tempdir().unwrap();
    let gateway = gateway(directory.path(), &[]).await;
    let before = gateway.admin("/logging").await;
    assert_eq!(gateway.post("/logging?paths=source::xds:trace,dns:warning").await.0, 200);
    let text = gateway.admin("/logging").await;
    for part in before.trim().split(',').chain(["eastgate::source::xds=trace", "eastgate::dns=warn"]) {
        assert!(text.trim().split(',').any(|found| found == part), "{part} in {text}");
    }
    // A filter as it is told can be given back.
    assert_eq!(gateway.post(&format!("/logging?level={}", before.trim())).await, (200, before.clone()));
    assert_eq!(gateway.post("/logging").await, (200, before));
    for wrong in ["paths=nothing:debug", "paths=dns:loud", "level=loud"] {
        let (code, text) = gateway.post(&format!("/logging?{wrong}")).await;
        assert!(code == 400 && text.contains("there are") || text.contains("is no level"), "{wrong}: {text}");
    }
}
