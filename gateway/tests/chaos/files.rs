//! Faults of a gateway that reads files, of its pods, and of the network between them.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use eastgate_loadtest::ca::Ca;
use serde_json::{Value, json};

use crate::fate::Hurts;
use crate::load::Tunnel;
use crate::network::{Pod, Running, no_rules, rules, rules_both_ways, sh};
use crate::program::Eastgate;
use crate::scene::{Kept, Scene};
use crate::support::{GLOBAL, gateway, policy, service, slices};

const NOBODY: Hurts = Hurts::Nobody;
const LISTENER: &str = "0.0.0.0_15443";

/// Where the gateway's files are.
struct Place {
    directory: PathBuf,
    group: Option<Group>,
}

/// A cgroup for memory.
struct Group(PathBuf, &'static str);

impl Group {
    fn new() -> Option<Self> {
        let versions = [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
        versions.into_iter().find_map(|(root, limit)| {
            let directory = Path::new(root).join(format!("eastgate-chaos-{}", fastrand::u32(..)));
            std::fs::create_dir(&directory).ok()?;
            let group = Self(directory, limit);
            group.0.join(limit).exists().then_some(group)
        })
    }

    fn limit(&self, bytes: f64) {
        std::fs::write(self.0.join(self.1), (bytes as u64).to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

impl Place {
    fn new(directory: &Path) -> Self {
        let place = Self { directory: directory.into(), group: Group::new() };
        let log = place.path("log");
        std::fs::create_dir_all(place.mesh()).unwrap();
        sh(&format!("mkdir -p {log}; mount -t tmpfs -o size=16m chaos {log}"));
        place
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn mesh(&self) -> PathBuf {
        self.directory.join("mesh")
    }

    fn write(&self, name: &str, document: &Value) {
        let path = self.mesh().join(name);
        std::fs::write(path.with_extension("new"), document.to_string()).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// The year that the last record of the access log says it is.
    fn year(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.path("log/access")).unwrap();
        let line = text.trim_end().lines().last()?;
        Some(line.split("\"start\":\"").nth(1)?.get(..4)?.to_owned())
    }

    /// A gateway, which takes over if there is one before it.
    async fn gateway(&self, settings: &[(&str, String)]) -> Eastgate {
        let (mesh, socket, log) = (self.path("mesh"), self.path("restart"), self.path("log/access"));
        let arguments = [
            "--mesh-dir",
            &mesh,
            "--listen",
            "15443=127.0.0.1:15443",
            "--restart-socket",
            &socket,
            "--threads",
            "2",
            "--access-log",
            &log,
        ];
        let mut all = vec![
            ("EASTGATE_LIMITS_RESERVED_FILES", "60".to_owned()),
            ("EASTGATE_UPSTREAM_ANSWER_TIMEOUT", "1s".into()),
            // Far below what the cgroup allows, so that nothing comes near to being killed.
            ("EASTGATE_LIMITS_MEMORY_PAUSE_PERCENT", "10".into()),
            ("EASTGATE_LIMITS_MEMORY_SHED_PERCENT", "20".into()),
        ];
        all.extend_from_slice(settings);
        let eastgate = env!("CARGO_BIN_EXE_eastgate");
        let mut command = Command::new("sh");
        command.args(["-c", "[ -z \"$0\" ] || echo $$ >\"$0\"; exec \"$@\""]);
        command.arg(self.group.as_ref().map_or_else(PathBuf::new, |group| group.0.join("cgroup.procs")));
        command.arg(eastgate);
        Eastgate::start_by(command, &arguments, &all).await
    }
}

/// Endpoints that fail three times in a row are out for a second, half of them at most.
fn watched() -> Value {
    policy(json!({
        "loadBalancer": { "simple": "ROUND_ROBIN" },
        "connectionPool": { "tcp": { "connectTimeout": "300ms" } },
        "outlierDetection": {
            "consecutive5xxErrors": 3, "interval": "1s", "baseEjectionTime": "1s", "maxEjectionPercent": 50,
        },
    }))
}

pub(crate) async fn all(kept: Kept, ca: &Ca, directory: &Path, count: usize) -> Kept {
    let place = Place::new(&directory.join("files"));
    let endpoints: Vec<_> = kept.pods.iter().map(Pod::address).collect();
    place.write("gateway.json", &gateway(&["*.global"]));
    place.write("service.json", &service());
    place.write("slices.json", &slices(&endpoints));
    place.write("policy.json", &watched());
    let gateway = place.gateway(&[]).await;
    let mut scene = Scene::start(kept, gateway, (LISTENER, &[GLOBAL]), ca, count).await;
    network(&mut scene).await;
    pods(&mut scene).await;
    configuration(&mut scene, &place, &slices(&endpoints)).await;
    process(&mut scene, &place).await;
    vanished(&mut scene, &place).await;
    scene.finish().await
}

/// Those at the other end of open tunnels are gone without a word, whatever is under way to them: each tunnel ends when
/// nobody has answered for as long as the settings say, and gives back what it held.
async fn vanished(scene: &mut Scene, place: &Place) {
    let soon = [("TIME", "1s"), ("INTERVAL", "1s"), ("PROBES", "1")];
    let soon = soon.map(|(name, value)| (format!("EASTGATE_RELAY_KEEPALIVE_{name}"), value.to_owned()));
    let soon: Vec<_> = soon.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    take_over(scene, place, &soon).await;
    // A tunnel that came along has the patience of the process that accepted it.
    scene.standing.renew().await;

    let gone = Hurts::UnderWay(&[0]);
    let mut fault = scene.begins("an endpoint vanishes (drop, both ways): its tunnels end", gone).await;
    rules_both_ways("ip daddr 10.9.0.2 drop", "ip saddr 10.9.0.2 drop");
    scene.lasts_beside(&mut fault, &[0]).await;
    scene.gateway.until("/connections?endpoint=10.9.0.2:8443", |text| text.starts_with("0 open")).await;
    no_rules();
    scene.ends(fault).await;

    let mut fault = scene.begins("clients vanish (drop, both ways): their tunnels end", NOBODY).await;
    let mut tunnels = scene.standing.give_away(6);
    for tunnel in &mut tunnels[..3] {
        tunnel.asks_for_much().await;
    }
    let clients: Vec<_> = tunnels.iter().map(Tunnel::client).collect();
    let listed =
        |text: &str| clients.iter().filter(|client| text.contains(&format!(" {client} -> "))).count();
    scene.gateway.until("/connections", |text| listed(text) == clients.len()).await;
    let ports: String = clients.iter().map(|client| format!("{}, ", client.port())).collect();
    rules(&format!("tcp sport {{ {ports} }} drop\ntcp dport {{ {ports} }} drop"));
    scene.lasts(&mut fault, 1.0).await;
    scene.gateway.until("/connections", |text| listed(text) == 0).await;
    no_rules();
    drop(tunnels);
    scene.ends(fault).await;
    take_over(scene, place, &[]).await;
}

/// Packets to endpoints are dropped, refused, limited and lost.
async fn network(scene: &mut Scene) {
    let (one, all_but_one) = ("10.9.0.2", "{ 10.9.0.2, 10.9.1.2 }");
    let cases = [
        ("nftables drop: one endpoint", Hurts::UnderWay(&[0]), one, "drop"),
        ("nftables drop: all but one", Hurts::UnderWay(&[0, 1]), all_but_one, "drop"),
        ("nftables reject with a reset: one endpoint", Hurts::UnderWay(&[0]), one, "reject with tcp reset"),
        (
            "nftables reject with a reset: all but one",
            Hurts::UnderWay(&[0, 1]),
            all_but_one,
            "reject with tcp reset",
        ),
        ("nftables reject by ICMP: all but one", Hurts::UnderWay(&[0, 1]), all_but_one, "reject"),
        (
            "nftables limit, 100 packets a second: one endpoint",
            NOBODY,
            one,
            "limit rate over 100/second drop",
        ),
        (
            "nftables limit, 100 packets a second: all but one",
            NOBODY,
            all_but_one,
            "limit rate over 100/second drop",
        ),
        // Not of those that begin one: where each endpoint's only attempt has lost its SYN, and is given up before the kernel
        // sends another, nobody could be reached, and of a thousand connections one in seven runs has such a one.
        (
            "one packet in twenty of open connections is lost, to all",
            NOBODY,
            "10.9.0.0/16",
            "tcp flags & syn != syn numgen random mod 100 < 5 drop",
        ),
        (
            "nftables drop: every endpoint",
            Hurts::Unanswered("no endpoint could be reached"),
            "10.9.0.0/16",
            "drop",
        ),
    ];
    for (name, hurts, to, what) in cases {
        let mut fault = scene.begins(name, hurts).await;
        rules(&format!("ip daddr {to} {what}"));
        match hurts {
            Hurts::Unanswered(_) => scene.fails(&mut fault).await,
            _ => scene.lasts(&mut fault, 1.0).await,
        }
        no_rules();
        scene.ends(fault).await;
    }
    let mut fault = scene.begins("link of one endpoint down, and up", Hurts::UnderWay(&[1])).await;
    scene.pods[1].link("down");
    scene.lasts(&mut fault, 1.0).await;
    scene.pods[1].link("up");
    scene.ends(fault).await;
}

/// The processes of endpoints die and stand still.
async fn pods(scene: &mut Scene) {
    let killed: [(&str, &'static [usize]); 2] = [
        ("one endpoint killed (-9), and started again", &[1]),
        ("all but one endpoint killed (-9)", &[1, 2]),
    ];
    for (name, pods) in killed {
        let mut fault = scene.begins(name, Hurts::UnderWay(pods)).await;
        pods.iter().for_each(|pod| scene.pods[*pod].kill());
        scene.lasts(&mut fault, 1.0).await;
        pods.iter().for_each(|pod| scene.pods[*pod].start());
        scene.ends(fault).await;
    }
    let mut fault =
        scene.begins("every endpoint killed (-9)", Hurts::Everybody("every pod was killed")).await;
    scene.pods.iter_mut().for_each(Pod::kill);
    scene.lasts(&mut fault, 1.0).await;
    scene.pods.iter_mut().for_each(Pod::start);
    scene.ends(fault).await;
    // Who is under way there waits, and is served when it goes on.
    let mut fault = scene.begins("one endpoint stopped (STOP, CONT)", NOBODY).await;
    scene.pods[2].signal("STOP");
    scene.lasts_beside(&mut fault, &[2]).await;
    scene.pods[2].signal("CONT");
    scene.ends(fault).await;
}

/// Files are damaged, cut short, taken away, and put back.
async fn configuration(scene: &mut Scene, place: &Place, good: &Value) {
    let file = place.mesh().join("slices.json");
    let text = good.to_string();
    let told = "\"last_good_kept\":true";
    for (name, content) in [
        ("a file of configuration is overwritten with noise", "{ this is: [no YAML"),
        ("a file of configuration is cut in the middle", &text[..text.len() / 2]),
        ("a file of configuration is cut to nothing", ""),
    ] {
        let mut fault = scene.begins(name, NOBODY).await;
        std::fs::write(&file, content).unwrap();
        scene.gateway.until("/rejections", |text| text.contains(told)).await;
        scene.lasts(&mut fault, 1.0).await;
        place.write("slices.json", good);
        scene.gateway.until("/rejections", |text| !text.contains(told)).await;
        scene.ends(fault).await;
    }
    let mut fault = scene.begins("the directory of configuration is taken away", NOBODY).await;
    std::fs::rename(place.mesh(), place.path("elsewhere")).unwrap();
    scene.lasts(&mut fault, 1.0).await;
    std::fs::rename(place.path("elsewhere"), place.mesh()).unwrap();
    scene.ends(fault).await;

    let gone = Hurts::Unanswered("the configuration names no endpoint");
    let mut fault = scene.begins("the file with the endpoints is deleted", gone).await;
    std::fs::remove_file(&file).unwrap();
    let active = |text: &str| text.contains("10.9.");
    scene.gateway.until("/clusters", |text| !active(text)).await;
    scene.lasts(&mut fault, 1.0).await;
    place.write("slices.json", good);
    scene.gateway.until("/clusters", active).await;
    scene.ends(fault).await;

    let mut fault = scene.begins("endpoints are rewritten fifty times", NOBODY).await;
    for round in 0..50 {
        let mut some = good.clone();
        some["items"].as_array_mut().unwrap().remove(round % 3);
        place.write("slices.json", &some);
        scene.goes_on(2).await;
    }
    scene.lasts(&mut fault, 0.5).await;
    place.write("slices.json", good);
    scene.ends(fault).await;
}

/// What happens to the gateway's own process.
async fn process(scene: &mut Scene, place: &Place) {
    let mut fault = scene.begins("hot restart, three times", NOBODY).await;
    for _ in 0..3 {
        take_over(scene, place, &[]).await;
        scene.goes_on(20).await;
    }
    scene.lasts(&mut fault, 0.5).await;
    scene.ends(fault).await;

    let mut fault = scene.begins("the gateway stopped (STOP, CONT)", NOBODY).await;
    scene.gateway.signal("STOP");
    scene.waits(&mut fault).await;
    scene.gateway.signal("CONT");
    scene.ends(fault).await;

    descriptors(scene).await;

    let mut fault = scene.begins("the access log's disk is full", NOBODY).await;
    let log = place.path("log");
    sh(&format!("dd if=/dev/zero of={log}/filler bs=64k 2>/dev/null || true"));
    scene.lasts(&mut fault, 1.0).await;
    scene.gateway.metric_until("access_log_dropped_total", |dropped| dropped > 0.0).await;
    sh(&format!("rm {log}/filler; : >{log}/access"));
    scene.ends(fault).await;

    match &place.group {
        Some(group) => {
            memory(scene, group).await;
            killed_for_memory(scene, place, group).await;
        }
        None => println!("not tried: memory runs short, because a cgroup for memory cannot be made here"),
    }
    match faketime() {
        Some(library) => clock(scene, place, &library).await,
        None => println!("not tried: the clock steps, because libfaketime is not installed (.ci/setup)"),
    }
}

async fn take_over(scene: &mut Scene, place: &Place, settings: &[(&str, String)]) {
    let next = place.gateway(settings).await;
    next.listening(LISTENER).await;
    let before = std::mem::replace(&mut scene.gateway, next);
    let (status, log) = before.exit().await;
    assert!(status.success() && log.contains("another process has taken over"), "{log}");
}

async fn descriptors(scene: &mut Scene) {
    let newest = Hurts::Unanswered("descriptors had run out, and the newest is refused");
    let mut fault = scene.begins("file descriptors run out", newest).await;
    let pid = scene.gateway.pid();
    // Room for the tunnels that stand, and for four more.
    sh(&format!("prlimit --pid {pid} --nofile={}:", 60 + 2 * (12 + 4)));
    scene.gateway.metric_until("downstream_overflow_total{limit=\"connections\"}", |count| count > 0.0).await;
    scene.lasts(&mut fault, 1.0).await;
    sh(&format!("prlimit --pid {pid} --nofile=20000:"));
    scene.gateway.metric_until("open_files_limit", |limit| limit == 20_000.0).await;
    scene.ends(fault).await;
}

async fn memory(scene: &mut Scene, group: &Group) {
    let mut fault = scene.begins("memory of the cgroup runs short", NOBODY).await;
    let large = f64::from(1 << 30);
    group.limit(large);
    scene.gateway.metric_until("memory_limit_bytes", |limit| limit == large).await;
    let used = scene.gateway.metric("memory_bytes").await;
    // 15 % are used: above the 10 at which nobody is accepted, and below the 20 at which tunnels go.
    group.limit(used / 0.15);
    scene.gateway.metric_until("overload_paused", |paused| paused == 1.0).await;
    scene.waits(&mut fault).await;
    group.limit(used * 50.0);
    scene.gateway.metric_until("overload_paused", |paused| paused == 0.0).await;
    scene.ends(fault).await;
}

/// A neighbour in the cgroup takes all the memory that there is, faster than anybody could give some back, and the kernel
/// kills the gateway. Whoever looks after it starts it again.
async fn killed_for_memory(scene: &mut Scene, place: &Place, group: &Group) {
    let killed = Hurts::Everybody("the gateway itself was killed");
    let fault = scene.begins("memory of the cgroup runs out, and the kernel kills the gateway", killed).await;
    let used = scene.gateway.metric("memory_bytes").await;
    group.limit(used + f64::from(64 << 20));
    // Of the two the kernel is to choose the gateway.
    std::fs::write(format!("/proc/{}/oom_score_adj", scene.gateway.pid()), "1000").unwrap();
    let mut neighbour = Command::new("sh");
    // It looks for the end of a line, and keeps all that may belong to it.
    neighbour.args(["-ec", "echo $$ >\"$0\"; exec tail -n 1 /dev/zero"]);
    let neighbour = Running(neighbour.arg(group.0.join("cgroup.procs")).spawn().unwrap());
    let status = scene.gateway.ended().await;
    drop(neighbour);
    assert_eq!(status.signal(), Some(9), "{status}");
    group.limit(used * 50.0);
    let next = place.gateway(&[]).await;
    next.listening(LISTENER).await;
    scene.gateway = next;
    scene.ends(fault).await;
}

/// Namespaces have clocks of their own only for the time since the start. The wall clock is everybody's, so that a library
/// has to stand between it and a process.
fn faketime() -> Option<PathBuf> {
    let directories = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut paths = directories.map(|directory| directory.path().join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists())
}

/// A process whose wall clock is a file's content takes over, and the file is changed.
async fn clock(scene: &mut Scene, place: &Place, library: &Path) {
    let file = place.path("clock");
    std::fs::write(&file, "+0").unwrap();
    let settings = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.clone()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ];
    take_over(scene, place, &settings).await;
    for (name, step) in
        [("the clock steps forward by 400 days", "+400d"), ("the clock steps back by 800 days", "-400d")]
    {
        let before = place.year();
        let mut fault = scene.begins(name, NOBODY).await;
        std::fs::write(&file, step).unwrap();
        while place.year() == before {
            scene.goes_on(1).await;
        }
        scene.lasts(&mut fault, 1.0).await;
        scene.ends(fault).await;
    }
    take_over(scene, place, &[]).await;
}
