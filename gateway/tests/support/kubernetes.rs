//! A real API server (`apiserver/`: k8s.io/apiextensions-apiserver on etcd) as its own process, and requests to it.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use kube::core::Status;
use kube::{Client, Config, config};
use serde_json::{Value, json};

use crate::program::{Driven, built};

/// What the gateway shows to the API server.
pub const TOKEN: &str = "of-a-test";
/// What a cluster's operator applies.
pub const MANIFEST: &str = include_str!("../../../deploy/kubernetes/rbac.yaml");

pub struct ApiServer {
    program: PathBuf,
    directory: tempfile::TempDir,
    process: Option<Driven>,
    listen: String,
    certificate: String,
    client: Client,
}

impl ApiServer {
    /// None, after a line that says why, where there is no Go or no etcd.
    pub async fn start() -> Option<Self> {
        let program = built("apiserver").await?;
        if let Err(error) = Command::new("etcd").arg("--version").output() {
            assert!(std::env::var("E2E").as_deref() != Ok("required"), "etcd: {error}");
            eprintln!("not run: the API server wants etcd (Debian's etcd-server): {error}");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = made.cert.pem();
        std::fs::write(directory.path().join("certificate.pem"), &certificate).unwrap();
        std::fs::write(directory.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(directory.path().join("tokens"), "").unwrap();
        std::fs::write(directory.path().join("rbac.yaml"), MANIFEST).unwrap();
        let process = run(&program, directory.path(), "127.0.0.1:0").await;
        let listen = process.text("api").to_owned();
        let kubeconfig = kubeconfig(&listen, &certificate, TOKEN);
        std::fs::write(directory.path().join("kubeconfig"), &kubeconfig).unwrap();
        let client = client(&kubeconfig).await;
        Some(Self { program, directory, process: Some(process), listen, certificate, client })
    }

    /// Has these tokens be those of the gateway's service account, and no others.
    pub fn accounts(&self, tokens: &[&str]) {
        let account = "system:serviceaccount:istio-system:eastgate";
        let lines: String = tokens.iter().map(|token| format!("{token},{account},1\n")).collect();
        self.put("tokens", &lines);
    }

    /// Has this manifest be what service accounts may do.
    pub fn allow(&self, manifest: &str) {
        self.put("rbac.yaml", manifest);
    }

    /// At once: the server may read it at any time.
    fn put(&self, name: &str, text: &str) {
        let new = self.directory.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.directory.path().join(name)).unwrap();
    }

    /// What a request by this token is answered with: an HTTP status.
    pub async fn status_for(&self, token: &str, method: &str, path: &str) -> u16 {
        let request = http::Request::builder().method(method).uri(path).body(Vec::new()).unwrap();
        match client(&self.kubeconfig_with(token)).await.request::<Value>(request).await {
            Ok(_) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(error) => panic!("{method} {path}: {error:?}"),
        }
    }

    pub fn address(&self) -> &str {
        &self.listen
    }

    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Ends the API server and its etcd as a crash does.
    pub fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// Starts it again at the same address, with what it had stored.
    pub async fn start_again(&mut self) {
        self.start_at(&self.listen.clone()).await;
    }

    /// Starts it again where nobody but the test knows it.
    pub async fn start_elsewhere(&mut self) {
        self.start_at("127.0.0.1:0").await;
    }

    async fn start_at(&mut self, listen: &str) {
        let process = run(&self.program, self.directory.path(), listen).await;
        self.client = client(&kubeconfig(process.text("api"), &self.certificate, TOKEN)).await;
        self.process = Some(process);
    }

    pub fn kubeconfig_path(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    pub fn kubeconfig(&self) -> String {
        kubeconfig(&self.listen, &self.certificate, TOKEN)
    }

    pub fn kubeconfig_with(&self, token: &str) -> String {
        kubeconfig(&self.listen, &self.certificate, token)
    }

    async fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value, Status> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        match self.client.request::<Value>(request.body(body).unwrap()).await {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) => Err(*status),
            Err(error) => panic!("{method} {path}: {error:?}"),
        }
    }

    pub async fn get(&self, path: &str) -> Option<Value> {
        self.request("GET", path, &Value::Null).await.ok()
    }

    /// Creates it, and every item of a list.
    pub async fn create(&self, resource: &Value) {
        for resource in items(resource) {
            let path = collection(resource);
            self.request("POST", &path, resource).await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        }
    }

    /// Changes it, as `kubectl patch --type merge` does, and gives it as it is then.
    pub async fn patch(&self, resource: &Value, change: Value) -> Value {
        self.request("PATCH", &path_of(resource), &change).await.unwrap()
    }

    pub async fn delete(&self, resource: &Value) {
        for resource in items(resource) {
            self.request("DELETE", &path_of(resource), &Value::Null).await.unwrap();
        }
    }

    /// Has etcd forget its history up to now: the next watch that goes on from before gets 410 Gone.
    pub async fn compact(&self) {
        let etcd = self.process.as_ref().unwrap().text("etcd").trim_start_matches("http://").parse().unwrap();
        let range = json!({ "key": "Lw==" }).to_string();
        let (_, answer) = crate::program::http(etcd, "POST", "/v3/kv/range", &range).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let body = json!({ "revision": answer["header"]["revision"], "physical": true }).to_string();
        let (code, answer) = crate::program::http(etcd, "POST", "/v3/kv/compaction", &body).await;
        assert_eq!(code, 200, "{answer}");
    }
}

async fn run(program: &Path, directory: &Path, listen: &str) -> Driven {
    let path = |name: &str| directory.join(name).display().to_string();
    let (data, certificate, key) = (path("etcd"), path("certificate.pem"), path("key.pem"));
    let (tokens, rbac) = (path("tokens"), path("rbac.yaml"));
    let flags = [
        ["--data", &data],
        ["--certificate", &certificate],
        ["--key", &key],
        ["--token", TOKEN],
        ["--tokens", &tokens],
        ["--rbac", &rbac],
        ["--listen", listen],
    ];
    let flags = flags.concat();
    Driven::start(program, &flags).await
}

async fn client(kubeconfig: &str) -> Client {
    let read = config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = config::KubeConfigOptions::default();
    Client::try_from(Config::from_custom_kubeconfig(read, &options).await.unwrap()).unwrap()
}

fn kubeconfig(listen: &str, certificate: &str, token: &str) -> String {
    use base64::Engine;
    let ca = base64::engine::general_purpose::STANDARD.encode(certificate);
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
        "clusters": [{ "name": "k", "cluster": { "server": format!("https://{listen}"), "certificate-authority-data": ca } }],
        "users": [{ "name": "u", "user": { "token": token } }],
    })
    .to_string()
}

fn items(resource: &Value) -> Vec<&Value> {
    resource["items"].as_array().map_or_else(|| vec![resource], |items| items.iter().collect())
}

/// Where resources of its kind and namespace are.
pub fn collection(resource: &Value) -> String {
    let version = resource["apiVersion"].as_str().unwrap();
    let kind = resource["kind"].as_str().unwrap().to_lowercase();
    let plural = match kind.strip_suffix('y') {
        Some(stem) if kind.ends_with("entry") || kind.ends_with("policy") => format!("{stem}ies"),
        _ => format!("{kind}s"),
    };
    let root = if version.contains('/') { "apis" } else { "api" };
    match resource["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("/{root}/{version}/{plural}"),
    }
}

pub fn path_of(resource: &Value) -> String {
    format!("{}/{}", collection(resource), resource["metadata"]["name"].as_str().unwrap())
}
