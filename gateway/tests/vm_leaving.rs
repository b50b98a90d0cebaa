//! A VM's open connections, of which the gateway itself is an end of the TLS: they are listed, they can be asked to end, and
//! they stay in their process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/machine.rs"]
mod machine;
mod support;

use eastgate::open::{self, Ask, End};
use eastgate::tls::{Credentials, Mesh};
use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::client::{self, Client, Expect};
use machine::*;
use serde_json::json;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Asks every connection to pass, and then to end; how many there are, and how many would pass.
async fn ask_all(machine: &Machine) -> (usize, usize) {
    let ask = || {
        let (mut all, mut passing) = (0, 0);
        open::each(|connection| {
            let (hand, _) = tokio::sync::mpsc::unbounded_channel();
            all += 1;
            passing += usize::from(connection.ask(Ask::Pass(hand)));
            connection.ask(Ask::End(End::Operator));
        });
        (all, passing)
    };
    let counts = machine.app.open().ask(ask).await;
    counts.into_iter().flatten().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

async fn says_why(machine: &Machine, bytes: (u64, u64)) {
    let record = &machine.records(1).await[0];
    assert_eq!((&record["flag"], &record["engine"]), (&json!("LR"), &json!("tls")), "{record}");
    assert_eq!(record["error"], "an operator closed the connection");
    assert!(record["peer"].is_string(), "{record}");
    assert_eq!(
        (&record["to_upstream_bytes"], &record["to_client_bytes"]),
        (&json!(bytes.0), &json!(bytes.1))
    );
}

#[tokio::test]
async fn a_connection_out_of_a_vm_that_is_asked_to_end_ends_in_order_on_both_sides() {
    let ca = Ca::new().unwrap();
    let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.local_addr().unwrap()])).await;
    let vip = own_address();
    let directory = Directory::in_mesh(&ca, "ISTIO_SERVICE_CIDR=127.0.0.0/8\nCLUSTER_GW_ADDR=127.0.0.1\n");
    directory.write("httpbin.yaml", &httpbin(vip, gateway.address.port()));
    let machine = directory.run(|layers, _| layers).await;
    let (identity, there) = (ca.issue(&[SPIFFE]).unwrap(), Mesh::default());
    let (chain, key, now) = (identity.chain_pem(), identity.key_pem(), std::time::SystemTime::now());
    let roots = ca.certificate_pem().as_bytes();
    there.renew(Credentials::new(chain.as_bytes(), key.as_bytes(), roots, now).unwrap().into());

    let mut client = TcpStream::connect((vip, 8000)).await.unwrap();
    let (socket, _) = pod.accept().await.unwrap();
    let mut session = there.accept(&socket).await.unwrap();
    client.write_all(b"question").await.unwrap();
    session.read_exact(&mut [0; 8]).await.unwrap();
    session.write_all(b"answer").await.unwrap();
    session.flush().await.unwrap();
    client.read_exact(&mut [0; 6]).await.unwrap();
    assert_eq!(ask_all(&machine).await, (1, 0));
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "a FIN, and no reset");
    assert_eq!(session.read(&mut [0; 1]).await.expect("a close_notify"), 0);
    drop((client, session));
    drop(socket);
    says_why(&machine, (8, 6)).await;
}

#[tokio::test]
async fn a_connection_into_a_vm_that_is_asked_to_end_ends_in_order_on_both_sides() {
    let ca = Ca::new().unwrap();
    let local = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, to) = (own_address(), local.local_addr().unwrap().to_string());
    let directory = Directory::in_mesh(&ca, &format!("ISTIO_SVC_IP={address}\n"));
    let machine = directory.run(|layers, _| layers.flag("vm.inbound", Some(json!({ "8888": to })))).await;
    let mut options = client::Options::new(ca.roots());
    options.expect = Expect::OneOf(vec![VM.into()]);
    options.alpn = vec!["istio".into()];
    options.identity = Some(ca.issue(&[SPIFFE]).unwrap());
    let client = Client::new(options).unwrap();

    let mut stream = client.connect((address, 8888).into(), "x").await.unwrap();
    let (mut socket, _) = local.accept().await.unwrap();
    stream.write_all(b"question").await.unwrap();
    socket.read_exact(&mut [0; 8]).await.unwrap();
    socket.write_all(b"answer").await.unwrap();
    stream.read_exact(&mut [0; 6]).await.unwrap();
    assert_eq!(ask_all(&machine).await, (1, 0));
    assert_eq!(stream.read(&mut [0; 1]).await.expect("a close_notify"), 0);
    assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0, "a FIN, and no reset");
    drop((stream, socket));
    says_why(&machine, (8, 6)).await;
}
