//! `eastgate register` and `deregister`, as commands: in a mesh directory that a gateway serves, and at a real API server
//! (`apiserver/`; that one is ignored by default, since its build takes minutes: `.ci/e2e kubernetes`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/kubernetes.rs"]
mod kubernetes;
#[path = "support/program.rs"]
mod program;
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::Origin;
use kubernetes::{ApiServer, path_of};
use program::Eastgate;
use serde_json::{Value, json};
use support::*;

async fn eastgate(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_eastgate"));
    command.args(arguments).output().await.unwrap()
}

async fn done(arguments: &[&str]) -> String {
    let output = eastgate(arguments).await;
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{arguments:?}: {err}");
    out
}

async fn refused(arguments: &[&str]) -> String {
    let output = eastgate(arguments).await;
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn content(directory: &Path) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    files.map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap())).collect()
}

fn name(pod: &Origin) -> String {
    format!("outbound_.{}_._.vm.bar.global", pod.address().port())
}

#[tokio::test]
async fn a_workload_is_registered_in_a_directory_reached_and_taken_away_without_a_trace() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = Gateway::start(&[("gateway.json", gateway(&["*.global"]))]).await;
    let mesh = gateway.mesh().display().to_string();
    let before = content(&gateway.mesh());
    let port = format!("http:{}", pods[0].address().port());
    let place = ["-n", "bar", "--mesh-dir", &mesh];
    for more in [&[][..], &["--service-entry"][..]] {
        let arguments = [&["register", "vm", "127.0.0.1", &port, "-s", "vm"], &place[..], more].concat();
        let dry = done(&[&arguments[..], &["--dry-run"]].concat()).await;
        assert!(dry.contains("would be created") && content(&gateway.mesh()) == before, "{dry}");
        let dry = done(&[&arguments[..], &["--dry-run", "-o", "json"]].concat()).await;
        let dry: Value = serde_json::from_str(&dry).unwrap();
        let planned = &dry["resources"][0];
        assert_eq!((&dry["dry_run"], &planned["outcome"]), (&true.into(), &"created".into()), "{dry}");
        assert_eq!(planned["resource"]["metadata"]["name"], planned["name"], "{dry}");
        let first = done(&arguments).await;
        assert_eq!(first.matches(" created\n").count(), 2, "{first}");
        let wanted = pods[0].address().to_string();
        gateway.admin_until("/clusters", |text| text.contains(&wanted)).await;
        let response = mesh_client(&ca).get(gateway.address, &name(&pods[0]), "/hostname").await.unwrap();
        assert_eq!(response.pod(), Some("httpbin-0"));

        let registered = content(&gateway.mesh());
        let second = done(&arguments).await;
        assert_eq!(second.matches(" unchanged\n").count(), 2, "{second}");
        let again = done(&[&arguments[..], &["-o", "json"]].concat()).await;
        let again: Value = serde_json::from_str(&again).unwrap();
        let outcomes = again["resources"].as_array().unwrap().iter().map(|one| &one["outcome"]);
        assert_eq!(outcomes.collect::<Vec<_>>(), ["unchanged", "unchanged"], "{again}");
        assert_eq!(content(&gateway.mesh()), registered);
        let third = done(&[&["deregister", "vm", "127.0.0.1"], &place[..]].concat()).await;
        assert_eq!(third.matches(" deleted\n").count(), 2, "{third}");
        assert_eq!(content(&gateway.mesh()), before, "nothing is left");
        gateway.admin_until("/clusters", |text| !text.contains(&wanted)).await;
        let again = refused(&[&["deregister", "vm"], &place[..]].concat()).await;
        assert!(again.contains("nothing is changed"), "{again}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = directory.path().display().to_string();
    let mut theirs = named_service("vm");
    theirs["spec"]["selector"] = json!({ "app": "vm" });
    std::fs::write(directory.path().join("theirs.json"), theirs.to_string()).unwrap();
    for (arguments, told) in [
        (&["register", "-n", "bar", "vm", "10.0.0.9", "8000", "--mesh-dir", &mesh][..], "has a selector"),
        (&["register", "vm", "10.0.0.9", "x:y", "--mesh-dir", &mesh], "is no port"),
        (&["register", "vm", "10.0.0.9", "1", "1", "--mesh-dir", &mesh], "given twice"),
        (&["register", "vm", "nowhere", "8000", "--mesh-dir", &mesh], "invalid IP address"),
        (&["register", "vm", "10.0.0.9", "8000", "--mesh-dir", "/nowhere"], "is no directory"),
        (
            &["register", "vm", "10.0.0.9", "8000", "--kubernetes=/nowhere"],
            "kubeconfig /nowhere cannot be used",
        ),
        (&["register", "vm", "10.0.0.9", "8000"], "--mesh-dir"),
    ] {
        let text = refused(arguments).await;
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
    assert_eq!(content(directory.path()).len(), 1);
    std::fs::write(directory.path().join("broken.yaml"), "a: [").unwrap();
    let text = refused(&["register", "vm", "10.0.0.9", "8000", "--mesh-dir", &mesh]).await;
    assert!(text.contains("broken.yaml cannot be read"), "{text}");
}

#[tokio::test]
#[ignore = "builds an API server"]
async fn a_workload_is_registered_at_an_api_server_reached_and_taken_away_without_a_trace() {
    let Some(server) = ApiServer::start().await else { return };
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    server.create(&gateway(&["*.global"])).await;
    server.create(&named_service("theirs")).await;
    let kubeconfig = format!("--kubernetes={}", server.kubeconfig_path().display());
    let listen = ["--listen", "15443=127.0.0.1:0"];
    let gateway = Eastgate::start(&[&[&*kubeconfig], &listen[..]].concat(), &[]).await;
    let address = gateway.listening("0.0.0.0_15443").await;
    let port = format!("http:{}", pods[0].address().port());
    let place = ["-n", "bar", &kubeconfig];
    for (more, kinds) in [
        (&[][..], ["services", "endpointslices"]),
        (&["--service-entry"], ["serviceentries", "workloadentries"]),
    ] {
        let arguments = [&["register", "vm", "127.0.0.1", &port, "-s", "vm"], &place[..], more].concat();
        let first = done(&arguments).await;
        assert_eq!(first.matches(" created\n").count(), 2, "{first}");
        let wanted = pods[0].address().to_string();
        gateway.until("/clusters", |text| text.contains(&wanted)).await;
        let response = mesh_client(&ca).get(address, &name(&pods[0]), "/hostname").await.unwrap();
        assert_eq!(response.pod(), Some("httpbin-0"));

        let listed = objects(&server, kinds).await;
        assert_eq!(listed.len(), 2);
        let second = done(&arguments).await;
        assert_eq!(second.matches(" unchanged\n").count(), 2, "{second}");
        assert_eq!(objects(&server, kinds).await, listed, "not even a new resource version");
        let more_ports = [&arguments[..], &["grpc:9000"]].concat();
        assert_eq!(done(&more_ports).await.matches(" updated\n").count(), 2);
        let gone = done(&[&["deregister", "vm"], &place[..]].concat()).await;
        assert_eq!(gone.matches(" deleted\n").count(), 2, "{gone}");
        assert!(objects(&server, kinds).await.is_empty());
    }
    assert!(server.get(&path_of(&named_service("theirs"))).await.is_some());
    std::fs::write(server.kubeconfig_path(), server.kubeconfig_with("wrong")).unwrap();
    let text = refused(&[&["deregister", "vm"], &place[..]].concat()).await;
    assert!(text.contains("give another kubeconfig"), "{text}");
}

/// Those called `vm...` in the namespace.
async fn objects(server: &ApiServer, kinds: [&str; 2]) -> Vec<Value> {
    let mut found = Vec::new();
    for kind in kinds {
        let root = match kind {
            "services" => "/api/v1",
            "endpointslices" => "/apis/discovery.k8s.io/v1",
            _ => "/apis/networking.istio.io/v1",
        };
        let list = server.get(&format!("{root}/namespaces/bar/{kind}")).await.unwrap();
        let ours = list["items"].as_array().unwrap().iter();
        found.extend(
            ours.filter(|item| item["metadata"]["name"].as_str().unwrap().starts_with("vm")).cloned(),
        );
    }
    found
}
