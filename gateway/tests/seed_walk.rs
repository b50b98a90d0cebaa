//! `docs/mesh-expansion.md`, walked: its commands are taken out of the page and run, in its order, on a VM, two clusters
//! and a client that reach each other's gateways and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/lab.rs"]
mod lab;
#[path = "support/page.rs"]
mod page;
#[path = "seed_walk/wrong.rs"]
mod wrong;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use lab::Machine;
use page::Block;

/// How long something that is under way may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn the_page_on_mesh_expansion_can_be_walked() {
    let Some(said) = lab::walked() else { return };
    let line = said.lines().find_map(|line| line.strip_prefix("namespaces: ")).unwrap();
    let namespaces: Vec<_> = line.split(' ').collect();
    assert_eq!((namespaces.len(), lab::members(&namespaces)), (8, Vec::new()), "something is left");
}

#[test]
#[ignore = "makes networks; the_page_on_mesh_expansion_can_be_walked runs it where they are its own"]
fn inside() {
    let machines = Machines::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/mesh-expansion.md")).unwrap();
    let blocks = page::blocks(&page);
    let (walk, cleaning): (Vec<_>, Vec<_>) = blocks.iter().partition(|block| block.heading != "Cleaning up");
    assert!(walk.len() > 20 && cleaning.len() > 2, "{} and {} blocks", walk.len(), cleaning.len());
    let before = machines.vm.done(STATE);
    walk.into_iter().for_each(|block| machines.step(block));
    wrong::all(&machines, &page);
    cleaning.into_iter().for_each(|block| machines.step(block));
    let after = machines.vm.done(STATE);
    let differ = |one: &str, other: &str| -> Vec<String> {
        let there: BTreeSet<_> = other.lines().collect();
        one.lines().filter(|line| !there.contains(line)).map(str::to_owned).collect()
    };
    let (left, lost) = (differ(&after, &before), differ(&before, &after));
    assert!(left.is_empty() && lost.is_empty(), "left on the VM: {left:#?}; lost: {lost:#?}");
    let namespaces: Vec<_> = machines.all().into_iter().flat_map(Machine::namespaces).collect();
    println!("namespaces: {}", namespaces.join(" "));
}

/// All that the page may change on the VM: files, users, routes, rules, processes that listen.
const STATE: &str = "find /etc /var/lib /usr/local/bin -type f ! -name '*-' ! -name .pwd.lock | sort | xargs -d '\\n' sha256sum
    find /etc /var/lib -type d | sort
    ip route show table all; nft list ruleset; ss -Hltn | awk '{print $4}' | sort\n";

/// The four machines.
struct Machines {
    vm: Machine,
    cluster: Machine,
    remote: Machine,
    client: Machine,
}

impl Machines {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        lab::directory(&root.join("config").canonicalize().unwrap());
        let programs = lab::programs();
        let machine = |name, network: &str| Machine::new(name, &programs, network);
        let at = |addresses: &[&str]| -> String {
            addresses.iter().map(|address| format!("ip addr add {address}/32 dev lo\n")).collect()
        };
        let pods = ["10.1.0.11", "10.1.0.21", "10.1.0.22", "10.1.0.23", "10.1.0.24", "10.1.0.25"];
        let machines = Self {
            vm: machine("vm", ""),
            cluster: machine("cluster", &(at(&pods) + &at(&["198.51.100.1", "198.51.100.2"]))),
            remote: machine("remote", &at(&pods[..1])),
            client: machine("client", ""),
        };
        let to = |address: &str, by: &str| format!("ip route add {address} dev {by}\n");
        let ends = |own: &str, gateways: &[&str]| {
            let routes: String = gateways.iter().map(|gateway| to(gateway, "eth0")).collect();
            format!("ip addr add {own}/32 dev eth0\n{routes}")
        };
        let cluster = &machines.cluster;
        let route =
            |address: &str, by: &str, from: &str| format!("ip route add {address} dev {by} src {from}");
        cluster.link(
            ("vm", &route("192.0.2.10", "vm", "198.51.100.1")),
            &machines.vm,
            &ends("192.0.2.10", &["198.51.100.1"]),
        );
        cluster.link(
            ("client", &route("192.0.2.20", "client", "198.51.100.1")),
            &machines.client,
            &ends("192.0.2.20", &["198.51.100.1", "198.51.100.2"]),
        );
        cluster.link(
            ("remote", &route("203.0.113.1", "remote", "198.51.100.2")),
            &machines.remote,
            &ends("203.0.113.1", &["198.51.100.2"]),
        );
        machines
    }

    fn all(&self) -> [&Machine; 4] {
        [&self.vm, &self.cluster, &self.remote, &self.client]
    }

    fn named(&self, name: &str) -> &Machine {
        self.all()
            .into_iter()
            .find(|machine| machine.name == name)
            .unwrap_or_else(|| panic!("no machine {name}"))
    }

    /// Runs one block of the page, and says what was promised and what happened.
    fn step(&self, block: &Block) {
        let began = Instant::now();
        println!("\n== {}, on the {}", block.heading, block.machine);
        println!("promised: {}", block.promise);
        print!("{}", prefixed(&block.commands, "$ "));
        let machine = self.named(&block.machine);
        let (mut succeeded, mut said) = machine.run(&block.commands);
        let kept = |succeeded: bool, said: &str| {
            succeeded != block.fails && block.expect.iter().all(|text| said.contains(text))
        };
        while block.repeat && !kept(succeeded, &said) && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(50));
            (succeeded, said) = machine.run(&block.commands);
        }
        println!("happened: after {} ms", began.elapsed().as_millis());
        print!("{}", prefixed(&said, "> "));
        assert!(
            kept(succeeded, &said),
            "docs/mesh-expansion.md:{}: not {:?}{}",
            block.line,
            block.expect,
            self.logs()
        );
    }

    /// What the programs in the background have said.
    fn logs(&self) -> String {
        self.cluster.run("tail -n 3 *.log").1
    }
}

fn prefixed(text: &str, prefix: &str) -> String {
    text.lines().map(|line| format!("{prefix}{line}\n")).collect()
}
