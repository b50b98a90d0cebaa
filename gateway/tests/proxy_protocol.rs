//! PROXY protocol headers, in and out, with HAProxy at the other end, and from whom they are believed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/haproxy.rs"]
mod haproxy;
mod support;

use std::net::{IpAddr, SocketAddr};

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::Origin;
use haproxy::HaProxy;
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// A client's own address, which no other party here has.
const CLIENT: &str = "127.0.0.55";

async fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((CLIENT.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Sends a hello, with this before it, and gives the type of the record that comes back; none for a closed connection.
async fn greet(to: SocketAddr, before: &[u8]) -> Option<u8> {
    let mut stream = connect(to).await;
    stream.write_all(&[before, &client_hello(GLOBAL, &["istio"])].concat()).await.unwrap();
    stream.read_u8().await.ok()
}

const HANDSHAKE: Option<u8> = Some(22);
const V1: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 4000 15443\r\n";

async fn gateway_that_trusts(pods: &[Origin], ranges: &str) -> Gateway {
    let ranges = json!(ranges);
    Gateway::start_with(&mesh(&addresses(pods)), |layers| {
        layers.flag("listen.proxy_protocol_from", Some(ranges))
    })
    .await
}

#[tokio::test]
async fn haproxy_tells_who_its_client_is_in_either_version() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = gateway_that_trusts(&pods, "127.0.0.1/32").await;
    for (count, options) in [(1, "send-proxy"), (2, "send-proxy-v2 proxy-v2-options crc32c,unique-id")] {
        let rest = format!(
            "  mode tcp\n  unique-id-format id-%ci\n  default_backend b\nbackend b\n  mode tcp\n  server g {} {options}\n",
            gateway.address
        );
        let Some(haproxy) = HaProxy::start("", &rest, "").await else { return };
        // HAProxy was connected to without a word, to see that it is there, and it has told the gateway of that.
        assert_eq!(greet(haproxy.address, b"").await, HANDSHAKE, "{options}");
        let waiting = async {
            loop {
                let records = gateway.records(1).await;
                let of_client = records.into_iter().filter(|record| {
                    record["client_addr"].as_str().unwrap().starts_with(&format!("{CLIENT}:"))
                });
                let of_client: Vec<_> = of_client.collect();
                if of_client.len() == count {
                    return of_client;
                }
                tokio::task::yield_now().await;
            }
        };
        let records = tokio::time::timeout(PATIENCE, waiting).await.expect("the client's record");
        let said = records[count - 1]["proxied"].as_str();
        assert_eq!(said, (count == 2).then_some("unique_id=id-127.0.0.55"));
    }
}

#[tokio::test]
async fn a_header_is_believed_from_load_balancers_alone_and_needed_from_them() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let trusting = gateway_that_trusts(&pods, "127.0.0.55,192.0.2.0/24").await;
    assert_eq!(greet(trusting.address, V1).await, HANDSHAKE);
    assert_eq!(trusting.records(1).await[0]["client_addr"], "198.51.100.7:4000");
    // Without a header, the hello is refused as what it is not.
    assert_ne!(greet(trusting.address, b"").await, HANDSHAKE);
    // The other client may leave before or after.
    let records = trusting.records(2).await;
    let said = |record: &Value| {
        record["error"].as_str().is_some_and(|text| text.contains("no PROXY protocol header"))
    };
    assert!(records.iter().any(said), "{records:?}");

    let wary = gateway_that_trusts(&pods, "192.0.2.0/24").await;
    assert_eq!(greet(wary.address, b"").await, HANDSHAKE);
    assert_ne!(greet(wary.address, V1).await, HANDSHAKE);
    let records = wary.records(2).await;
    let refused = records.iter().find(|record| record["flag"] == "DPE");
    let refused = refused.unwrap_or_else(|| panic!("{records:?}"));
    assert!(refused["client_addr"].as_str().unwrap().starts_with(CLIENT), "{refused}");
}

#[tokio::test]
async fn haproxy_is_told_the_client_the_server_name_and_a_checksum_that_fits() {
    let ca = Ca::new().unwrap();
    let pod = ca.issue(&[SPIFFE]).unwrap();
    let said = "  mode http\n  http-request return status 200 content-type text/plain lf-string \"%[src] %[fc_pp_authority]\"\n";
    let pem = pod.chain_pem() + &pod.key_pem();
    let bind = "accept-proxy ssl crt PEM alpn istio,http/1.1";
    let Some(haproxy) = HaProxy::start(bind, said, &pem).await else { return };
    for (version, name) in [("V1", ""), ("V2", GLOBAL)] {
        let mut documents = mesh(&[haproxy.address]);
        documents[3] = ("policy.json", policy(json!({ "proxyProtocol": { "version": version } })));
        let gateway = Gateway::start(&documents).await;
        let stream = connect(gateway.address).await;
        let stream = mesh_client(&ca).handshake(stream, GLOBAL).await.unwrap();
        let request = http::Request::get("/").header("host", "x").body(Default::default()).unwrap();
        let response = eastgate_loadtest::client::exchange(stream, request).await.unwrap();
        let body = String::from_utf8(response.body.to_vec()).unwrap();
        assert_eq!((response.status, body.trim_end()), (200, format!("{CLIENT} {name}").trim_end()));
    }
}
