//! The open connections: who is listed, and how one is asked to end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use eastgate::open::{self, Ask, End};
use eastgate_loadtest::origin::RawOrigin;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A tunnel through the gateway to an echoing pod, with the hello echoed already.
async fn tunnel(gateway: &Gateway) -> TcpStream {
    let hello = client_hello(GLOBAL, &["istio"]);
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    stream.read_exact(&mut vec![0; hello.len()]).await.unwrap();
    stream
}

/// What each thread has: clients' addresses and bytes from them.
async fn listed(gateway: &Gateway) -> Vec<(String, u64)> {
    let list = || {
        let mut found = Vec::new();
        open::each(|connection| {
            found.push((connection.record.client_addr.to_string(), connection.moved.to_upstream.get()));
        });
        found
    };
    gateway.app.open().ask(list).await.into_iter().flatten().flatten().collect()
}

#[tokio::test]
async fn a_connection_is_listed_while_it_is_open_with_what_it_has_moved() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let (one, two) = (tunnel(&gateway).await, tunnel(&gateway).await);
    let hello = client_hello(GLOBAL, &["istio"]).len() as u64;
    let mut found = listed(&gateway).await;
    let mut expected = [&one, &two].map(|stream| (stream.local_addr().unwrap().to_string(), hello));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    drop(one);
    gateway.records(1).await;
    assert_eq!(listed(&gateway).await, [(two.local_addr().unwrap().to_string(), hello)]);
}

#[tokio::test]
async fn a_connection_that_is_asked_to_end_gives_each_side_a_fin_and_says_why() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let (mut one, mut two) = (tunnel(&gateway).await, tunnel(&gateway).await);
    let wanted = one.local_addr().unwrap();
    let end = move || {
        open::each(|connection| {
            if connection.record.client_addr == wanted {
                connection.ask(Ask::End(End::Operator));
            }
        });
    };
    gateway.app.open().ask(end).await;
    assert_eq!(one.read_to_end(&mut Vec::new()).await.unwrap(), 0, "a FIN, and no reset");
    drop(one);
    let record = &gateway.records(1).await[0];
    assert_eq!(record["flag"], "LR");
    assert_eq!(record["error"], "an operator closed the connection");
    assert_eq!(record["client_addr"], wanted.to_string());
    two.write_all(b"still here").await.unwrap();
    two.read_exact(&mut [0; 10]).await.unwrap();
}
