//! What comes at the admin port, whatever it is: through the very server and routes of the gateway, in memory, with
//! open connections to look for and to end. Nothing panics and nothing answers 500; without the token of a port that
//! wants one, nothing is told.

#![no_main]

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use eastgate::access_log::AccessLog;
use eastgate::admin::{self, ClusterMetrics, Orders, Sight, port};
use eastgate::drain::Phase;
use eastgate::metrics::Metrics;
use eastgate::open::{self, Entered, Registry};
use eastgate::readiness::Readiness;
use eastgate::table::Table;
use eastgate::upstream;
use eastgate::upstream::cluster::Resolutions;
use eastgate_config::bootstrap::{self, Admin};
use eastgate_config::istio::{File, Index, Options};
use eastgate_config::server_name::ServerName;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;

macro_rules! example {
    ($($name:literal),*) => {
        [$(File { path: $name, text: include_str!(concat!("../../config/examples/httpbin/", $name)) }),*]
    };
}

const LISTENER: &str = "0.0.0.0_15443";
const TOKEN: &str = "that-no-input-holds";

thread_local! {
    static STAGE: Stage = Stage::new();
}

fuzz_target!(|bytes: &[u8]| {
    STAGE.with(|stage| {
        let answer = stage.answered(&stage.open, bytes);
        assert!(!answer.starts_with(b"HTTP/1.1 500"), "{}", String::from_utf8_lossy(&answer));
        let refusal = stage.answered(&stage.fenced, bytes);
        let told = |what: &[u8]| refusal.windows(what.len()).any(|window| window == what);
        assert!(
            !refusal.starts_with(b"HTTP/1.1 2") && !told(b"httpbin") && !told(b"# HELP"),
            "without a token: {}",
            String::from_utf8_lossy(&refusal)
        );
    });
});

/// A gateway's admin port and what it looks at, without the rest.
struct Stage {
    runtime: Runtime,
    sight: Sight,
    log: AccessLog,
    open: Admin,
    fenced: Admin,
    _connections: Vec<Entered>,
}

impl Stage {
    fn new() -> Self {
        // Time goes on when nothing else does, so that who waits for more waits for no time of ours.
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().expect("a runtime");
        let mut index = Index::default();
        index.load(&example![
            "destination-rule.yaml",
            "gateway.yaml",
            "plain-tls.yaml",
            "pods.yaml",
            "service.yaml"
        ]);
        let snapshot = Arc::new(index.snapshot(&Options::default()));
        let table = Table::build(snapshot, &Resolutions::new(), &Table::default());
        let (registry, questions) = Registry::new(1);
        let log = bootstrap::AccessLog { path: "/dev/null".into(), ..Default::default() };
        let dropped = prometheus::IntCounter::new("dropped", "dropped").expect("a counter");
        let (log, _) = AccessLog::open(&log, None, dropped).expect("an access log");
        let connections = runtime.block_on(connections(&table, &log));
        for questions in questions {
            runtime.spawn(open::answer(questions));
        }
        let table = Arc::new(ArcSwap::from_pointee(table));
        let metrics = Metrics::new().expect("metrics");
        for family in ClusterMetrics::all(&table).expect("metrics of clusters") {
            metrics.register_large(family).expect("their names are their own");
        }
        let token = std::env::temp_dir().join(format!("eastgate-fuzz-token-{}", std::process::id()));
        std::fs::write(&token, TOKEN).expect("a file for the token");
        let bound = BTreeMap::from([(LISTENER.to_owned(), SocketAddr::from(([127, 0, 0, 1], 15443)))]);
        let sight = Sight {
            table,
            readiness: Readiness::new(metrics.ready.clone()),
            metrics,
            bound: watch::channel(bound).1,
            xds: None,
            node: Arc::default(),
            mesh: Arc::default(),
            open: registry,
            orders: orders(&log),
            restarts: true,
            began: Instant::now(),
        };
        let fenced = Admin { token_path: Some(token), ..Admin::default() };
        Self { runtime, sight, log, open: Admin::default(), fenced, _connections: connections }
    }

    /// What whoever sends these bytes is answered, by a gateway to which nobody has said anything yet.
    fn answered(&self, settings: &Admin, bytes: &[u8]) -> Vec<u8> {
        let sight = Sight {
            readiness: Readiness::new(self.sight.metrics.ready.clone()),
            orders: orders(&self.log),
            ..self.sight.clone()
        };
        let router = port::fenced(settings, admin::operators(sight)).expect("the token is there");
        self.runtime.block_on(exchange(router, bytes))
    }
}

/// What operators may have done, of a gateway that nobody has said anything to.
fn orders(log: &AccessLog) -> Orders {
    Orders::new(watch::Sender::new(Phase::Accepting), Duration::ZERO, log.reopener())
}

/// A few open connections, which nobody serves.
async fn connections(table: &Table, log: &AccessLog) -> Vec<Entered> {
    let pod = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = pod.local_addr().expect("an address");
    let mut entered = Vec::new();
    let clusters: Vec<_> = table.clusters().filter(|cluster| !cluster.endpoints.is_empty()).collect();
    for (number, cluster) in (0u16..8).zip(clusters.into_iter().cycle()) {
        let stream = TcpStream::connect(address).await.expect("a connection");
        let endpoint = &cluster.endpoints[usize::from(number) % cluster.endpoints.len()];
        let upstream =
            upstream::adopt(cluster, endpoint.address, stream).expect("an endpoint of the cluster");
        let client = ([192, 0, 2, 1], 40_000 + number).into();
        let mut record = log.begin(&LISTENER.into(), client);
        record.server_name = ServerName::from_sni(b"httpbin.example.com").ok();
        record.client_random = format!("3f9a{number:060x}").parse().ok();
        record.cluster = Some(Arc::clone(&cluster.config));
        record.endpoint = Some(endpoint.address);
        entered.push(open::enter(record, upstream, Arc::clone(cluster)).await);
    }
    entered
}

/// One client.
struct Once(Option<DuplexStream>);

impl axum::serve::Listener for Once {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.take() {
            Some(client) => (client, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends all of it, and hears until nothing more is said.
async fn exchange(router: Router, bytes: &[u8]) -> Vec<u8> {
    let (client, server) = tokio::io::duplex(64 << 10);
    let (mut reading, mut writing) = tokio::io::split(client);
    let mut answer = Vec::new();
    let hearing = async {
        // Who would have to send more to be answered is not.
        let patience = Duration::from_millis(1);
        while let Ok(Ok(1..)) = tokio::time::timeout(patience, reading.read_buf(&mut answer)).await {}
    };
    let sending = async {
        // It may be refused in the middle.
        let _ = writing.write_all(bytes).await;
        std::future::pending().await
    };
    tokio::select! {
        () = hearing => {}
        () = sending => {}
        _ = axum::serve(Once(Some(server)), router).into_future() => {}
    }
    answer
}
