//! Pods on networks of their own, each behind its own link to this namespace, in which the gateway and the clients are.
//! All of it is gone with the process that holds it.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::load::pod_name;
use crate::support::SPIFFE;

/// What runs in another process, and is ended with this.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    pub(crate) fn signal(&self, name: &str) {
        signal(self.0.id(), name);
    }
}

pub(crate) fn signal(pid: u32, name: &str) {
    sh(&format!("kill -s {name} {pid}"));
}

pub(crate) fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Replaces all rules by these, of a chain through which everything goes that is sent from here.
pub(crate) fn rules(rules: &str) {
    rules_both_ways(rules, "");
}

/// The same, and these of a chain through which everything goes that comes here.
pub(crate) fn rules_both_ways(rules: &str, of_arriving: &str) {
    let mut command = Command::new("nft");
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let table = format!(
        "table ip chaos {{
            chain out {{
                type filter hook output priority 0;
{rules}
            }}
            chain in {{
                type filter hook input priority 0;
{of_arriving}
            }}
        }}
"
    );
    child.stdin.take().unwrap().write_all(table.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{table}");
}

pub(crate) fn no_rules() {
    sh("nft delete table ip chaos");
}

/// A pod: a process that serves TLS, in a network that is there also without it.
pub(crate) struct Pod {
    number: usize,
    network: Running,
    process: Option<Running>,
    program: PathBuf,
    ca: PathBuf,
}

impl Pod {
    pub(crate) fn new(number: usize, program: &Path, ca: &Path) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-ec", "ip link set lo up; echo made; exec sleep infinity"]);
        let mut network = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(network.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "made\n");
        let pid = network.0.id();
        sh(&format!(
            "ip link add pod{number} type veth peer name eth0 netns {pid}
             ip addr add 10.9.{number}.1/24 dev pod{number}; ip link set pod{number} up
             nsenter --net --target {pid} sh -ec 'ip addr add 10.9.{number}.2/24 dev eth0; ip link set eth0 up'"
        ));
        let mut pod = Self { number, network, process: None, program: program.into(), ca: ca.into() };
        pod.start();
        pod
    }

    pub(crate) fn address(&self) -> SocketAddr {
        format!("10.9.{}.2:8443", self.number).parse().unwrap()
    }

    /// Starts its process, and returns when it listens.
    pub(crate) fn start(&mut self) {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.network.0.id().to_string()]).arg(&self.program);
        command.args(["origin", "--listen", &self.address().to_string(), "--name", &pod_name(self.number)]);
        command.args(["--san", SPIFFE, "--san", &pod_name(self.number), "--ca-dir"]).arg(&self.ca);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Running(command.spawn().unwrap());
        let mut said = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let listens = said.find(|line| line.as_ref().is_ok_and(|line| line.contains("8443")));
        assert!(listens.is_some(), "{} does not listen", pod_name(self.number));
        self.process = Some(process);
    }

    /// Ends its process at once.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.as_ref().unwrap().signal(name);
    }

    /// Takes this side of its link down, or up again.
    pub(crate) fn link(&self, state: &str) {
        sh(&format!("ip link set pod{} {state}", self.number));
    }
}
