//! The access log's file is rotated as logrotate does it, under load: rename, SIGHUP. No line is lost.

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

#[tokio::test]
async fn a_rotated_log_has_every_connection_in_one_of_its_files() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("mesh")).unwrap();
    for (name, document) in mesh(&[pod.address()]) {
        std::fs::write(directory.path().join("mesh").join(name), document.to_string()).unwrap();
    }
    let log = directory.path().join("access.log");
    let mesh = directory.path().join("mesh").display().to_string();
    let path = log.display().to_string();
    let arguments = ["--mesh-dir", &mesh, "--access-log", &path, "--listen", "15443=127.0.0.1:0"];
    let gateway = Eastgate::start(&arguments, &[("EASTGATE_DRAIN_GRACE", "0s".into())]).await;
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
