//! Faults of what a gateway hears from: its control plane (go-control-plane), the DNS server of a `STRICT_DNS` cluster, and
//! the disk on which it keeps what it heard.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use eastgate_loadtest::ca::Ca;
use serde_json::{Value, json};

use crate::fate::Hurts;
use crate::network::{Pod, Running, no_rules, rules, sh, signal};
use crate::program::{Driven, Eastgate};
use crate::scene::{Kept, Scene};

const NOBODY: Hurts = Hurts::Nobody;
const FIRST: &str = "outbound_.8000_._.httpbin.bar.svc.cluster.local";
const NAMED: &str = "outbound_.8000_._.named.bar.svc.cluster.local";
const HOST: &str = "pods.example";
const DNS: &str = "127.0.0.1:5300";

fn type_url(kind: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.{kind}")
}

fn assignment(name: &str, hosts: &[String]) -> Value {
    let endpoint = |host: &String| json!({ "endpoint": { "address": { "socket_address": { "address": host, "port_value": 8443 } } } });
    let endpoints: Vec<_> = hosts.iter().map(endpoint).collect();
    json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] })
}

fn clusters() -> Value {
    json!([
        {
            "name": FIRST, "type": "EDS", "connect_timeout": "0.3s", "lb_policy": "ROUND_ROBIN",
            "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
        },
        {
            "name": NAMED, "type": "STRICT_DNS", "connect_timeout": "0.3s", "dns_lookup_family": "V4_ONLY",
            "load_assignment": assignment(NAMED, &[HOST.to_owned()]),
        },
    ])
}

fn chain(name: &str, transport_socket: Value) -> Value {
    let tcp_proxy = type_url("filters.network.tcp_proxy.v3.TcpProxy");
    let mut chain = json!({
        "name": name,
        "filter_chain_match": { "server_names": [name] },
        "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": { "@type": tcp_proxy, "stat_prefix": name, "cluster": name },
        }],
    });
    if !transport_socket.is_null() {
        chain["transport_socket"] = transport_socket;
    }
    chain
}

fn listener(more: &[Value]) -> Value {
    let inspector = type_url("filters.listener.tls_inspector.v3.TlsInspector");
    let chains = [&[chain(FIRST, Value::Null), chain(NAMED, Value::Null)], more].concat();
    json!({
        "name": "east",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 25443 } },
        "listener_filters": [{
            "name": "envoy.filters.listener.tls_inspector", "typed_config": { "@type": inspector },
        }],
        "filter_chains": chains,
    })
}

fn world(hosts: &[String]) -> Value {
    json!({ "resources": {
        "clusters": clusters(), "endpoints": [assignment(FIRST, hosts)], "listeners": [listener(&[])],
    } })
}

/// What feeds the gateway.
struct Sources {
    program: PathBuf,
    plane: Option<Driven>,
    at: SocketAddr,
    dns: Option<Running>,
    directory: PathBuf,
    hosts: Vec<String>,
}

impl Sources {
    async fn start(program: &Path, directory: &Path, pods: &[Pod]) -> Self {
        let state = directory.join("state");
        sh(&format!("mkdir -p {0}; mount -t tmpfs -o size=1m chaos {0}", state.display()));
        let mut sources = Self {
            program: program.into(),
            plane: None,
            at: "127.0.0.1:15010".parse().unwrap(),
            dns: None,
            directory: directory.into(),
            hosts: pods.iter().map(|pod| pod.address().ip().to_string()).collect(),
        };
        sources.start_plane().await;
        sources.start_dns(true);
        sources
    }

    async fn start_plane(&mut self) {
        let plane =
            Driven::start(&self.program, &["--listen", &self.at.to_string(), "--lifetime", "30m"]).await;
        plane.send("PUT", "/snapshot", Some(&world(&self.hosts))).await;
        self.plane = Some(plane);
    }

    /// With the pods' addresses, or knowing nobody.
    fn start_dns(&mut self, knows: bool) {
        let lines = self.hosts.iter().filter(|_| knows).map(|host| format!("{host} {HOST}\n"));
        let file = self.directory.join("hosts");
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        let (address, port) = DNS.split_once(':').unwrap();
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--local-ttl=0",
        ]);
        command.args(["--user=root", "--conf-file=/dev/null", "--pid-file=", "--local=/example/"]);
        command.args([format!("--port={port}"), format!("--listen-address={address}")]);
        command.arg(format!("--addn-hosts={}", file.display()));
        self.dns = Some(Running(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()));
    }

    fn plane(&self) -> &Driven {
        self.plane.as_ref().unwrap()
    }

    async fn say(&self, change: &Value) {
        self.plane().post("/mutate", Some(change)).await;
    }

    fn state(&self) -> String {
        self.directory.join("state").display().to_string()
    }

    async fn gateway(&self) -> Eastgate {
        let xds = format!("http://{}", self.at);
        let settings = [
            ("EASTGATE_XDS_STATE_DIR", self.state()),
            ("EASTGATE_UPSTREAM_ANSWER_TIMEOUT", "1s".into()),
            ("EASTGATE_UPSTREAM_DNS_SERVERS", DNS.into()),
            ("EASTGATE_UPSTREAM_DNS_MIN_TTL", "20ms".into()),
            ("EASTGATE_UPSTREAM_DNS_TIMEOUT", "500ms".into()),
            ("EASTGATE_UPSTREAM_DNS_RETRY", "20ms".into()),
            ("EASTGATE_UPSTREAM_DNS_MAX_RETRY", "100ms".into()),
        ];
        Eastgate::start(&["--xds", &xds, "--threads", "2"], &settings).await
    }
}

const WRITES: &str = "xds_state_writes_total{result=\"ok\"}";
const FAILED_WRITES: &str = "xds_state_writes_total{result=\"failed\"}";
const STALE: &str = "resolve_names{state=\"stale\"}";

pub(crate) async fn all(kept: Kept, ca: &Ca, program: &Path, directory: &Path, count: usize) -> Kept {
    let mut sources = Sources::start(program, &directory.join("planes"), &kept.pods).await;
    let gateway = sources.gateway().await;
    let mut scene = Scene::start(kept, gateway, ("east", &[FIRST, NAMED]), ca, count).await;
    scene.gateway.metric_until(WRITES, |writes| writes >= 1.0).await;
    gone(&mut scene, &mut sources).await;
    lies(&mut scene, &sources).await;
    disk(&mut scene, &sources).await;
    names(&mut scene, &mut sources).await;
    both_killed(&mut scene, &mut sources).await;
    scene.finish().await
}

/// The control plane dies, stands still, and cannot be reached.
async fn gone(scene: &mut Scene, sources: &mut Sources) {
    let reconnects = "xds_reconnects_total{reason=\"connect\"}";
    let mut fault = scene.begins("control plane killed (-9), and started again", NOBODY).await;
    sources.plane.take().unwrap().kill();
    scene.gateway.metric_until(reconnects, |count| count >= 1.0).await;
    scene.lasts(&mut fault, 1.0).await;
    sources.start_plane().await;
    sources.plane().get("/requests?kind=open&type=listeners&wait=25s").await;
    scene.ends(fault).await;

    let mut fault = scene.begins("control plane stopped (STOP, CONT)", NOBODY).await;
    let pid = sources.plane().at["pid"].as_u64().unwrap() as u32;
    signal(pid, "STOP");
    scene.lasts(&mut fault, 1.0).await;
    signal(pid, "CONT");
    scene.ends(fault).await;

    let mut fault = scene.begins("nftables drop: the control plane", NOBODY).await;
    rules(&format!("tcp dport {0} drop\ntcp sport {0} drop", sources.at.port()));
    scene.lasts(&mut fault, 1.0).await;
    no_rules();
    scene.ends(fault).await;

    let mut fault = scene.begins("nftables limit, 20 packets a second: the control plane", NOBODY).await;
    let slow = "limit rate over 20/second drop";
    rules(&format!("tcp dport {0} {slow}\ntcp sport {0} {slow}", sources.at.port()));
    let third = |text: &str| text.contains(&format!("{FIRST}::{}:", sources.hosts[2]));
    sources.say(&json!({ "resources": { "endpoints": [assignment(FIRST, &sources.hosts[..2])] } })).await;
    scene.lasts(&mut fault, 1.0).await;
    scene.gateway.until("/clusters", |text| !third(text)).await;
    no_rules();
    sources.say(&json!({ "resources": { "endpoints": [assignment(FIRST, &sources.hosts)] } })).await;
    scene.gateway.until("/clusters", third).await;
    scene.ends(fault).await;

    let mut fault = scene.begins("control plane resets its stream, ten times", NOBODY).await;
    for _ in 0..10 {
        sources.plane().post("/disconnect?how=reset", None).await;
        scene.goes_on(4).await;
    }
    scene.lasts(&mut fault, 0.5).await;
    scene.ends(fault).await;
}

/// The control plane says what is no good, what is not so, and nothing.
async fn lies(scene: &mut Scene, sources: &Sources) {
    let refused = |text: &str| text.contains("bad.example");
    let bad = json!({ "@type": type_url("transport_sockets.tls.v3.DownstreamTlsContext"), "common_tls_context": {} });
    let bad = json!({ "name": "envoy.transport_sockets.tls", "typed_config": bad });
    let mut fault = scene.begins("control plane sends a listener that is refused", NOBODY).await;
    sources.say(&json!({ "resources": { "listeners": [listener(&[chain("bad.example", bad)])] } })).await;
    scene.gateway.until("/rejections", refused).await;
    scene.lasts(&mut fault, 1.0).await;
    sources.say(&json!({ "resources": { "listeners": [listener(&[])] } })).await;
    scene.gateway.until("/rejections", |text| !refused(text)).await;
    scene.ends(fault).await;

    let mut fault = scene.begins("control plane names endpoints that are not there", NOBODY).await;
    let more = [&sources.hosts[..], &["10.9.0.99".to_owned(), "10.9.1.99".to_owned()]].concat();
    sources.say(&json!({ "resources": { "endpoints": [assignment(FIRST, &more)] } })).await;
    scene.gateway.until("/clusters", |text| text.contains("10.9.1.99")).await;
    scene.lasts(&mut fault, 1.0).await;
    sources.say(&json!({ "resources": { "endpoints": [assignment(FIRST, &sources.hosts)] } })).await;
    scene.gateway.until("/clusters", |text| !text.contains("10.9.1.99")).await;
    scene.ends(fault).await;

    let none = Hurts::Unanswered("the control plane names no endpoint");
    let here = |text: &str| text.contains(&format!("{FIRST}::10.9."));
    let mut fault = scene.begins("control plane sends an empty set of endpoints", none).await;
    sources.say(&json!({ "resources": { "endpoints": [assignment(FIRST, &[])] } })).await;
    scene.gateway.until("/clusters", |text| !here(text)).await;
    scene.lasts(&mut fault, 1.0).await;
    sources.say(&json!({ "resources": { "endpoints": [assignment(FIRST, &sources.hosts)] } })).await;
    scene.gateway.until("/clusters", here).await;
    scene.ends(fault).await;

    let nothing = Hurts::Unanswered("the control plane took everything away");
    let mut fault = scene.begins("control plane takes listener and clusters away", nothing).await;
    let empty = json!({ "resources": { "clusters": [], "endpoints": [], "listeners": [] } });
    sources.plane().send("PUT", "/snapshot", Some(&empty)).await;
    scene.gateway.until("/listeners", |text| !text.contains("25443")).await;
    scene.lasts(&mut fault, 1.0).await;
    sources.plane().send("PUT", "/snapshot", Some(&world(&sources.hosts))).await;
    scene.gateway.until("/listeners", |text| text.contains("25443")).await;
    scene.gateway.until("/clusters", here).await;
    scene.ends(fault).await;
}

/// What is heard cannot be saved.
async fn disk(scene: &mut Scene, sources: &Sources) {
    let mut fault = scene.begins("the disk of the state directory is full", NOBODY).await;
    let state = sources.state();
    sh(&format!("dd if=/dev/zero of={state}/filler bs=4k 2>/dev/null || true"));
    let failed = scene.gateway.metric(FAILED_WRITES).await;
    sources.say(&json!({ "resources": { "endpoints": [assignment(FIRST, &sources.hosts[..2])] } })).await;
    scene.gateway.metric_until(FAILED_WRITES, |count| count > failed).await;
    scene.lasts(&mut fault, 1.0).await;
    sh(&format!("rm {state}/filler"));
    let written = scene.gateway.metric(WRITES).await;
    sources.say(&json!({ "resources": { "endpoints": [assignment(FIRST, &sources.hosts)] } })).await;
    scene.gateway.metric_until(WRITES, |count| count > written).await;
    scene.ends(fault).await;
}

/// The DNS server dies, stands still, and forgets.
async fn names(scene: &mut Scene, sources: &mut Sources) {
    let (is_stale, is_fresh) = (|count: f64| count == 1.0, |count: f64| count == 0.0);
    let mut fault = scene.begins("DNS server killed (-9), and started again", NOBODY).await;
    sources.dns = None;
    scene.gateway.metric_until(STALE, is_stale).await;
    scene.lasts(&mut fault, 1.0).await;
    sources.start_dns(true);
    scene.gateway.metric_until(STALE, is_fresh).await;
    scene.ends(fault).await;

    let mut fault = scene.begins("DNS server stopped (STOP, CONT)", NOBODY).await;
    sources.dns.as_ref().unwrap().signal("STOP");
    scene.gateway.metric_until(STALE, is_stale).await;
    scene.lasts(&mut fault, 1.0).await;
    sources.dns.as_ref().unwrap().signal("CONT");
    scene.gateway.metric_until(STALE, is_fresh).await;
    scene.ends(fault).await;

    let mut fault = scene.begins("DNS server says that there is no such name", NOBODY).await;
    sources.dns = None;
    sources.start_dns(false);
    scene.gateway.metric_until(STALE, is_stale).await;
    scene.lasts(&mut fault, 1.0).await;
    sources.dns = None;
    sources.start_dns(true);
    scene.gateway.metric_until(STALE, is_fresh).await;
    scene.ends(fault).await;
}

/// The gateway is killed while its control plane is gone.
async fn both_killed(scene: &mut Scene, sources: &mut Sources) {
    let killed = Hurts::Everybody("the gateway itself was killed");
    let fault = scene.begins("gateway and control plane killed (-9)", killed).await;
    sources.plane.take().unwrap().kill();
    scene.gateway.signal("KILL");
    let next = sources.gateway().await;
    next.listening("east").await;
    std::mem::replace(&mut scene.gateway, next).exit().await;
    scene.ends(fault).await;

    let mut fault = scene.begins("started from saved state, without a control plane", NOBODY).await;
    scene.lasts(&mut fault, 1.0).await;
    sources.start_plane().await;
    scene.gateway.metric_until("xds_saved_state", |saved| saved == 0.0).await;
    scene.ends(fault).await;
}
