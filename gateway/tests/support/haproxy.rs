//! HAProxy: a server by others, with OpenSSL.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::nobody;

/// A running HAProxy; it ends with this.
pub struct HaProxy {
    child: Child,
    pub address: SocketAddr,
    _directory: TempDir,
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl HaProxy {
    /// With this configuration behind its `bind ADDRESS`. None where there is none, after a line that says so.
    pub async fn start(bind: &str, rest: &str, pem: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let address = nobody();
        let path = directory.path().join("haproxy.cfg");
        std::fs::write(directory.path().join("pod.pem"), pem).unwrap();
        let bind = bind.replace("PEM", &directory.path().join("pod.pem").display().to_string());
        let text = format!(
            "global\n  maxconn 100\n  log stderr local0\ndefaults\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             frontend f\n  bind {address} {bind}\n{rest}"
        );
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(&path).stdout(Stdio::null());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("not run: HAProxy: {error}; .ci/setup installs it");
                return None;
            }
        };
        let mut this = Self { child, address, _directory: directory };
        while TcpStream::connect(address).await.is_err() {
            assert!(this.child.try_wait().unwrap().is_none(), "HAProxy has ended");
            tokio::task::yield_now().await;
        }
        Some(this)
    }
}
