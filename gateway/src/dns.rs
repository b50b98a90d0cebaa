//! DNS for the mesh's names, over UDP and TCP and as CoreDNS's gRPC service. All three ask [`answer`], which is pure.
//!
//! The loops are our own on `hickory-proto`'s messages, and not `hickory-server`: that has no limit on connections,
//! starts a task for each UDP packet, and does not give the bytes of an answer, which gRPC needs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Instant, SystemTime};

use anyhow::Context;
use arc_swap::ArcSwapOption;
use eastgate_config::bootstrap::dns::Dns as Settings;
use eastgate_config::names::Names;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::drain::Phase;
use crate::metrics;
use crate::readiness::Readiness;
use crate::restart::{Kept, Sockets};
use crate::table::Table;

pub mod answer;
mod connections;
mod forward;
mod grpc;
pub mod name_table;
mod tcp;
mod udp;

use answer::{Reply, Rules, Transport, Verdict};
use connections::Connections;
use forward::Forwarder;
use name_table::NameTable;

/// A port that the system chose for TCP may be taken for UDP; so often another one is tried.
const PORT_ATTEMPTS: usize = 16;

/// Where DNS is answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bound {
    /// Over UDP and TCP.
    pub addresses: Vec<SocketAddr>,
    /// Over gRPC.
    pub grpc: Option<SocketAddr>,
}

/// What every way of asking shares.
#[derive(Debug)]
struct Dns {
    names: ArcSwapOption<NameTable>,
    rules: Rules,
    max_query_bytes: usize,
    forwarder: Forwarder,
    metrics: metrics::Dns,
    turn: AtomicUsize,
}

/// Binds the addresses of the settings and answers there for as long as the tasks live.
///
/// # Errors
/// An address cannot be bound; the error names the setting.
pub async fn start(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    settings: &Settings,
    tables: watch::Receiver<Arc<Table>>,
    metrics: &metrics::Dns,
    readiness: &Readiness,
    (sockets, phase): (&Sockets, &watch::Receiver<Phase>),
) -> anyhow::Result<Bound> {
    let mut bound = Bound::default();
    if !settings.is_on() {
        return Ok(bound);
    }
    let dns = Arc::new(Dns {
        names: ArcSwapOption::empty(),
        rules: rules(settings),
        max_query_bytes: settings.max_query_bytes.into(),
        forwarder: Forwarder::new(settings, metrics.forwards.clone()),
        metrics: metrics.clone(),
        turn: AtomicUsize::new(0),
    });
    tasks.spawn(follow(Arc::clone(&dns), tables, readiness.clone()));
    let tcp = Connections::new(settings, Transport::Tcp, metrics);
    for address in &settings.addresses {
        let (udp_socket, tcp_socket, kept) =
            bind(*address, sockets).with_context(|| format!("dns.addresses: cannot listen on {address}"))?;
        let address = udp_socket.local_addr()?;
        tracing::info!(%address, "answering DNS");
        bound.addresses.push(address);
        tasks.spawn(once(phase, kept, udp::serve(udp_socket, Arc::clone(&dns))));
        let (dns, idle) = (Arc::clone(&dns), settings.idle_timeout);
        let accepting =
            tcp.clone().accept(tcp_socket, move |stream| tcp::serve(stream, Arc::clone(&dns), idle));
        tasks.spawn(once(phase, [const { None }; 2], accepting));
    }
    if let Some(address) = settings.grpc_address {
        let socket = sockets.tcp("dns.grpc_address", address);
        let (socket, kept) =
            socket.with_context(|| format!("dns.grpc_address: cannot listen on {address}"))?;
        let socket = TcpListener::from_std(socket)?;
        let address = socket.local_addr()?;
        tracing::info!(%address, "answering DNS over gRPC");
        bound.grpc = Some(address);
        let connections = Connections::new(settings, Transport::Grpc, metrics);
        let accepting = connections.accept(socket, move |stream| grpc::serve(stream, Arc::clone(&dns)));
        tasks.spawn(once(phase, [kept, None], accepting));
    }
    Ok(bound)
}

/// What the settings say of answers.
pub fn rules(settings: &Settings) -> Rules {
    let seconds = |duration: std::time::Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    Rules {
        zones: settings.zones.clone(),
        ttl: seconds(settings.ttl),
        negative_ttl: seconds(settings.negative_ttl),
        max_udp_bytes: settings.max_udp_bytes,
        forwards: !settings.forward.is_empty(),
    }
}

/// What the servers would say of a name, for people: the code, and a record on each line.
///
/// # Errors
/// The name or the type is none.
pub fn look_up(name: &str, kind: &str, names: &Names, settings: &Settings) -> anyhow::Result<String> {
    let (name, kind) = match name.parse::<IpAddr>() {
        Ok(address) => (Name::from(address), RecordType::PTR),
        Err(_) => (
            Name::from_ascii(name)
                .with_context(|| format!("{name:?} is no name"))?
                .append_domain(&Name::root())?,
            kind.to_uppercase()
                .parse()
                .with_context(|| format!("{kind:?} is no record type; such as AAAA"))?,
        ),
    };
    let mut query = Message::query();
    query.add_query(Query::query(name, kind));
    let table = NameTable::build(names, 0);
    let reply = answer::answer(&query.to_vec()?, Some(&table), &rules(settings), Transport::Tcp, 0);
    let Reply::Answer { bytes, verdict } = reply else {
        anyhow::bail!("it is no question that can be answered")
    };
    let message = Message::from_vec(&bytes)?;
    let records = message.answers.iter().chain(&message.authorities);
    let lines = records.map(|record| format!("{record}\n"));
    Ok(format!("{}\n{}", verdict.code, lines.collect::<String>()))
}

/// Does something once this process answers, and not another one that has the same sockets, too.
fn once<T: Future>(
    phase: &watch::Receiver<Phase>,
    kept: [Kept; 2],
    then: T,
) -> impl Future<Output = T::Output> + use<T> {
    let mut phase = phase.clone();
    async move {
        let _kept = kept;
        // The sender is gone only when this is about to be, too.
        let _ = phase.wait_for(|phase| *phase != Phase::Waiting).await;
        then.await
    }
}

fn bind(address: SocketAddr, sockets: &Sockets) -> std::io::Result<(UdpSocket, TcpListener, [Kept; 2])> {
    let mut attempt = 1;
    loop {
        let (tcp, kept_tcp) = sockets.tcp("dns.addresses over TCP", address)?;
        match sockets.udp("dns.addresses over UDP", address, tcp.local_addr()?) {
            Ok((udp, kept_udp)) => {
                return Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?, [kept_tcp, kept_udp]));
            }
            Err(_) if address.port() == 0 && attempt < PORT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Keeps the names in step with the table.
async fn follow(
    dns: Arc<Dns>,
    mut tables: watch::Receiver<Arc<Table>>,
    readiness: Readiness,
) -> anyhow::Result<()> {
    let mut current = None;
    let mut silent = None;
    loop {
        let (version, names) = {
            let table = tables.borrow_and_update();
            (table.version, table.snapshot.names.clone())
        };
        match names {
            Some(names) => {
                silent = None;
                if !current.as_ref().is_some_and(|known| Arc::ptr_eq(known, &names)) {
                    let serial = u32::try_from(metrics::timestamp(SystemTime::now())).unwrap_or_default();
                    let table = NameTable::build(&names, serial);
                    dns.metrics.names.set(table.len().try_into().unwrap_or(i64::MAX));
                    dns.names.store(Some(Arc::new(table)));
                    current = Some(names);
                }
            }
            None if version > 0 && current.is_none() && silent.is_none() => {
                tracing::warn!("DNS answers SERVFAIL: the source has told of no names");
                let remark = "DNS answers SERVFAIL: the source has told of no names";
                silent = Some(readiness.remark(remark, SystemTime::now()));
            }
            None => {}
        }
        tables.changed().await.context("the publisher is gone")?;
    }
}

impl Dns {
    fn reply(&self, query: &[u8], transport: Transport) -> Reply {
        let turn = self.turn.fetch_add(1, Relaxed);
        answer::answer(query, self.names.load().as_deref(), &self.rules, transport, turn)
    }

    /// The answer to a query, however long it takes, or none where there must be none.
    async fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let began = Instant::now();
        let (bytes, verdict) = match self.reply(query, transport) {
            Reply::Answer { bytes, verdict } => (bytes, verdict),
            Reply::Forward { failure, kind } => self.forward(query, transport, failure, kind).await,
            Reply::Silence => {
                self.dropped(transport, "no_query");
                return None;
            }
        };
        self.count(transport, verdict, began);
        Some(bytes)
    }

    async fn forward(
        &self,
        query: &[u8],
        transport: Transport,
        failure: Vec<u8>,
        kind: &'static str,
    ) -> (Vec<u8>, Verdict) {
        let bytes = self.forwarder.ask(query, transport).await.unwrap_or(failure);
        let code = answer::code_of(&bytes);
        (bytes, Verdict { kind, code })
    }

    fn count(&self, transport: Transport, verdict: Verdict, began: Instant) {
        let labels = [transport.label(), verdict.kind, verdict.code];
        self.metrics.responses.with_label_values(&labels).inc();
        self.metrics.seconds.observe(began.elapsed().as_secs_f64());
    }

    fn dropped(&self, transport: Transport, reason: &'static str) {
        self.metrics.dropped.with_label_values(&[transport.label(), reason]).inc();
    }
}
