//! A running gateway in the terminal: tables, exit codes, manual pages, and `top` in a real terminal (tmux).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use eastgate_loadtest::ca::Ca;
use serde_json::Value;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn run(mut command: Command) -> Output {
    // The gateway runs on this test's own thread.
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn eastgate(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eastgate"));
    command.args(arguments);
    let output = run(command).await;
    let both = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(both).unwrap())
}

/// A terminal of its own server, which ends with it.
struct Terminal(PathBuf);

impl Terminal {
    async fn tmux(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.0).args(arguments);
        run(command).await
    }

    async fn until(&self, wanted: &[&str]) {
        let waiting = async {
            loop {
                let screen = self.tmux(&["capture-pane", "-p"]).await;
                let screen = String::from_utf8_lossy(&screen.stdout).into_owned();
                if wanted.iter().all(|part| screen.contains(part)) {
                    return;
                }
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            let screen = self.tmux(&["capture-pane", "-p"]).await;
            panic!("never showed {wanted:?}:\n{}", String::from_utf8_lossy(&screen.stdout));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(&self.0).arg("kill-server").output();
    }
}

#[tokio::test]
async fn top_shows_what_is_busy_and_obeys_its_keys() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("not run: there is no tmux; .ci/setup installs it");
        return;
    }
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    let mut open = TcpStream::connect(gateway.address).await.unwrap();
    open.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
    open.read_exact(&mut [0; 5]).await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let terminal = Terminal(directory.path().join("tmux"));
    let admin = gateway.app.admin_address();
    let top = format!("{} top --interval 0.2 --admin {admin}", env!("CARGO_BIN_EXE_eastgate"));
    let started = terminal.tmux(&["new-session", "-d", "-x", "140", "-y", "30", &top]).await;
    assert!(started.status.success(), "{started:?}");
    terminal.until(&["1 open", "[Clusters]", LOCAL, "1/1", "by connections"]).await;
    terminal.tmux(&["send-keys", "Tab"]).await;
    terminal.until(&["[Endpoints]", &pods[0].address().to_string()]).await;
    terminal.tmux(&["send-keys", "Tab", "s"]).await;
    terminal.until(&["[Server names]", GLOBAL, "by bytes"]).await;
    terminal.tmux(&["send-keys", "/", "nobody", "Enter"]).await;
    terminal.until(&["Server names, 0 of them"]).await;
    terminal.tmux(&["send-keys", "q"]).await;
    let left = async {
        while terminal.tmux(&["has-session"]).await.status.success() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, left).await.expect("q leaves");
}

#[tokio::test]
async fn tables_are_for_people_and_json_for_programs() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 2).await;
    let endpoints = addresses(&pods);
    let gateway = Gateway::start(&mesh(&endpoints)).await;
    mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.unwrap();
    let admin = gateway.app.admin_address().to_string();
    let at = ["--admin", &admin];

    let (code, text) = eastgate(&[&["status"], &at[..]].concat()).await;
    assert!(code == Some(0) && text.contains("LIVE") && text.contains("0.0.0.0_15443 at"), "{text}");
    assert!(!text.contains('\x1b'), "no colour where nobody sees it: {text}");
    let (_, text) = eastgate(&[&["clusters", "httpbin"], &at[..]].concat()).await;
    assert!(text.starts_with("CLUSTER") && text.contains(LOCAL), "{text}");
    let (_, text) = eastgate(&[&["clusters", "nobody"], &at[..]].concat()).await;
    assert_eq!(text.lines().count(), 1, "{text}");
    let (_, text) = eastgate(&[&["endpoints"], &at[..]].concat()).await;
    assert!(endpoints.iter().all(|endpoint| text.contains(&endpoint.to_string())), "{text}");
    let (_, text) = eastgate(&[&["endpoints", "-o", "json"], &at[..]].concat()).await;
    let clusters: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(clusters[0]["endpoints"].as_array().unwrap().len(), 2, "{text}");

    let (code, text) = eastgate(&["status", "--admin", "127.0.0.1:1"]).await;
    assert!(code == Some(1) && text.contains("no gateway answers at 127.0.0.1:1"), "{text}");
    let (code, text) = eastgate(&[&["top"], &at[..]].concat()).await;
    assert!(code == Some(1) && text.contains("wants a terminal"), "{text}");
    assert_eq!(eastgate(&["connections", "nonsense"]).await.0, Some(2));
    let (_, text) = eastgate(&[&["top", "-o", "json"], &at[..]].concat()).await;
    let top: Value = serde_json::from_str(&text).unwrap();
    assert!(top["connected"] == 1 && top["clusters"][0]["name"] == LOCAL, "{text}");
    let (_, text) = eastgate(&[&["drain", "--now", "-o", "json"], &at[..]].concat()).await;
    assert_eq!(text, "{\"answer\":\"OK\"}\n");
    gateway.admin_until("/listeners", str::is_empty).await;
}

#[tokio::test]
async fn there_is_a_manual_page_for_each_command() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text) = eastgate(&["man", &directory.path().display().to_string()]).await;
    assert_eq!(code, Some(0), "{text}");
    let page = |name: &str| std::fs::read_to_string(Path::new(directory.path()).join(name)).unwrap();
    assert!(page("eastgate.1").contains("eastgate\\-explain"));
    assert!(page("eastgate.1").contains("Exit codes"));
    assert!(page("eastgate-explain.1").contains("Exit code 0"));
    assert!(page("eastgate-connections-kill.1").contains("older"));
}
