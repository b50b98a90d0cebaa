//! A server that OpenSSL makes.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// `openssl s_server`; it ends with this.
pub(crate) struct OpenSsl {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl OpenSsl {
    /// Starts one that answers with a page about the session, with `server.pem` and `server-key.pem` of the directory;
    /// none, with a line that says so, where there is no OpenSSL.
    pub(crate) fn start(directory: &Path, more: &[&str]) -> Option<Self> {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.0.0.1:0", "-www"]);
        command.args(["-cert", "server.pem", "-key", "server-key.pem"]).args(more);
        command.current_dir(directory).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("not run: openssl s_server as the origin: {error}; .ci/setup installs it");
                return None;
            }
        };
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| line.unwrap().strip_prefix("ACCEPT ")?.parse().ok()).unwrap();
        // Its output is read on, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child, address })
    }
}
