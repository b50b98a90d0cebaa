//! TLS that a DestinationRule has the gateway speak to endpoints for plain clients: with origins of rustls and of OpenSSL,
//! and with everything that can be wrong about it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/machine.rs"]
mod machine;
#[path = "support/openssl.rs"]
mod openssl;
#[path = "support/plain.rs"]
mod plain;
mod support;

use std::net::SocketAddr;
use std::path::PathBuf;

use eastgate_loadtest::ca::{Ca, Identity};
use eastgate_loadtest::origin::{self, Clients, Origin, RawOrigin};
use machine::{Directory, own_address};
use openssl::OpenSsl;
use plain::{HOST, documents, entry, rule, secret};
use serde_json::{Value, json};
use support::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CLIENT: &str = "client.example.com";

/// A directory for the files that the rule names, and its CA.
struct World {
    directory: TempDir,
    ca: Ca,
}

impl World {
    fn new() -> Self {
        let world = Self { directory: tempfile::tempdir().unwrap(), ca: Ca::new().unwrap() };
        world.put("ca.pem", world.ca.certificate_pem());
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let other = self.path(name).with_extension("new");
        std::fs::write(&other, text).unwrap();
        std::fs::rename(other, self.path(name)).unwrap();
    }

    fn put_identity(&self, identity: &Identity) {
        self.put("client-key.pem", &identity.key_pem());
        self.put("client.pem", &identity.chain_pem());
    }

    fn simple(&self) -> Value {
        json!({ "mode": "SIMPLE", "caCertificates": self.path("ca.pem") })
    }

    fn mutual(&self) -> Value {
        let paths = ["ca.pem", "client.pem", "client-key.pem"].map(|name| self.path(name));
        let [ca, chain, key] = paths;
        json!({ "mode": "MUTUAL", "caCertificates": ca, "clientCertificate": chain, "privateKey": key })
    }

    async fn origin(&self, names: &[&str], clients: Clients) -> Origin {
        origin(self.ca.issue(names).unwrap(), clients).await
    }
}

async fn origin(identity: Identity, clients: Clients) -> Origin {
    let mut options = origin::Options::new("secure", identity);
    options.clients = clients;
    Origin::start(options).await.unwrap()
}

async fn gateway(endpoint: SocketAddr, tls: &Value) -> Gateway {
    let ports = json!({ "9443": "127.0.0.1:0" });
    Gateway::start_with(&documents(endpoint, tls), |layers| layers.flag("listen.ports", Some(ports))).await
}

/// What the origin says of a plain client's request.
async fn asked(gateway: &Gateway) -> Value {
    let (status, body) = http_get(gateway.address, "/hostname").await;
    assert_eq!(status, 200);
    serde_json::from_str(&body).unwrap()
}

/// What the record says when a plain client is refused: flag and error, on one line. The client is told by a reset.
async fn refused(endpoint: SocketAddr, tls: &Value) -> (String, String) {
    let gateway = gateway(endpoint, tls).await;
    refused_by(&gateway, 1).await
}

async fn refused_by(gateway: &Gateway, count: usize) -> (String, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(gateway.address).await?;
        stream.write_all(b"GET /hostname HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    let error = exchange.await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let record = gateway.records(count).await.remove(count - 1);
    let error = record["error"].as_str().unwrap().to_owned();
    assert_eq!(error.lines().count(), 1, "{error}");
    (record["flag"].as_str().unwrap().to_owned(), error)
}

#[tokio::test]
async fn plain_clients_are_carried_over_simple_tls_that_is_verified() {
    let world = World::new();
    let origin = world.origin(&[HOST], Clients::Anyone).await;
    let gateway = gateway(origin.address(), &world.simple()).await;
    let said = asked(&gateway).await;
    assert_eq!(
        (&said["server_name"], &said["client"], &said["alpn"]),
        (&json!(HOST), &json!([]), &Value::Null)
    );
    let record = &gateway.records(1).await[0];
    assert_eq!(
        (&record["flag"], &record["engine"], &record["peer"]),
        (&json!("-"), &json!("tls"), &json!(HOST))
    );
    assert_eq!(record["cluster"], format!("outbound|9443||{HOST}|tls"));
}

#[tokio::test]
async fn the_name_that_is_asked_for_and_the_names_that_are_accepted_are_the_rules() {
    let world = World::new();
    let origin = world.origin(&["a.example.org", "spiffe://td/ns/x/sa/y"], Clients::Anyone).await;
    for names in [json!(["b.example.org", "a.example.org"]), json!(["spiffe://td/ns/x/sa/y"])] {
        let mut tls = world.simple();
        (tls["sni"], tls["subjectAltNames"]) = (json!("other.example.net"), names);
        let said = asked(&gateway(origin.address(), &tls).await).await;
        assert_eq!(said["server_name"], "other.example.net");
    }
    let mut tls = world.simple();
    tls["sni"] = json!("a.example.org");
    assert_eq!(asked(&gateway(origin.address(), &tls).await).await["server_name"], "a.example.org");
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_a_new_one_taken_up() {
    let world = World::new();
    let origin = world.origin(&[HOST], Clients::Verified(world.ca.roots())).await;
    world.put_identity(&world.ca.issue(&[CLIENT]).unwrap());
    let gateway = gateway(origin.address(), &world.mutual()).await;
    assert_eq!(asked(&gateway).await["client"], json!([CLIENT]));

    world.put_identity(&world.ca.issue(&["renewed.example.com"]).unwrap());
    let renewed = async {
        while asked(&gateway).await["client"] != json!(["renewed.example.com"]) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("the renewed certificate in time");
    // What is no good does not take the place of what was: the metric tells that it was looked at.
    world.put("client.pem", "nonsense");
    let failed = "eastgate_tls_certificate_loads_total{result=\"failed\"} 1";
    gateway.admin_until("/stats/prometheus", |text| text.contains(failed)).await;
    assert_eq!(asked(&gateway).await["client"], json!(["renewed.example.com"]));
}

#[tokio::test]
async fn a_secret_stands_for_the_files_and_a_new_one_cuts_no_connection() {
    let world = World::new();
    let origin = world.origin(&[HOST], Clients::Verified(world.ca.roots())).await;
    let identity = world.ca.issue(&[CLIENT]).unwrap();
    let pair =
        |identity: &Identity| json!({ "tls.crt": identity.chain_pem(), "tls.key": identity.key_pem() });
    let mutual = json!({ "mode": "MUTUAL", "credentialName": "c" });
    let ports = json!({ "9443": "127.0.0.1:0" });
    let gateway = Gateway::start_with(&documents(origin.address(), &mutual), |layers| {
        layers.flag("listen.ports", Some(ports))
    })
    .await;
    let (_, error) = refused_by(&gateway, 1).await;
    assert!(error.contains("there is no Secret c: create it in the gateway's namespace"), "{error}");

    gateway.edit("pair.json", &secret("c", &pair(&identity)).to_string());
    gateway
        .admin_until("/rejections", |text| text.contains("neither the Secret c-cacert nor c holds roots"))
        .await;
    gateway.edit(
        "roots.json",
        &secret("c-cacert", &json!({ "cacert": world.ca.certificate_pem() })).to_string(),
    );
    let of = async |name: &str| {
        let taken = async {
            loop {
                let answer = try_get(gateway.address).await;
                if answer.is_some_and(|answer| answer.contains(name)) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, taken).await.unwrap_or_else(|_| panic!("{name} is never shown"));
    };
    of(CLIENT).await;

    // A connection that is open when the Secret changes goes on with the certificate that it began with.
    let mut open = TcpStream::connect(gateway.address).await.unwrap();
    let mut ask = async || {
        open.write_all(b"GET /hostname HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.contains(&b'}') {
            let read = tokio::time::timeout(PATIENCE, open.read_buf(&mut answer)).await;
            assert_ne!(read.expect("an answer in time").unwrap(), 0, "it was cut");
        }
        String::from_utf8(answer).unwrap()
    };
    assert!(ask().await.contains(CLIENT));
    let renewed = world.ca.issue(&["renewed.example.com"]).unwrap();
    gateway.edit(
        "pair.json",
        &secret("c", &json!({ "cert": renewed.chain_pem(), "key": renewed.key_pem() })).to_string(),
    );
    of("renewed.example.com").await;
    assert!(ask().await.contains(CLIENT));

    // What is no good does not take the place of what was.
    gateway.edit(
        "pair.json",
        &secret("c", &json!({ "cert": identity.chain_pem(), "key": renewed.key_pem() })).to_string(),
    );
    gateway.admin_until("/stats/prometheus", |text| loads(text, "failed") >= 3).await;
    of("renewed.example.com").await;

    for page in ["/config_dump", "/clusters", "/listeners", "/rejections", "/audit"] {
        let (_, text) = gateway.admin(page).await;
        for part in [identity.key_pem(), renewed.key_pem(), renewed.chain_pem()] {
            let inside = part.lines().nth(1).unwrap();
            assert!(
                !text.contains(inside) && !text.contains("PRIVATE KEY"),
                "{page} shows what is in the Secret"
            );
        }
    }
}

/// How often what a rule names was read with this result.
fn loads(metrics: &str, result: &str) -> u64 {
    let name = format!("eastgate_tls_certificate_loads_total{{result=\"{result}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn what_cannot_be_believed_is_told_with_its_remedy() {
    let world = World::new();
    let other = World::new();
    let told = |(flag, error): (String, String), wanted: &str| {
        assert!(flag == "UF" && error.contains(wanted), "{flag} {error}");
    };
    let strange = other.origin(&[HOST], Clients::Anyone).await;
    told(
        refused(strange.address(), &world.simple()).await,
        "have caCertificates of the DestinationRule name a file",
    );
    let expired = origin(world.ca.issue_expired(&[HOST]).unwrap(), Clients::Anyone).await;
    told(refused(expired.address(), &world.simple()).await, "its certificate has expired");
    let somebody = world.origin(&["other.example.com"], Clients::Anyone).await;
    let of_somebody = refused(somebody.address(), &world.simple()).await;
    assert!(
        of_somebody.1.contains("is for other.example.com, and not for secure.example.com"),
        "{of_somebody:?}"
    );
    told(of_somebody, "add one of its names to subjectAltNames of the DestinationRule");
    // Without caCertificates the machine's own roots count, and the test's CA is none of them.
    told(refused(somebody.address(), &json!({ "mode": "SIMPLE" })).await, "this machine");
    let plain =
        RawOrigin::SpeakFirst(b"220 mail\r\n".to_vec()).start(([127, 0, 0, 1], 0).into()).await.unwrap();
    told(refused(plain.address(), &world.simple()).await, "it does not speak TLS: is the port right?");
}

#[tokio::test]
async fn insecure_is_what_it_says() {
    let world = World::new();
    let strange = origin(World::new().ca.issue_expired(&["x.y"]).unwrap(), Clients::Anyone).await;
    let tls = json!({ "mode": "SIMPLE", "insecureSkipVerify": true });
    assert_eq!(asked(&gateway(strange.address(), &tls).await).await["server_name"], HOST);
    drop(world);
}

#[tokio::test]
async fn an_origin_that_wants_or_refuses_a_certificate_says_so() {
    let world = World::new();
    let origin = world.origin(&[HOST], Clients::Verified(world.ca.roots())).await;
    let (flag, error) = refused(origin.address(), &world.simple()).await;
    assert!(flag == "UC" && error.contains("set tls.mode MUTUAL"), "{flag} {error}");
    world.put_identity(&Ca::new().unwrap().issue(&[CLIENT]).unwrap());
    let (flag, error) = refused(origin.address(), &world.mutual()).await;
    assert!(flag == "UC" && error.contains("look at clientCertificate"), "{flag} {error}");
}

#[tokio::test]
async fn a_file_that_is_missing_or_wrong_is_named_and_taken_up_once_it_is_right() {
    let world = World::new();
    let origin = world.origin(&[HOST], Clients::Verified(world.ca.roots())).await;
    let gateway = gateway(origin.address(), &world.mutual()).await;
    let (flag, error) = refused_by(&gateway, 1).await;
    let path = world.path("client.pem").display().to_string();
    let wanted = format!("clientCertificate {path} of the DestinationRule cannot be read: No such file");
    assert!(flag == "UF" && error.contains(&wanted), "{flag} {error}");

    let good = world.ca.issue(&[CLIENT]).unwrap();
    world.put_identity(&good);
    let served = async {
        while try_get(gateway.address).await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, served).await.expect("the file is taken up in time");

    let told = async |chain: &str, key: &str, wanted: &str| {
        world.put("client.pem", chain);
        world.put("client-key.pem", key);
        let (_, error) = refused(origin.address(), &world.mutual()).await;
        assert!(error.contains(wanted) && error.contains("/client"), "{error}");
    };
    let another = world.ca.issue(&[CLIENT]).unwrap();
    told(&good.chain_pem(), &another.key_pem(), "the key does not belong to the chain").await;
    told("", &good.key_pem(), "holds no PEM certificate").await;
    told(&good.chain_pem(), "", "no PEM private key").await;
    let old = world.ca.issue_expired(&[CLIENT]).unwrap();
    told(&old.chain_pem(), &old.key_pem(), "has expired").await;
}

async fn try_get(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET /hostname HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

#[tokio::test]
async fn a_gateway_with_a_certificate_of_the_mesh_carries_plain_clients_into_it() {
    let ca = Ca::new().unwrap();
    let pod = origin(ca.issue(&[SPIFFE]).unwrap(), Clients::Verified(ca.roots())).await;
    let certificates = Directory::in_mesh(&ca, "");
    let directory = certificates.0.path().display().to_string();
    let ports = json!({ "9443": "127.0.0.1:0" });
    let documents = documents(pod.address(), &json!({ "mode": "ISTIO_MUTUAL" }));
    let gateway = Gateway::start_with(&documents, |layers| {
        layers.flag("listen.ports", Some(ports)).flag("tls.certs_dir", Some(directory))
    })
    .await;
    let said = asked(&gateway).await;
    assert_eq!(said["client"], json!([machine::VM]));
    assert_eq!(
        (&said["server_name"], &said["alpn"]),
        (&json!(format!("outbound_.9443_._.{HOST}")), &json!("istio"))
    );
    assert_eq!(gateway.records(1).await[0]["peer"], SPIFFE);
}

#[tokio::test]
async fn a_vm_speaks_simple_tls_to_a_service_outside_of_the_mesh() {
    let world = World::new();
    let origin = world.origin(&[HOST], Clients::Anyone).await;
    let vip = own_address();
    let directory = Directory::in_mesh(&Ca::new().unwrap(), "");
    let mut spec = entry(origin.address());
    spec["addresses"] = json!([vip]);
    let entry = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": { "name": "secure", "namespace": "istio-system" }, "spec": spec,
    });
    directory.write("entry.yaml", &entry.to_string());
    directory.write("rule.yaml", &rule(&world.simple()).to_string());
    let _machine = directory.run(|layers, _| layers).await;
    let (status, body) = http_get((vip, 9443).into(), "/hostname").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["server_name"]), (200, &json!(HOST)));
}

#[tokio::test]
async fn openssl_is_an_origin_for_either_mode_and_version() {
    let world = World::new();
    let server = world.ca.issue(&[HOST]).unwrap();
    world.put("server.pem", &server.chain_pem());
    world.put("server-key.pem", &server.key_pem());
    world.put_identity(&world.ca.issue(&[CLIENT]).unwrap());
    let strict = ["-Verify", "1", "-verify_return_error", "-CAfile", "ca.pem"];
    for (version, shown) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let Some(open) = OpenSsl::start(world.directory.path(), &[version]) else { return };
        let (status, body) = http_get(gateway(open.address, &world.simple()).await.address, "/").await;
        assert!(status == 200 && body.contains(&format!("New, {shown}")), "{body}");

        let strict = OpenSsl::start(world.directory.path(), &[&strict[..], &[version]].concat()).unwrap();
        let (status, body) = http_get(gateway(strict.address, &world.mutual()).await.address, "/").await;
        assert!(status == 200 && body.contains(CLIENT) && body.contains("Client certificate"), "{body}");
        let (flag, error) = refused(strict.address, &world.simple()).await;
        assert!(["UF", "UC"].contains(&&*flag) && error.contains("tls.mode MUTUAL"), "{flag} {error}");
    }
}
