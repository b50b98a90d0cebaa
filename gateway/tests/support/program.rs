//! Programs beside the tests: control planes in Go, built when they are wanted, and `eastgate run` itself.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::PATIENCE;

/// The program in `gateway/tests/NAME`, built into `target/e2e`, or what `E2E_NAME` says that it is. Where it
/// cannot be built, one line says why and the test passes without, unless `E2E=required`.
pub async fn built(name: &'static str) -> Option<PathBuf> {
    let variable = format!("E2E_{}", name.replace('-', "_").to_uppercase());
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    // Tests of one process wait for one build; `go` itself sees what has not changed.
    static BUILT: tokio::sync::Mutex<Option<Result<PathBuf, String>>> = tokio::sync::Mutex::const_new(None);
    let mut built = BUILT.lock().await;
    if built.is_none() {
        *built = Some(tokio::task::spawn_blocking(move || build(name)).await.unwrap());
    }
    match built.as_ref().unwrap() {
        Ok(path) => Some(path.clone()),
        Err(why) if std::env::var("E2E").as_deref() == Ok("required") => panic!("{why}"),
        Err(why) => {
            eprintln!("not run: {why}");
            None
        }
    }
}

fn build(name: &str) -> Result<PathBuf, String> {
    let gateway = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_BIN_EXE_eastgate")).parent().and_then(Path::parent).unwrap();
    let path = target.join("e2e").join(name);
    let mut command = Command::new("go");
    command.args(["build", "-o"]).arg(&path).arg(".").current_dir(gateway.join("tests").join(name));
    match command.output() {
        Err(error) => Err(format!("the control plane {name} wants Go: {error}")),
        Ok(output) if !output.status.success() => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(format!("go build of {name}: {}", text.lines().last().unwrap_or_default()))
        }
        Ok(_) => Ok(path),
    }
}

/// A process that is ended, and waited for, when this is dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A control plane as its own process, driven over HTTP.
pub struct Driven {
    process: Ended,
    /// The line that it printed when it served: its addresses.
    pub at: Value,
}

impl Driven {
    pub async fn start(program: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).args(["--lifetime", "5m"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Ended(command.spawn().unwrap());
        let mut stdout = BufReader::new(process.0.stdout.take().unwrap());
        let (line, process) = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            (line, process)
        })
        .await
        .unwrap();
        let at = serde_json::from_str(&line).expect("the addresses of the control plane");
        Self { process, at }
    }

    pub fn text(&self, key: &str) -> &str {
        self.at[key].as_str().unwrap()
    }

    pub fn address(&self, key: &str) -> SocketAddr {
        self.text(key).parse().unwrap()
    }

    /// Asks the HTTP port, with a body if there is one.
    pub async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> String {
        let body = body.map(Value::to_string).unwrap_or_default();
        let (code, answer) = http(self.address("admin"), method, path, &body).await;
        assert_eq!(code, 200, "{method} {path}: {answer}");
        answer
    }

    pub async fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.send("GET", path, None).await).unwrap()
    }

    pub async fn post(&self, path: &str, body: Option<&Value>) -> Value {
        serde_json::from_str(&self.send("POST", path, body).await).unwrap()
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }
}

/// One request over a connection of its own: status and body.
pub async fn http(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    // HTTP/1.0, so that the body ends with the connection.
    let request =
        format!("{method} {path} HTTP/1.0\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // A process that ends, or is taken over from, lets go of what it was asked.
    let read = stream.read_to_string(&mut answer).await;
    match answer.split_once("\r\n\r\n").filter(|_| read.is_ok()) {
        Some((head, body)) => (head[9..12].parse().unwrap(), body.to_owned()),
        None => (0, String::new()),
    }
}

/// `eastgate run` as its own process.
pub struct Eastgate {
    process: Ended,
    log: Arc<Mutex<Vec<String>>>,
    reader: std::thread::JoinHandle<()>,
    admin: SocketAddr,
}

impl Eastgate {
    /// Starts it with these arguments and settings, and waits for its admin port.
    pub async fn start(arguments: &[&str], settings: &[(&str, String)]) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_eastgate")), arguments, settings).await
    }

    /// The same by a command that becomes the program, such as one that makes another file system for it first.
    pub async fn start_by(mut command: Command, arguments: &[&str], settings: &[(&str, String)]) -> Self {
        command.args(["run", "--admin", "127.0.0.1:0", "--readiness", ""]);
        if !arguments.contains(&"--access-log") {
            command.args(["--access-log", ""]);
        }
        if !arguments.contains(&"--threads") {
            command.args(["--threads", "1"]);
        }
        command.args(arguments).env("NO_COLOR", "1");
        command.env("EASTGATE_XDS_COALESCE", "10ms").env("INSTANCE_IP", "127.0.0.9");
        command.env("EASTGATE_LOG_LEVEL", "info,eastgate=debug");
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        let mut process = Ended(command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, into) = (BufReader::new(process.0.stderr.take().unwrap()).lines(), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| into.lock().unwrap().push(line))
        });
        let admin = logged(&log, "started", |line| line.contains(" started admin=")).await;
        Self { process, log, reader, admin: address_in(&admin) }
    }

    /// Waits until it is ready, and gives where this listener is bound.
    pub async fn listening(&self, listener: &str) -> SocketAddr {
        self.until("/ready", |text| text.starts_with("LIVE")).await;
        let line = format!("{listener}::");
        let bound = |text: &str| Some(text.lines().find_map(|found| found.strip_prefix(&line))?.to_owned());
        let text = self.until("/listeners", |text| bound(text).is_some()).await;
        bound(&text).unwrap().parse().unwrap()
    }

    /// Waits until a line of its log is as wanted.
    pub async fn logged(&self, what: &str) -> String {
        logged(&self.log, what, |line| line.contains(what)).await
    }

    pub async fn admin(&self, path: &str) -> String {
        http(self.admin, "GET", path, "").await.1
    }

    /// Has the admin port change something: status and body.
    pub async fn post(&self, path: &str) -> (u16, String) {
        http(self.admin, "POST", path, "").await
    }

    /// Waits until the admin port's answer is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(&str) -> bool) -> String {
        let last = Mutex::new(String::new());
        let waiting = async {
            loop {
                let text = self.admin(path).await;
                if wanted(&text) {
                    return text;
                }
                *last.lock().unwrap() = text;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| {
            let (last, log) = (last.lock().unwrap(), self.log.lock().unwrap().join("\n"));
            panic!("{path} never became as wanted; it is\n{last}\nand the log\n{log}")
        })
    }

    pub async fn metric(&self, name: &str) -> f64 {
        value(&self.admin("/stats/prometheus").await, name)
    }

    pub async fn metric_until(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        self.until("/stats/prometheus", |text| wanted(value(text, name))).await;
    }

    /// Where operators are answered.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Its process number.
    pub fn pid(&self) -> String {
        self.process.0.id().to_string()
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.pid();
        let status = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(status.success(), "kill -s {name} {pid}");
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let waiting = async {
            loop {
                if let Some(status) = self.process.0.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let status = tokio::time::timeout(PATIENCE, waiting).await;
        status.unwrap_or_else(|_| panic!("it does not end:\n{}", self.log()))
    }

    /// Waits for its end, and gives its log.
    pub async fn exit(mut self) -> (std::process::ExitStatus, String) {
        let status = self.ended().await;
        self.reader.join().unwrap();
        let log = self.log.lock().unwrap().join("\n");
        (status, log)
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }
}

/// The value of a metric with its labels; 0 where it is not there.
fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("eastgate_{name} ")));
    line.map_or(0.0, |value| value.parse().unwrap())
}

fn address_in(line: &str) -> SocketAddr {
    line.rsplit_once('=').unwrap().1.trim().parse().unwrap()
}

async fn logged(log: &Mutex<Vec<String>>, what: &str, wanted: impl Fn(&str) -> bool) -> String {
    let waiting = async {
        loop {
            let found = log.lock().unwrap().iter().rev().find(|line| wanted(line)).cloned();
            if let Some(line) = found {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("{what} never stood in the log:\n{}", log.lock().unwrap().join("\n")))
}
