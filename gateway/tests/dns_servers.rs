//! Endpoints given by DNS name, against a real server (Debian's dnsmasq): changes, its end, times to live, names that do not exist,
//! families, search domains.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use eastgate_config::bootstrap::Layers;
use eastgate_loadtest::ca::Ca;
use program::Eastgate;
use serde_json::{Value, json};
use support::*;

/// Whether this can be run; where not one line says so, and with `E2E=required` the test fails.
fn can(what: &[&str], why: &str) -> bool {
    let output = Command::new(what[0]).args(&what[1..]).output();
    let can = output.is_ok_and(|output| output.status.success());
    assert!(can || std::env::var("E2E").as_deref() != Ok("required"), "not run: {why}");
    if !can {
        eprintln!("not run: {why}");
    }
    can
}

fn has_dnsmasq() -> bool {
    can(&["dnsmasq", "--version"], "there is no dnsmasq; .ci/setup installs it")
}

/// A real server; it ends with this.
struct Dnsmasq {
    process: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where a server listens; the port is none that the kernel gives to clients.
fn place() -> SocketAddr {
    SocketAddr::from((address_apart(), 5335))
}

impl Dnsmasq {
    /// One that knows this, and nobody else to ask. It answers when this returns.
    fn start(directory: &Path, address: SocketAddr, knows: &[String]) -> Self {
        let log = directory.join(format!("{address}.log"));
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--local=/example/",
        ]);
        command.args(["--user=root", "--conf-file=/dev/null", "--pid-file=", "--log-queries"]);
        command.arg(format!("--port={}", address.port())).arg(format!("--listen-address={}", address.ip()));
        command.arg(format!("--log-facility={}", log.display())).args(knows);
        let mut process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let began = std::time::Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            assert!(began.elapsed() < PATIENCE, "dnsmasq does not listen on {address}");
            if let Some(status) = process.try_wait().unwrap() {
                let complaint = std::io::read_to_string(process.stderr.take().unwrap()).unwrap();
                panic!("dnsmasq has ended ({status}): {complaint}");
            }
            std::thread::yield_now();
        }
        Self { process, address, log }
    }

    /// How often it was asked for this name's IPv4 addresses.
    fn asked(&self, name: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(&format!("[A] {name} from"))).count()
    }

    async fn until_asked(&self, name: &str, times: usize) {
        let asked = async {
            while self.asked(name) < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("it is asked");
    }
}

/// `--host-record` of this name: addresses and a time to live in seconds.
fn record(name: &str, addresses: &str, ttl: u32) -> String {
    format!("--host-record={name},{addresses},{ttl}")
}

fn entry(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": { "name": name.split('.').next(), "namespace": "bar" },
        "spec": {
            "hosts": [format!("{}.bar.global", name.split('.').next().unwrap())],
            "location": "MESH_INTERNAL",
            "ports": [{ "name": "http", "number": 8000, "protocol": "HTTP" }],
            "resolution": "DNS",
            "endpoints": [{
                "address": name,
                "ports": { "http": port },
                "labels": { "security.istio.io/tlsMode": "istio" },
            }],
        },
    })
}

async fn gateway(names: &[&str], port: u16, more: impl FnOnce(Layers) -> Layers) -> Gateway {
    let entries: Vec<_> = names.iter().map(|name| entry(name, port)).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": entries });
    let documents = [("gateway.json", support::gateway(&["*.global"])), ("entries.json", list)];
    Gateway::start_with(&documents, more).await
}

/// The addresses of endpoints, of the clusters whose names begin so.
fn endpoints(clusters: &str, cluster: &str) -> BTreeSet<String> {
    let lines =
        clusters.lines().filter(|line| line.starts_with(cluster) && line.contains("::health_flags::"));
    let address = |line: &str| {
        let address: SocketAddr =
            line.strip_suffix("::health_flags::healthy")?.split_once("::")?.1.parse().ok()?;
        Some(address.ip().to_string())
    };
    lines.filter_map(address).collect()
}

async fn until(gateway: &Gateway, wanted: &[&str]) {
    let wanted: BTreeSet<_> = wanted.iter().map(|address| (*address).to_owned()).collect();
    gateway.admin_until("/clusters", |text| endpoints(text, "") == wanted).await;
}

async fn until_state(gateway: &Gateway, state: &str) {
    let line = format!("eastgate_resolve_names{{state=\"{state}\"}} 1");
    gateway.admin_until("/stats/prometheus", |text| text.contains(&line)).await;
}

const HOST: &str = "httpbin.example";

#[tokio::test]
async fn a_real_server_is_followed_through_its_changes_and_its_end() {
    if !has_dnsmasq() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let address = place();
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let here = pods[0].address();

    let dnsmasq = Dnsmasq::start(directory.path(), address, &[record(HOST, &here.ip().to_string(), 1)]);
    let gateway = gateway(&[HOST], here.port(), |layers| asking(layers, address)).await;
    until(&gateway, &[&here.ip().to_string()]).await;
    assert!(mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.is_ok());
    // Gone, then there without the name: the last good answer stays in both cases.
    drop(dnsmasq);
    until_state(&gateway, "stale").await;
    assert!(mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.is_ok());
    let dnsmasq = Dnsmasq::start(directory.path(), address, &[]);
    dnsmasq.until_asked(HOST, 3).await;
    assert!(mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.is_ok());
    drop(dnsmasq);
    // More than fits into a datagram: the answer is truncated, and asked for again over TCP.
    let many: Vec<_> =
        (0..300_u16).map(|number| format!("127.3.{}.{}", number / 250, number % 250 + 1)).collect();
    let lines: String = many.iter().map(|address| format!("{address} {HOST}\n")).collect();
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, lines).unwrap();
    let knows = ["--local-ttl=1".to_owned(), format!("--addn-hosts={}", hosts.display())];
    let _dnsmasq = Dnsmasq::start(directory.path(), address, &knows);
    until(&gateway, &many.iter().map(String::as_str).collect::<Vec<_>>()).await;
    until_state(&gateway, "fresh").await;
}

#[tokio::test]
async fn a_time_to_live_counts_from_the_floor_to_the_ceiling() {
    if !has_dnsmasq() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let knows = [record("none.example", "127.0.9.1", 0), record("hour.example", "127.0.9.2", 3600)];
    let dnsmasq = Dnsmasq::start(directory.path(), place(), &knows);
    let bounded = |layers| {
        asking(layers, dnsmasq.address)
            .flag("upstream.dns.min_ttl", Some("200ms"))
            .flag("upstream.dns.max_ttl", Some("600ms"))
    };
    let gateway = gateway(&["none.example", "hour.example"], 15443, bounded).await;
    until(&gateway, &["127.0.9.1", "127.0.9.2"]).await;
    let (none, hour) = (dnsmasq.asked("none.example"), dnsmasq.asked("hour.example"));
    dnsmasq.until_asked("hour.example", hour + 5).await;
    let (none, hour) = (dnsmasq.asked("none.example") - none, dnsmasq.asked("hour.example") - hour);
    println!(
        "times to live: 0 s with a floor of 200 ms: {none} look-ups; 1 h with a ceiling of 600 ms: {hour} in the same time"
    );
    // Three times as often; without a floor it would be thousands, without a ceiling there would be no second look-up.
    assert!(none > hour && none <= 5 * hour, "{none} and {hour}");
}

#[tokio::test]
async fn that_a_name_does_not_exist_is_believed_as_long_as_its_zone_says_so_and_not_when_it_says_nothing() {
    if !has_dnsmasq() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // The one says for how long (with its SOA record), the other does not.
    // dnsmasq has authority at addresses of interfaces only.
    let told = SocketAddr::from(([127, 0, 0, 1], place().port()));
    let zone = [
        "--auth-zone=example".to_owned(),
        format!("--auth-server=ns.example,{}", told.ip()),
        "--auth-ttl=600".into(),
    ];
    let told = Dnsmasq::start(directory.path(), told, &zone);
    let untold = Dnsmasq::start(directory.path(), place(), &[]);
    let patient = |server: SocketAddr| {
        move |layers| {
            asking(layers, server)
                .flag("upstream.dns.max_retry", Some("60s"))
                .flag("upstream.dns.timeout", Some("5s"))
        }
    };
    let _believes = gateway(&["gone.example"], 15443, patient(told.address)).await;
    told.until_asked("gone.example", 1).await;
    let asks_again = gateway(&["gone.example"], 15443, patient(untold.address)).await;
    untold.until_asked("gone.example", 6).await;
    let asked = told.asked("gone.example");
    println!(
        "negative answers: asked {asked} time(s) where the zone says 600 s, 6 times and more where nothing is said"
    );
    assert_eq!(asked, 1);
    // What comes to exist after all is found.
    let address = untold.address;
    drop(untold);
    let _dnsmasq = Dnsmasq::start(directory.path(), address, &[record("gone.example", "127.0.9.7", 1)]);
    until(&asks_again, &["127.0.9.7"]).await;
}

#[tokio::test]
async fn a_cluster_has_the_addresses_of_the_families_that_it_wants() {
    const FAMILIES: [(&str, &[&str]); 5] = [
        ("AUTO", &["fd00::4"]),
        ("V4_ONLY", &["127.0.9.4"]),
        ("V6_ONLY", &["fd00::4"]),
        ("V4_PREFERRED", &["127.0.9.4"]),
        ("ALL", &["127.0.9.4", "fd00::4"]),
    ];
    if !has_dnsmasq() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let knows = [record("both.example", "127.0.9.4,fd00::4", 1), record("old.example", "127.0.9.5", 1)];
    let dnsmasq = Dnsmasq::start(directory.path(), place(), &knows);
    let cluster = |(family, host): (&str, &str)| {
        let address = json!({ "socket_address": { "address": host, "port_value": 15443 } });
        let name = format!("{family}/{host}");
        json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": name,
            "type": "STRICT_DNS",
            "respect_dns_ttl": true,
            "dns_lookup_family": family,
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
            },
        })
    };
    let clusters: Vec<_> = FAMILIES
        .iter()
        .flat_map(|(family, _)| ["both.example", "old.example"].map(|host| cluster((family, host))))
        .collect();
    let file = directory.path().join("resources.json");
    std::fs::write(&file, json!({ "resources": clusters }).to_string()).unwrap();
    let arguments = ["--xds-file", file.to_str().unwrap()];
    let settings = [
        ("EASTGATE_UPSTREAM_DNS_SERVERS", dnsmasq.address.to_string()),
        ("EASTGATE_UPSTREAM_DNS_RETRY", "20ms".into()),
    ];
    let eastgate = Eastgate::start(&arguments, &settings).await;
    for (family, wanted) in FAMILIES {
        let wanted: BTreeSet<_> = wanted.iter().map(|address| (*address).to_owned()).collect();
        let old = if family == "V6_ONLY" { BTreeSet::new() } else { ["127.0.9.5".to_owned()].into() };
        let is_so = |text: &str| {
            endpoints(text, &format!("{family}/both")) == wanted
                && endpoints(text, &format!("{family}/old")) == old
        };
        eastgate.until("/clusters", is_so).await;
        println!("families: {family}: {wanted:?} of a name with both, {old:?} of one with IPv4 alone");
    }
}

#[tokio::test]
async fn a_search_domain_is_not_asked_unless_that_is_set() {
    // The system's own servers are asked at port 53, and their file is another one for the program alone.
    let root = can(&["unshare", "--mount", "true"], "another resolv.conf wants root (unshare)");
    if !root || !has_dnsmasq() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let trap = record("gw.bar.example", "127.6.6.6", 1);
    let dnsmasq = Dnsmasq::start(directory.path(), "127.0.153.53:53".parse().unwrap(), &[trap]);
    let resolv = directory.path().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 127.0.153.53\nsearch bar.example\noptions ndots:5\n").unwrap();
    let mesh = directory.path().join("mesh");
    std::fs::create_dir(&mesh).unwrap();
    std::fs::write(mesh.join("gateway.json"), support::gateway(&["*.global"]).to_string()).unwrap();
    std::fs::write(mesh.join("entry.json"), entry("gw", 15443).to_string()).unwrap();
    let start = async |search: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec"]);
        command.arg("mount --bind \"$1\" /etc/resolv.conf; program=$0; shift; exec \"$program\" \"$@\"");
        command.arg(env!("CARGO_BIN_EXE_eastgate")).arg(&resolv);
        let arguments = ["--mesh-dir", mesh.to_str().unwrap(), "--listen", "15443=127.0.0.1:0"];
        let settings = [
            ("EASTGATE_UPSTREAM_DNS_SEARCH", search.to_owned()),
            ("EASTGATE_UPSTREAM_DNS_RETRY", "20ms".into()),
            ("EASTGATE_UPSTREAM_DNS_MAX_RETRY", "50ms".into()),
        ];
        Eastgate::start_by(command, &arguments, &settings).await
    };
    let safe = start("false").await;
    dnsmasq.until_asked("gw", 4).await;
    let clusters = safe.admin("/clusters").await;
    assert_eq!((endpoints(&clusters, "").len(), dnsmasq.asked("gw.bar.example")), (0, 0), "{clusters}");
    println!("search domains: gw was asked for {} times, gw.bar.example never", dnsmasq.asked("gw"));
    let searching = start("true").await;
    searching.until("/clusters", |text| endpoints(text, "") == ["127.6.6.6".to_owned()].into()).await;
}
