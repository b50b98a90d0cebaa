//! A connection as it passes from one process to the next: both sockets, the bytes between them, and all that its record
//! and its limits are made of.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use eastgate_config::server_name::ServerName;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::{Tunnel, carry, conclude};
use crate::listener::Listener;
use crate::open::{self, Passing};
use crate::relay::{Handed, Patience, Relay};
use crate::restart::{Passed, frame};
use crate::upstream;

mod state;

use state::State;

/// Offers a connection to the next process, while nothing moves its bytes; true when that has it. Otherwise the relay
/// goes on here as if nothing had been.
pub(super) async fn offer(
    client: &TcpStream,
    tunnel: &Tunnel,
    relay: &mut Relay<'_>,
    to: open::Hand,
) -> bool {
    let Tunnel { open, patience, .. } = tunnel;
    let Some(handed) = relay.pause() else {
        open.stay();
        return false;
    };
    let (taken, answer) = oneshot::channel();
    let passed = state(open, patience, &handed).and_then(|tunnel| {
        let socket = |stream: &TcpStream| stream.as_fd().try_clone_to_owned();
        Ok((tunnel, [socket(client)?, socket(&open.upstream.stream)?]))
    });
    match passed {
        // Whoever collects them may be gone; then nobody answers.
        Ok(passed) => drop(to.send(Passing { passed, taken })),
        Err(error) => {
            tracing::warn!(%error, "a connection stays in this process");
            open.stay();
            drop(taken);
        }
    }
    // Nobody answers before all are collected who hold one of these.
    drop(to);
    if answer.await.is_ok() {
        return true;
    }
    relay.go_on(handed);
    false
}

fn state(open: &open::Entered, patience: &Patience, handed: &Handed) -> io::Result<frame::Tunnel> {
    let record = &open.record;
    let state = State {
        listener: record.listener.to_string(),
        cluster: open.cluster.config.name.clone(),
        endpoint: open.upstream.endpoint.endpoint().address,
        client_addr: record.client_addr,
        server_name: record.server_name.as_ref().map(ToString::to_string),
        client_random: record.client_random.as_ref().map(ToString::to_string),
        listed: record.listed,
        rewritten: record.rewritten.clone(),
        route: record.route.as_ref().map(ToString::to_string),
        attempts: record.attempts,
        age: record.age(),
        to_upstream_bytes: handed.moved.0,
        to_client_bytes: handed.moved.1,
        ended: handed.ended,
        idle_timeout: patience.idle,
        max_age: patience.age.map(|age| age.saturating_sub(record.age())),
        keepalive: patience.keepalive,
    };
    Ok(frame::Tunnel {
        state: serde_json::to_vec(&state)?,
        to_upstream: handed.to_upstream.clone(),
        to_client: handed.to_client.clone(),
    })
}

/// A connection that has come from the process before.
#[derive(Debug)]
pub struct Arrived {
    state: State,
    passed: Passed,
}

impl Arrived {
    /// Reads what came.
    ///
    /// # Errors
    /// It is of a version that this one does not understand.
    pub fn new(passed: Passed) -> Result<Self, serde_json::Error> {
        Ok(Self { state: serde_json::from_slice(&passed.0.state)?, passed })
    }

    /// The listener that accepted it.
    pub fn listener(&self) -> &str {
        &self.state.listener
    }
}

/// Serves a connection that the process before has served so far. Must run on a data thread.
pub async fn resume(arrived: Arrived, listener: &Listener) {
    let Arrived { state, passed: (frame::Tunnel { to_upstream, to_client, .. }, sockets) } = arrived;
    let moved = (state.to_upstream_bytes, state.to_client_bytes);
    let handed = Handed { to_upstream, to_client, moved, ended: state.ended };
    let [client, upstream] = sockets.map(|fd| TcpStream::from_std(std::net::TcpStream::from(fd)));
    let (Ok(client), Ok(upstream)) = (client, upstream) else {
        return tracing::error!("a connection from the process before cannot be polled, and is cut");
    };
    let _open = listener.metrics.open();
    let Some(tunnel) = Box::pin(enter(state, handed, upstream, listener)).await else { return };
    let result = carry(&client, &tunnel).await;
    conclude(tunnel.open.leave(), &result, listener);
}

async fn enter(state: State, handed: Handed, stream: TcpStream, listener: &Listener) -> Option<Tunnel> {
    let cluster = listener.cluster(&state.cluster, state.endpoint);
    let upstream = upstream::adopt(&cluster, state.endpoint, stream)?;
    let mut record = listener.access_log.resume(&listener.name, state.client_addr, state.age);
    record.server_name = state.server_name.and_then(|name| ServerName::from_sni(name.as_bytes()).ok());
    record.client_random = state.client_random.and_then(|random| random.parse().ok());
    (record.listed, record.rewritten) = (state.listed, state.rewritten);
    record.route = Some(state.route.unwrap_or_default().into());
    record.attempts = state.attempts;
    record.cluster = Some(Arc::clone(&cluster.config));
    record.count(cluster.stats.usage());
    listener.metrics.lead();
    record.endpoint = Some(state.endpoint);
    record.locality = Some(Arc::clone(&upstream.endpoint.endpoint().locality));
    let open = open::enter(record, upstream, cluster).await;
    open.moved.to_upstream.set(handed.moved.0);
    open.moved.to_client.set(handed.moved.1);
    let handed = Cell::new(Some(Box::new(handed)));
    let patience = Patience { idle: state.idle_timeout, age: state.max_age, keepalive: state.keepalive };
    let patience = Box::new(patience);
    Some(Tunnel { open, handed, patience })
}
