//! Connections that flow through a gateway while something happens to it, and some that stay open.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use eastgate_loadtest::ca::Ca;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::*;

/// What became of connections.
#[derive(Debug, Default, Clone)]
pub struct Done {
    pub answered: usize,
    pub pods: BTreeSet<String>,
    pub failed: Vec<String>,
}

impl Done {
    pub fn assert_no_failure(&self) {
        assert_eq!(self.failed, Vec::<String>::new(), "after {} answers", self.answered);
    }
}

/// TLS connections with a request each, one after the other for each name.
pub struct Load {
    end: watch::Sender<bool>,
    done: watch::Receiver<Done>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(ca: &Ca, address: SocketAddr, names: &[&str]) -> Self {
        let (end, ended) = watch::channel(false);
        let (into, done) = watch::channel(Done::default());
        let client = |name: &&str| {
            let (client, name, ended, into) =
                (mesh_client(ca), (*name).to_owned(), ended.clone(), into.clone());
            tokio::spawn(async move {
                while !*ended.borrow() {
                    let response = client.get(address, &name, "/hostname").await;
                    into.send_modify(|done| match &response {
                        Ok(response) if response.status == 200 => {
                            done.answered += 1;
                            done.pods.extend(response.pod().map(str::to_owned));
                        }
                        other => done.failed.push(format!("{name}: {other:?}")),
                    });
                }
            })
        };
        Self { end, done, clients: names.iter().map(client).collect() }
    }

    /// Waits until so many more connections were answered.
    pub async fn until_more(&self, count: usize) {
        let mut done = self.done.clone();
        let wanted = done.borrow().answered + count;
        let waiting = done.wait_for(|done| done.answered >= wanted || !done.failed.is_empty());
        let done = tokio::time::timeout(PATIENCE, waiting).await.expect("connections flow").unwrap().clone();
        done.assert_no_failure();
    }

    /// Lets the last ones end.
    pub async fn finish(self) -> Done {
        self.end.send_replace(true);
        for client in self.clients {
            client.await.unwrap();
        }
        self.done.borrow().clone()
    }
}

/// Connections to an echo that stay open.
pub struct Live(Vec<TcpStream>);

impl Live {
    pub async fn open(address: SocketAddr, name: &str, count: usize) -> Self {
        let mut live = Self(Vec::new());
        for _ in 0..count {
            live.0.push(TcpStream::connect(address).await.unwrap());
        }
        live.send(&client_hello(name, &["istio"])).await;
        live
    }

    /// Each is still there, and what it sends comes back.
    pub async fn echo(&mut self) {
        self.send(b"still here").await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        for stream in &mut self.0 {
            stream.write_all(bytes).await.unwrap();
            let mut echoed = vec![0; bytes.len()];
            let reading = stream.read_exact(&mut echoed);
            tokio::time::timeout(PATIENCE, reading).await.expect("an echo in time").unwrap();
            assert_eq!(echoed, bytes);
        }
    }
}
