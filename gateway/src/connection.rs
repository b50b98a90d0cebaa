//! A connection, from accept to close: inspect, route, connect, relay.

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use eastgate_config::listener::{Ends, Role};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::access_log;
use crate::client_hello::ClientHello;
use crate::failures;
use crate::gate::{ClientPass, Pass};
use crate::in_flight::Passing;
use crate::inspect::{self, Begun};
use crate::listener::Listener;
use crate::metrics::Flag;
use crate::metrics::server_names::{self, What};
use crate::open::{self, Ask};
use crate::proxy_protocol::{self, Told};
use crate::relay::{self, Handed, Meter, Patience};
use crate::server_hello::Answer;
use crate::table::Routed;
use crate::tls;
use crate::upstream::{self, Attempts, Cluster, Upstream};

mod error;
pub mod explain;
mod originate;
mod passed;
mod replay;
mod retry;
mod secured;
mod terminate;

pub use error::{Error, Fault};
pub use passed::{Arrived, resume};
use replay::replay;

/// How long a refused client may go on sending before it is cut.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it is read meanwhile.
const MAX_DISCARDED: usize = 256 * 1024;

/// Serves one connection until both halves have closed. What counts it is held until its socket is closed.
///
/// No `async fn`, which would keep room for its arguments twice, and every idle tunnel would pay for that.
pub fn serve<Held: 'static>(
    client: TcpStream,
    client_addr: SocketAddr,
    listener: Arc<Listener>,
    held: Held,
) -> impl Future<Output = ()> {
    let record = listener.access_log.begin(&listener.name, client_addr);
    async move {
        let open = listener.metrics.open();
        let role = listener.role();
        // Boxed, where TLS sessions would want room that what passes through has no use for.
        let (record, result) = match role {
            Role::Passthrough => forward(&client, &listener, record).await,
            Role::Originate => Box::pin(originate::forward(&client, &listener, record)).await,
            Role::Terminate => Box::pin(terminate::forward(&client, &listener, record)).await,
        };
        conclude(record, &result, &listener);
        match (role, result) {
            (_, Ok(())) => {}
            (Role::Passthrough, Err(error)) => refuse(&client, &error, &listener).await,
            // Its alert is under way, and a reset would overtake it.
            (Role::Terminate, Err(Error::Tls(tls::Error::Handshake { .. }))) => {}
            // It was sent a FIN.
            (Role::Originate | Role::Terminate, Err(Error::Ended(_))) => {}
            (Role::Originate | Role::Terminate, Err(_)) => cut(&client),
        }
        drop(open);
        drop(client);
        drop(held);
    }
}

/// Notes how a connection ended.
fn conclude(mut record: access_log::Open, result: &Result<(), Error>, listener: &Listener) {
    // It has not ended, and who has it now will say how it does.
    if matches!(result, Err(Error::Passed)) {
        return record.forget();
    }
    record.close(result.as_ref().err().map(|error| (error.flag(), || error.explain())));
    let age = record.age();
    listener.metrics.close(record.flag, record.route.is_some().then_some(age));
    listener.downstream.connection_seconds().observe(age, record.example());
    count_by_name(&record, What::Bytes, record.to_upstream_bytes + record.to_client_bytes, listener);
    count_by_name(&record, What::Failures, (record.flag != Flag::Ordinary).into(), listener);
    if let Err(error) = result {
        failures::note(&record, error.flag(), || error.explain());
    }
}

/// Opens the connection, and relays until both sides have finished or somebody wants it to end.
async fn forward(
    client: &TcpStream,
    listener: &Listener,
    record: access_log::Open,
) -> (access_log::Open, Result<(), Error>) {
    // Boxed, because what it takes to find the way is needed for a moment, and a tunnel may live for days.
    let tunnel = match Box::pin(enter(client, listener, record)).await {
        Ok(tunnel) => tunnel,
        Err((record, error)) => return (record, Err(error)),
    };
    let result = carry(client, &tunnel).await;
    (tunnel.open.leave(), result)
}

/// Relays until both sides have finished, or somebody wants the connection to end, or to go elsewhere.
async fn carry(client: &TcpStream, tunnel: &Tunnel) -> Result<(), Error> {
    let stats = &tunnel.open.cluster.stats;
    let meter = Meter::new(&tunnel.open.moved, (&stats.to_upstream, &stats.to_client));
    let timer = pin!(tunnel.patience.timer());
    let handed = tunnel.handed.take().map_or_else(Handed::default, |handed| *handed);
    let sockets = (client, &tunnel.open.upstream.stream);
    let mut relay = relay::run(sockets, handed, &meter, &tunnel.patience, timer);
    loop {
        let ask = tokio::select! {
            biased;
            result = &mut relay => return Ok(result?),
            ask = tunnel.open.asked() => ask,
        };
        // Boxed, because few connections come here and all would need the room.
        match ask {
            Ask::End(end) => {
                Box::pin(part(client, &tunnel.open.upstream.stream)).await;
                return Err(Error::Ended(end));
            }
            Ask::Pass(to) => {
                if Box::pin(passed::offer(client, tunnel, &mut relay, to)).await {
                    return Err(Error::Passed);
                }
            }
        }
    }
}

/// All that a connection needs from here on. What only finding the way took is gone by then.
struct Tunnel {
    open: open::Entered,
    /// Boxed, because it is needed for a moment only.
    handed: Cell<Option<Box<Handed>>>,
    /// Boxed, because it is looked at now and then only.
    patience: Box<Patience>,
}

async fn enter(
    client: &TcpStream,
    listener: &Listener,
    mut record: access_log::Open,
) -> Result<Tunnel, (access_log::Open, Error)> {
    match open(client, listener, &mut record).await {
        Err(error) => Err((record, error)),
        Ok(Opened { upstream, cluster, handed, patience }) => {
            let open = open::enter(record, upstream, cluster).await;
            let handed = Cell::new(Some(Box::new(handed)));
            Ok(Tunnel { open, handed, patience })
        }
    }
}

/// What comes of finding the way.
struct Opened {
    upstream: Upstream,
    cluster: Arc<Cluster>,
    handed: Handed,
    patience: Box<Patience>,
}

async fn open(
    client: &TcpStream,
    listener: &Listener,
    record: &mut access_log::Open,
) -> Result<Opened, Error> {
    let (Begun { hello, raw, told }, direct) = inspect(client, listener, record).await?;
    let ends = ends(client, told, record)?;
    let client_pass = count_client(direct, ends, listener)?;
    record.server_name = hello.as_ref().map(|hello| hello.server_name().clone());
    record.client_random = hello.as_ref().map(ClientHello::random_prefix);
    note_hello(record, listener);

    let routed = route(client, hello.as_ref(), ends, listener).await?;
    note_route(record, &routed, listener);
    let chain_pass = within_limits(&routed, listener).await?;

    let _passing = pass_on(hello.as_ref(), &routed, listener)?;
    let mut attempts = attempts(&routed, ends.remote, listener, record);
    let upstream = connect(client, &routed, &mut attempts, record).await?;
    let connected = record.age();
    listener.downstream.connect_seconds().observe(connected, record.example());
    record.connect = connected.into();
    let extra = hello.as_ref().map_or(0, |hello| raw.len() - hello.consumed());
    let may_replay = hello.as_ref().is_some_and(|hello| !hello.early_data() && hello.consumed() == raw.len());
    let first = announced(raw, &routed, ends, hello.as_ref());
    let (mut upstream, handed, answer) = match may_replay {
        true => {
            replay(client, upstream, first, (&routed, &mut attempts), (&listener.upstream, record)).await?
        }
        false => (upstream, Handed { to_upstream: first, ..Handed::default() }, None),
    };
    let patience = Box::new(listener.patience(&routed));
    let handed = match (hello, answer) {
        // Boxed, because few endpoints ask again, and few clients do not wait for what they say.
        (Some(hello), Some(Answer::HelloRetryRequest) | None) => {
            let sockets = (client, &upstream.stream);
            Box::pin(retry::follow(sockets, handed, (&hello, extra), answer, listener)).await?
        }
        _ => handed,
    };
    upstream.hold(attempts, chain_pass, client_pass);
    Ok(Opened { upstream, cluster: routed.cluster, handed, patience })
}

/// Notes that the hello is on its way, until an endpoint has answered it. One that is on its way already has come round.
fn pass_on(
    hello: Option<&ClientHello>,
    routed: &Routed,
    listener: &Listener,
) -> Result<Option<Passing>, Error> {
    let Some(hello) = hello else { return Ok(None) };
    listener.in_flight.enter(hello.client_random(), &listener.name).map_err(|_again| {
        let error = Error::Loop(routed.cluster.config.name.clone());
        if listener.in_flight.is_worth_a_line(listener.clock()) {
            tracing::warn!(listener = &*listener.name, "{error}");
        }
        error
    })
}

/// Reads what the connection begins with, as one of a limited number of clients that are not past that.
async fn inspect(
    client: &TcpStream,
    listener: &Listener,
    record: &access_log::Open,
) -> Result<(Begun, Option<ClientPass>), Error> {
    let beginning = listener.admit(record.client_addr).ok_or(Error::TooFast)?;
    // Behind a PROXY protocol header there is another client, and only the header tells which.
    let direct = match beginning.proxy_protocol {
        None => listener.per_client.enter(record.client_addr.ip())?,
        Some(_) => None,
    };
    let _pending = listener.hellos.enter().ok_or_else(|| Error::Pending(listener.hellos.limit()))?;
    Ok((inspect::beginning(client, beginning).await?, direct))
}

/// Counts the connection as its client's, if it was not at its beginning.
fn count_client(
    direct: Option<ClientPass>,
    ends: Ends,
    listener: &Listener,
) -> Result<Option<ClientPass>, Error> {
    match direct {
        Some(pass) => Ok(Some(pass)),
        None => Ok(listener.per_client.enter(ends.remote.ip())?),
    }
}

/// Finds the way. For a while after the start, a cluster that has no endpoint yet may be about to get some.
async fn route(
    client: &TcpStream,
    hello: Option<&ClientHello>,
    ends: Ends,
    listener: &Listener,
) -> Result<Routed, Error> {
    let held = |routed: &Routed| {
        let left = listener.upstream.hold_empty.saturating_sub(listener.clock());
        (routed.cluster.endpoints.is_empty() && !left.is_zero()).then_some(left)
    };
    let routed = listener.route(hello, ends)?;
    if held(&routed).is_none() {
        return Ok(routed);
    }
    let mut tables = listener.tables.clone();
    loop {
        // Before the look, so that a table that comes during it ends the wait.
        tables.mark_unchanged();
        let routed = listener.route(hello, ends)?;
        let Some(left) = held(&routed) else { return Ok(routed) };
        tokio::select! {
            // Without a publisher there is nothing to wait for.
            changed = tables.changed() => if changed.is_err() { return Ok(routed) },
            () = tokio::time::sleep(left) => {}
            _ = relay::reset(client) => return Err(Error::ClientLeft),
        }
    }
}

/// Where the connection comes from and came to. What a PROXY protocol header tells goes before the sockets' addresses.
fn ends(client: &TcpStream, told: Option<Box<Told>>, record: &mut access_log::Open) -> Result<Ends, Error> {
    let direct_remote = record.client_addr;
    let told_ends = told.as_ref().and_then(|told| told.ends);
    record.proxied = told.map(|told| told.tlvs.to_string().into_boxed_str()).filter(|said| !said.is_empty());
    let (remote, destination) = match told_ends {
        Some(told) => told,
        None => (direct_remote, client.local_addr().map_err(|_| Error::ClientLeft)?),
    };
    record.client_addr = remote;
    if let Some(extra) = record.extra() {
        extra.local = Some(destination);
    }
    Ok(Ends { destination, direct_remote, remote })
}

/// Counts the connection towards its chain's limits; the pass takes it off again.
async fn within_limits(routed: &Routed, listener: &Listener) -> Result<Option<Pass>, Error> {
    let Some(limits) = &routed.limits else { return Ok(None) };
    if limits.rate.as_ref().is_some_and(|rate| !rate.take(listener.clock())) {
        return Err(Error::TooFast);
    }
    let Some((gate, delay)) = &limits.connections else { return Ok(None) };
    match gate.enter() {
        Some(pass) => Ok(Some(pass)),
        None => {
            tokio::time::sleep(*delay).await;
            Err(Error::TooMany { chain: routed.chain.to_string(), limit: gate.limit() })
        }
    }
}

/// The endpoints that a connection from there may try.
fn attempts<'a>(
    routed: &Routed,
    remote: SocketAddr,
    listener: &'a Listener,
    record: &access_log::Open,
) -> Attempts<'a> {
    let key = listener.key(routed, remote, record.server_name.as_ref());
    Attempts::new(&listener.upstream, routed.connect_attempts, key, record.extra.is_some())
}

/// Connects to an endpoint while watching the client: nobody waits for a client that has reset the connection. One
/// that has only finished sending still gets its answer.
async fn connect(
    client: &TcpStream,
    routed: &Routed,
    attempts: &mut Attempts<'_>,
    record: &mut access_log::Open,
) -> Result<Upstream, Error> {
    let result = tokio::select! {
        result = upstream::connect(&routed.cluster, attempts) => Some(result),
        _ = relay::reset(client) => None,
    };
    record.attempts = attempts.begun();
    if let Some(extra) = record.extra() {
        extra.attempts = attempts.told().into();
    }
    let result = result.ok_or(Error::ClientLeft)?;
    match &result {
        Ok(upstream) => note_endpoint(record, upstream),
        Err(upstream::Error::Connect { endpoint, .. }) => record.endpoint = Some(*endpoint),
        Err(_) => {}
    }
    Ok(result?)
}

/// The first bytes for the endpoint, with a PROXY protocol header before them where the cluster wants one.
fn announced(raw: Vec<u8>, routed: &Routed, ends: Ends, hello: Option<&ClientHello>) -> Vec<u8> {
    let Some(version) = routed.cluster.config.proxy_protocol else { return raw };
    let name = hello.map(|hello| hello.server_name().as_str());
    // What is offered alone is what will be spoken, if anything is.
    let mut offered = hello.into_iter().flat_map(ClientHello::alpn);
    let alpn = offered.next().filter(|_| offered.next().is_none());
    [proxy_protocol::header(version, (ends.remote, ends.destination), name, alpn), raw].concat()
}

/// Whoever speaks plain TCP, or TLS with the gateway itself, is told of a failure by a reset: a FIN would look like an
/// answer without content.
fn cut(client: &TcpStream) {
    // A client that is gone already needs no telling.
    let _ = SockRef::from(client).set_linger(Some(Duration::ZERO));
}

fn note_route(record: &mut access_log::Open, routed: &Routed, listener: &Listener) {
    (record.route, record.rewritten) = (Some(Arc::clone(&routed.chain)), routed.rewritten.clone());
    (record.table, record.cluster) = (routed.table, Some(Arc::clone(&routed.cluster.config)));
    record.count(routed.cluster.stats.usage());
    listener.metrics.lead();
    record.listed = routed.listed;
    count_by_name(record, What::Connections, 1, listener);
    if routed.rewritten.is_some() {
        listener.downstream.rewritten.inc();
    }
}

/// Counts for the connection's server name, where a chain lists it.
fn count_by_name(record: &access_log::Record, what: What, count: u64, listener: &Listener) {
    if let Some(name) = record.server_name.as_ref().filter(|_| record.listed) {
        server_names::count(name, what, count, listener.server_names);
    }
}

fn note_hello(record: &mut access_log::Open, listener: &Listener) {
    let age = record.age();
    listener.downstream.hello_seconds().observe(age, record.example());
    record.hello = age.into();
}

fn note_endpoint(record: &mut access_log::Open, upstream: &Upstream) {
    let endpoint = upstream.endpoint.endpoint();
    record.endpoint = Some(endpoint.address);
    if let Some(extra) = record.extra() {
        extra.upstream_local = upstream.stream.local_addr().ok();
    }
    record.locality = Some(Arc::clone(&endpoint.locality));
}

/// Says why with a TLS alert, then closes so that the alert arrives: a socket that is closed with unread bytes is
/// reset by the kernel, and a reset overtakes the alert. What the client still sends is read for a moment, no longer.
async fn refuse(client: &TcpStream, error: &Error, listener: &Listener) {
    if let Error::ClientFull(_) = error {
        listener.downstream.overflow.with_label_values(&["client"]).inc();
    }
    let reason = match error {
        Error::Beginning(error) => Some(error::reason(error)),
        Error::Renamed(_) => Some("renamed"),
        _ => None,
    };
    if let Some(reason) = reason {
        listener.downstream.hello_refused.with_label_values(&[reason]).inc();
    }
    let Some(alert) = error.alert().filter(|_| listener.speaks_tls()) else { return };
    // Seven bytes always fit into an empty send buffer; a client that is gone needs no alert.
    if client.try_write(&alert.record()).is_err() || SockRef::from(client).shutdown(Shutdown::Write).is_err()
    {
        return;
    }
    let _ = timeout(LINGER, discard(client)).await;
}

/// Ends a connection that both sides would keep: each is sent a FIN, and what it still sends is read for a moment, no
/// longer, because a socket that is closed with unread bytes is reset.
async fn part(client: &TcpStream, upstream: &TcpStream) {
    for socket in [client, upstream] {
        // One that is gone needs no FIN.
        let _ = SockRef::from(socket).shutdown(Shutdown::Write);
    }
    let _ = timeout(LINGER, async { tokio::join!(discard(client), discard(upstream)) }).await;
}

async fn discard(client: &TcpStream) {
    let mut left = MAX_DISCARDED;
    while left > 0 && client.readable().await.is_ok() {
        match client.try_read(&mut [0; 1024]) {
            Ok(0) => return,
            Ok(read) => left = left.saturating_sub(read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_costs_little_while_it_waits() {
        // What an idle tunnel holds besides its sockets is this future, with its task's own 100 bytes and in steps of 128,
        // and its record.
        let size = future_size(serve::<[usize; 3]>);
        assert!(size <= 640, "{size} bytes");
    }

    fn future_size<F>(_: impl Fn(TcpStream, SocketAddr, Arc<Listener>, [usize; 3]) -> F) -> usize {
        size_of::<F>()
    }
}
