//! The gateway works with Landlock and seccomp on, and what they take from it is gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/fed.rs"]
mod fed;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/plane.rs"]
mod plane;
#[path = "support/program.rs"]
mod program;
#[path = "support/resources.rs"]
mod resources;
mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::process::Command;

use eastgate::sandbox;
use eastgate_config::bootstrap::Settings;
use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::client::{self, Client, Expect};
use eastgate_loadtest::origin::{self, Clients, Origin, RawOrigin};
use fed::{pod, served, world};
use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use machine::{Directory, VM, httpbin, own_address};
use plane::Plane;
use program::Eastgate;
use rustix::net::{AddressFamily, SocketType};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LISTENER: &str = "0.0.0.0_15443";
const VMHTTP: &str = "outbound_.8888_._.vmhttp.vm.svc.cluster.local";
const LOADED: &str = "tls_certificate_loads_total{result=\"ok\"}";

/// One line where this kernel has no Landlock.
fn landlock_is_there() -> bool {
    let wanted = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let there = wanted.handle_access(AccessFs::from_all(ABI::V1)).and_then(Ruleset::create).is_ok();
    if !there {
        eprintln!("not run: this kernel has no Landlock");
    }
    there
}

/// What comes of each attempt, in a directory with a mesh and, beside it, something that is nobody's business.
fn attempts(directory: &Path) -> BTreeMap<&'static str, bool> {
    let parent = rustix::process::getppid().unwrap();
    BTreeMap::from([
        ("read the mesh", File::open(directory.join("mesh/gateway.json")).is_ok()),
        ("write into the mesh", File::create(directory.join("mesh/new.json")).is_ok()),
        ("read what is beside it", File::open(directory.join("beside")).is_ok()),
        ("read it by a link out of the mesh", File::open(directory.join("mesh/link.json")).is_ok()),
        ("read /etc/shadow", File::open("/etc/shadow").is_ok()),
        ("read /proc/self/status", File::open("/proc/self/status").is_ok()),
        ("write into the system's temporary directory", tempfile::tempfile_in("/tmp").is_ok()),
        ("run a program", Command::new("/bin/true").status().is_ok()),
        ("send a signal", rustix::process::test_kill_process(parent).is_ok()),
        ("open a packet socket", rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None).is_ok()),
        ("open a UDP socket", UdpSocket::bind("127.0.0.1:0").is_ok()),
        ("look a name up", ("localhost", 1).to_socket_addrs().is_ok()),
        (
            "start a thread",
            std::thread::Builder::new().spawn(|| ()).is_ok_and(|thread| thread.join().is_ok()),
        ),
    ])
}

/// Prints what comes of the attempts, in a sandbox or out of it. What is given up is gone for the process, so that the
/// next test runs this in one of its own.
#[test]
#[ignore = "what_is_not_left_is_gone runs it"]
fn probe() {
    let directory = std::env::var("SANDBOX_DIRECTORY").unwrap();
    let mut settings = Settings::default();
    settings.source.mesh_dir = Some(Path::new(&directory).join("mesh"));
    let on = std::env::var("SANDBOX").unwrap() == "on";
    (settings.security.landlock, settings.security.seccomp) = (on, on);
    sandbox::enter(&settings).unwrap();
    // A thread that comes to be later, as all of the gateway's do.
    let attempts = std::thread::spawn(move || attempts(Path::new(&directory))).join().unwrap();
    println!("\n{}", serde_json::to_string(&attempts).unwrap());
}

fn probed(directory: &Path, sandbox: &str) -> BTreeMap<String, bool> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "probe", "--ignored", "--nocapture", "--test-threads", "1"]);
    let output = command.env("SANDBOX", sandbox).env("SANDBOX_DIRECTORY", directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with('{'));
    serde_json::from_str(line.unwrap_or_else(|| panic!("{output:?}"))).unwrap()
}

#[test]
fn what_is_not_left_is_gone() {
    if !landlock_is_there() {
        return;
    }
    let directory = place(&[]);
    link(directory.path());
    let (outside, inside) = (probed(directory.path(), "off"), probed(directory.path(), "on"));
    let left =
        ["read the mesh", "read /proc/self/status", "open a UDP socket", "look a name up", "start a thread"];
    for (what, done) in inside {
        assert_eq!(done, left.contains(&&*what), "{what}");
        // As an ordinary user these are not to be had without a sandbox either.
        let privileged = ["read /etc/shadow", "open a packet socket"].contains(&&*what);
        assert!(outside[&what] || privileged && !rustix::process::geteuid().is_root(), "{what}, outside");
    }
}

/// A directory with a mesh of these pods, and something beside it.
fn place(pods: &[std::net::SocketAddr]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("mesh")).unwrap();
    for (name, document) in mesh(pods) {
        std::fs::write(directory.path().join("mesh").join(name), document.to_string()).unwrap();
    }
    std::fs::write(directory.path().join("beside"), gateway(&["*.beside"]).to_string()).unwrap();
    directory
}

/// Puts a link out of the mesh into it.
fn link(directory: &Path) {
    std::os::unix::fs::symlink(directory.join("beside"), directory.join("mesh/link.json")).unwrap();
}

async fn start(arguments: &[&str], more: &[(&str, String)]) -> Eastgate {
    start_any(&[&["--listen", "15443=127.0.0.1:0", "--threads", "2"], arguments].concat(), more).await
}

async fn start_any(arguments: &[&str], more: &[(&str, String)]) -> Eastgate {
    let on =
        [("EASTGATE_SECURITY_LANDLOCK", "true".to_owned()), ("EASTGATE_SECURITY_SECCOMP", "true".to_owned())];
    Eastgate::start(arguments, &[&on, more].concat()).await
}

/// Every thread of the process has both filters (`/proc/PID/task/*/status`).
fn assert_fenced(gateway: &Eastgate) {
    let mut threads = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let value =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        let found = [value("NoNewPrivs:"), value("Seccomp:"), value("Seccomp_filters:")];
        assert_eq!(found, ["1", "2", "2"], "{status}");
        threads += 1;
    }
    assert!(threads >= 3, "{threads} threads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_main_job_reloads_the_admin_port_and_a_hot_restart_work_in_it() {
    if !landlock_is_there() {
        return;
    }
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let directory = place(&[pod.address()]);
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::create_dir(path("run")).unwrap();
    std::fs::create_dir(path("log")).unwrap();
    let (mesh, socket) = (path("mesh"), path("run/restart"));
    let records = path("log/access");
    let mut arguments = vec!["--mesh-dir", &mesh, "--restart-socket", &socket, "--dns", "127.0.0.1:0"];
    arguments.extend(["--access-log", &records]);
    let first = start(&arguments, &[]).await;
    let address = first.listening(LISTENER).await;
    assert!(
        first.log().contains("files are fenced in") && first.log().contains("system calls are fenced in")
    );
    let mut open = tunnel(address).await.unwrap();
    say(&mut open).await;
    assert_fenced(&first);

    // The link leads out of what may be read, and is told as what it is.
    link(directory.path());
    let warning = first.logged("its last content stays in use").await;
    assert!(warning.contains("link.json: Permission denied"), "{warning}");
    assert!(!first.admin("/config_dump?include_snapshot").await.contains("*.beside"));
    std::fs::remove_file(path("mesh/link.json")).unwrap();
    // A new file is seen, and read.
    std::fs::write(path("mesh/more.json"), named_service("more").to_string()).unwrap();
    first.until("/config_dump?include_snapshot", |text| text.contains("more.bar.svc")).await;
    for page in
        ["/ready", "/stats/prometheus", "/clusters?format=json", "/audit", "/names?format=json", "/xds"]
    {
        assert!(!first.admin(page).await.is_empty(), "{page}");
    }
    assert!(first.metric("open_files").await > 0.0 && first.metric("memory_bytes").await > 0.0);

    // It starts no program, not even itself; who starts the next one is somebody else.
    first.signal("USR2");
    let refused = first.logged("cannot start a new process; this one goes on").await;
    assert!(refused.contains("security"), "{refused}");
    say(&mut open).await;
    let second = start(&arguments, &[]).await;
    assert_eq!(second.listening(LISTENER).await, address);
    let (status, log) = first.exit().await;
    assert!(status.success() && log.contains("passed=1 closed_idle=0 cut=0"), "{log}");
    say(&mut open).await;
    say(&mut tunnel(address).await.unwrap()).await;
    assert_fenced(&second);
    drop(open);
    second.signal("INT");
    assert!(second.exit().await.0.success());
    assert!(std::fs::read_to_string(&records).unwrap().lines().count() >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn xds_over_tls_its_state_and_a_name_that_is_looked_up_work_in_it() {
    if !landlock_is_there() {
        return;
    }
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let server = ca.issue(&["localhost"]).unwrap();
    let identity = tonic::transport::Identity::from_pem(server.chain_pem(), server.key_pem());
    let tls = tonic::transport::ServerTlsConfig::new().identity(identity);
    let plane = Plane::start_tls(tls, None, world(pod.address())).await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::create_dir(path("secrets")).unwrap();
    std::fs::write(path("secrets/token"), "t").unwrap();
    std::fs::write(path("secrets/root.pem"), ca.certificate_pem()).unwrap();
    let settings = [
        ("EASTGATE_XDS_TOKEN_PATH", path("secrets/token")),
        ("EASTGATE_XDS_ROOT_PATHS", path("secrets/root.pem")),
        ("EASTGATE_XDS_STATE_DIR", path("state")),
    ];
    let at = plane.address.replace("127.0.0.1", "localhost");
    let gateway = start(&["--xds", &at], &settings).await;
    let address = gateway.listening("xds").await;
    assert!(served(&ca, address).await.is_some());
    gateway.metric_until("xds_state_writes_total{result=\"ok\"}", |count| count >= 1.0).await;
    // A token that Kubernetes has renewed, by a rename.
    std::fs::write(path("secrets/new"), "renewed").unwrap();
    std::fs::rename(path("secrets/new"), path("secrets/token")).unwrap();
    plane.cut();
    let seen = plane.until(|seen| seen.streams == 2).await;
    assert_eq!(seen.tokens[1].as_deref(), Some("Bearer renewed"));
    gateway.signal("KILL");
    drop(gateway);
    plane.stop().await;

    let gateway = start(&["--xds", &at], &settings).await;
    let address = gateway.listening("xds").await;
    assert!(served(&ca, address).await.is_some(), "from the state that was written in it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_security_readable_adds_can_be_read_and_nothing_beside_it() {
    if !landlock_is_there() {
        return;
    }
    let directory = place(&[]);
    link(directory.path());
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("beside"), named_service("beside").to_string()).unwrap();
    let readable = [("EASTGATE_SECURITY_READABLE", path("beside"))];
    let gateway = start(&["--mesh-dir", &path("mesh")], &readable).await;
    gateway.listening(LISTENER).await;
    gateway.until("/config_dump?include_snapshot", |text| text.contains("beside.bar.svc")).await;
    // The one file, and nothing that is in the same directory.
    std::fs::write(path("other"), named_service("other").to_string()).unwrap();
    std::os::unix::fs::symlink(path("other"), path("mesh/other.json")).unwrap();
    let warning = gateway.logged("its last content stays in use").await;
    assert!(warning.contains("other.json: Permission denied"), "{warning}");
    assert!(!gateway.admin("/config_dump?include_snapshot").await.contains("other.bar.svc"));
}

/// A client of the mesh that calls the VM.
fn caller(ca: &Ca) -> Client {
    let mut options = client::Options::new(ca.roots());
    options.expect = Expect::OneOf(vec![VM.into()]);
    options.alpn = vec!["istio".into()];
    options.identity = Some(ca.issue(&["spiffe://cluster.local/ns/foo/sa/sleep"]).unwrap());
    options.timeout = PATIENCE;
    Client::new(options).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_calls_and_is_called_and_renews_its_certificate_in_it() {
    if !landlock_is_there() {
        return;
    }
    let ca = Ca::new().unwrap();
    let mut strict = origin::Options::new("httpbin-0", ca.issue(&[SPIFFE]).unwrap());
    strict.clients = Clients::Verified(ca.roots());
    let pod = Origin::start(strict).await.unwrap();
    let through = Gateway::start(&mesh(&[pod.address()])).await;
    let local = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let (vip, mine) = (own_address(), own_address());
    let env = format!("ISTIO_SERVICE_CIDR=127.0.0.0/8\nCLUSTER_GW_ADDR=127.0.0.1\nISTIO_SVC_IP={mine}\n");
    let directory = Directory::in_mesh(&ca, &env);
    directory.write("httpbin.yaml", &httpbin(vip, through.address.port()));
    let path = directory.0.path().display().to_string();
    let settings = [
        ("EASTGATE_VM_CONFIG_DIR", path.clone()),
        ("EASTGATE_VM_CERTS_DIR", path),
        ("EASTGATE_VM_INBOUND", format!("{{8888: {}}}", local.address())),
    ];
    let machine = start_any(&["--threads", "2"], &settings).await;
    machine.until("/ready", |text| text.starts_with("LIVE")).await;
    assert_fenced(&machine);
    let caller = caller(&ca);
    for round in 0..2 {
        let (status, body) = http_get((vip, 8000).into(), "/hostname").await;
        assert!(status == 200 && body.contains(VM), "{round}: {body}");
        let mut called = caller.connect((mine, 8888).into(), VMHTTP).await.unwrap();
        called.write_all(b"still here").await.unwrap();
        let mut echoed = [0; 10];
        called.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"still here");
        // Renewed by a rename: another inode.
        let loaded = machine.metric(LOADED).await;
        directory.certify(&ca, VM);
        machine.metric_until(LOADED, |count| count > loaded).await;
    }
    // A service that comes later is served, and a link out of the directory leads nowhere.
    let other = own_address();
    let later = httpbin(other, through.address.port()).replace("httpbin.bar.forvms", "later");
    let beside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(beside.path(), &later).unwrap();
    let entry = directory.0.path().join("later.yaml");
    std::os::unix::fs::symlink(beside.path(), &entry).unwrap();
    machine.logged("later.yaml: Permission denied").await;
    std::fs::remove_file(entry).unwrap();
    directory.write("later.yaml", &later);
    machine.until("/listeners", |text| text.contains(&other.to_string())).await;
    assert_eq!(http_get((other, 8000).into(), "/hostname").await.0, 200);
}
