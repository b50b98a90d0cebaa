//! Machines made out of namespaces of Linux: each has its own network and its own `/etc`, `/var/lib` and
//! `/usr/local/bin`. They share a directory, in which all their commands are run, as if files were copied at once.
//!
//! The namespaces have no names, and nothing is mounted where others see it: when the process that holds them ends,
//! however it does, the kernel takes all of it away.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The directory that the machines share.
pub const DIRECTORY: &str = "/mnt";

/// What the lab needs of this machine.
const NEEDED: [&str; 10] =
    ["ip", "nft", "dig", "curl", "openssl", "setpriv", "nsenter", "useradd", "pkill", "python3"];

/// The programs that its machines have.
pub fn programs() -> [PathBuf; 2] {
    let eastgate = PathBuf::from(env!("CARGO_BIN_EXE_eastgate"));
    let pods = eastgate.with_file_name("eastgate-loadtest");
    [eastgate, pods]
}

/// Runs the ignored test `inside` of this file in a lab, where there can be one, and returns what it said.
pub fn walked() -> Option<String> {
    if let Some(why) = missing(&programs()) {
        assert_ne!(std::env::var("E2E").as_deref(), Ok("required"), "not run: {why}");
        eprintln!("not run: {why}");
        return None;
    }
    let output = inside("inside");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{complaint}");
    Some(said)
}

/// Why there can be no lab here.
pub fn missing(programs: &[PathBuf]) -> Option<String> {
    let found = |name: &&str| {
        Command::new("sh").args(["-c", "command -v \"$0\"", name]).output().unwrap().status.success()
    };
    if let Some(name) = NEEDED.iter().find(|name| !found(name)) {
        return Some(format!("the lab wants {name}; .ci/setup installs it"));
    }
    if let Some(program) = programs.iter().find(|program| !program.exists()) {
        return Some(format!("the lab wants {}; cargo build --bins makes it", program.display()));
    }
    let able = Command::new("unshare").args(["-nmpf", "mount", "-t", "tmpfs", "lab", DIRECTORY]).output();
    match able {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("the lab wants root: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("the lab wants unshare: {error}")),
    }
}

/// Runs this program's test of this name where labs can be made; its process and all that it starts end with it, and
/// it ends with this one.
pub fn inside(test: &str) -> Output {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    // A shell is the first process there: it takes the leave of those that nobody waits for.
    command.args(["sh", "-c", "\"$0\" \"$@\"; exit $?"]);
    command.arg(std::env::current_exe().unwrap()).args([test, "--exact", "--ignored", "--nocapture"]);
    command.stdin(Stdio::null()).output().unwrap()
}

/// A machine; it is gone when this is dropped.
pub struct Machine {
    pub name: &'static str,
    holder: Child,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Makes the shared directory, with what the commands find in it. A mount, and not a link, because a machine may have
/// something of its own over the place where the repository is.
pub fn directory(config: &Path) {
    sh(&format!(
        "mount -t tmpfs lab {DIRECTORY} && mkdir {DIRECTORY}/config && mount --bind {} {DIRECTORY}/config",
        config.display()
    ));
}

impl Machine {
    /// Makes one with these programs in `/usr/local/bin` and with these network commands run.
    pub fn new(name: &'static str, programs: &[PathBuf], network: &str) -> Self {
        let mut script = format!(
            "mkdir -p {DIRECTORY}/.{name}; cp -a /etc {DIRECTORY}/.{name}/; mount --bind {DIRECTORY}/.{name}/etc /etc\n\
             rm -f /etc/resolv.conf; echo '127.0.0.1 localhost' >/etc/hosts; echo 'nameserver 127.0.0.1' >/etc/resolv.conf\n\
             mount -t tmpfs lab /var/lib; mkdir -p /usr/local/bin; mount -t tmpfs lab /usr/local/bin\n"
        );
        for program in programs {
            let place = format!("/usr/local/bin/{}", program.file_name().unwrap().display());
            script += &format!("touch {place}; mount --bind {} {place}\n", program.display());
        }
        script += &format!("ip link set lo up\n{network}\necho made; exec sleep infinity\n");
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-ec", &script]).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut machine = Self { name, holder: command.spawn().unwrap() };
        let mut line = String::new();
        BufReader::new(machine.holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "made\n", "the machine {name}");
        machine
    }

    /// A link from here to there: its ends' names, and what is to be done with each.
    pub fn link(&self, (end, here): (&str, &str), other: &Self, there: &str) {
        let pid = other.holder.id();
        self.done(&format!("ip link add {end} type veth peer name eth0 netns {pid}; ip link set {end} up\n"));
        other.done(&format!("ip link set eth0 addrgenmode none; ip link set eth0 up\n{there}"));
        self.done(here);
    }

    /// Runs commands, and gives what they said on both outputs.
    pub fn run(&self, commands: &str) -> (bool, String) {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.holder.id().to_string()]);
        command.args([
            "sh",
            "-ec",
            &format!(
                "exec 2>&1
cd {DIRECTORY}
{commands}"
            ),
        ]);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let output = command.env("NO_COLOR", "1").stdin(Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs commands that have to succeed.
    pub fn done(&self, commands: &str) -> String {
        let (done, said) = self.run(commands);
        assert!(done, "{}: {commands}\n{said}", self.name);
        said
    }

    /// The kernel's numbers of its namespaces.
    pub fn namespaces(&self) -> Vec<String> {
        ["net", "mnt"].map(|kind| namespace(&format!("/proc/{}/ns/{kind}", self.holder.id())).unwrap()).into()
    }
}

fn namespace(path: &str) -> Option<String> {
    Some(std::fs::read_link(path).ok()?.display().to_string())
}

/// The processes that are in one of these namespaces.
pub fn members(namespaces: &[&str]) -> Vec<String> {
    let processes =
        std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let within = |process: &String| {
        ["net", "mnt"].iter().any(|kind| {
            namespace(&format!("/proc/{process}/ns/{kind}"))
                .is_some_and(|found| namespaces.contains(&found.as_str()))
        })
    };
    processes.filter(within).collect()
}

fn sh(script: &str) {
    assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success(), "{script}");
}
