//! Leaving: who is let go on, who is closed, and that nobody is reset.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;

use eastgate::app::Left;
use eastgate_loadtest::origin::RawOrigin;
use program::Eastgate;
use support::*;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

#[path = "support/program.rs"]
mod program;

async fn echo() -> eastgate_loadtest::origin::Origin {
    RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap()
}

/// A gateway that drains as these settings say.
async fn draining(pod: SocketAddr, drain: &[(&'static str, &'static str)]) -> Gateway {
    let set = |layers| {
        drain.iter().fold(layers, |layers: eastgate_config::bootstrap::Layers, (key, value)| {
            layers.flag(key, Some(*value))
        })
    };
    Gateway::start_with(&mesh(&[pod]), set).await
}

/// The end of a connection by a FIN; a reset would be an error.
async fn finished(mut stream: TcpStream) {
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn idle_connections_are_closed_by_a_fin_while_a_busy_one_goes_on() {
    let pod = echo().await;
    let drain = [("drain.close_idle", "300ms"), ("drain.spread", "0s"), ("drain.timeout", "60s")];
    let gateway = draining(pod.address(), &drain).await;
    let address = gateway.address;
    let (one, two, mut busy) =
        (tunnel(address).await.unwrap(), tunnel(address).await.unwrap(), tunnel(address).await.unwrap());
    let stopping = tokio::spawn(gateway.app.stop());
    let mut idle = tokio::spawn(async { tokio::join!(finished(one), finished(two)) });
    while !idle.is_finished() {
        say(&mut busy).await;
    }
    (&mut idle).await.unwrap();
    say(&mut busy).await;
    drop(busy);
    assert_eq!(stopping.await.unwrap(), Left { finished: 1, passed: 0, idle: 2, cut: 0 });
}

#[tokio::test]
async fn at_the_deadline_what_is_left_gets_a_fin_one_after_the_other() {
    let pod = echo().await;
    let gateway = draining(pod.address(), &[("drain.timeout", "100ms"), ("drain.spread", "1s")]).await;
    let mut tunnels = Vec::new();
    for _ in 0..20 {
        tunnels.push(tunnel(gateway.address).await.unwrap());
    }
    let stopping = tokio::spawn(gateway.app.stop());
    let ends = tunnels.into_iter().map(|stream| {
        tokio::spawn(async move {
            finished(stream).await;
            std::time::Instant::now()
        })
    });
    let mut times = Vec::new();
    for end in ends.collect::<Vec<_>>() {
        times.push(end.await.unwrap());
    }
    times.sort();
    // Looks come every tenth of a second, and with each go those whose turn it is.
    let gaps = times.windows(2).filter(|pair| pair[1] - pair[0] > std::time::Duration::from_millis(20));
    assert!(gaps.count() >= 3, "they all went at once");
    assert_eq!(stopping.await.unwrap(), Left { finished: 0, passed: 0, idle: 0, cut: 20 });
}

/// Clients come all the while. Each is either served or refused by the kernel, and none is reset or left without an
/// answer; that holds while sockets with full accept queues are closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_connected_before_the_end_is_served() {
    let pod = echo().await;
    let gateway = draining(pod.address(), &[("drain.timeout", "60s")]).await;
    let address = gateway.address;
    let client = move || async move {
        let mut served = 0;
        loop {
            match tunnel(address).await {
                Ok(_) => served += 1,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(served),
                Err(error) => return Err((served, error)),
            }
        }
    };
    let clients: Vec<_> = (0..64).map(|_| tokio::spawn(client())).collect();
    gateway.records(200).await;
    let left = gateway.app.stop().await;
    assert_eq!(left.cut, 0);
    let mut served = 0;
    for client in clients {
        served += client.await.unwrap().expect("nobody is reset");
    }
    assert!(served >= 200, "{served}");
}

#[tokio::test]
async fn sigterm_fails_readiness_at_once_and_accepts_for_the_grace() {
    let pod = echo().await;
    let directory = tempfile::tempdir().unwrap();
    for (name, document) in mesh(&[pod.address()]) {
        std::fs::write(directory.path().join(name), document.to_string()).unwrap();
    }
    let settings = [("EASTGATE_DRAIN_GRACE", "2s".to_owned())];
    let arguments = ["--mesh-dir", directory.path().to_str().unwrap(), "--listen", "15443=127.0.0.1:0"];
    let gateway = Eastgate::start(&arguments, &settings).await;
    let address = gateway.listening("0.0.0.0_15443").await;
    let old = tunnel(address).await.unwrap();
    gateway.signal("TERM");
    gateway.until("/ready", |text| text.contains("the end of the drain")).await;
    let mut new = tunnel(address).await.expect("accepted in the grace");
    drop(old);
    say(&mut new).await;
    while TcpStream::connect(address).await.is_ok() {}
    say(&mut new).await;
    drop(new);
    let (status, log) = gateway.exit().await;
    assert!(status.success(), "{log}");
    // The last of those who asked whether it still accepts may have been counted with the tunnel.
    assert!(log.contains(" passed=0 closed_idle=0 cut=0") && !log.contains("left finished=0"), "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let pod = echo().await;
    let directory = tempfile::tempdir().unwrap();
    for (name, document) in mesh(&[pod.address()]) {
        std::fs::write(directory.path().join(name), document.to_string()).unwrap();
    }
    let settings = [("EASTGATE_DRAIN_GRACE", "1h".to_owned())];
    let arguments = ["--mesh-dir", directory.path().to_str().unwrap(), "--listen", "15443=127.0.0.1:0"];
    let gateway = Eastgate::start(&arguments, &settings).await;
    let open = tunnel(gateway.listening("0.0.0.0_15443").await).await.unwrap();
    gateway.signal("TERM");
    gateway.until("/ready", |text| text.contains("the end of the drain")).await;
    gateway.signal("INT");
    let (status, log) = gateway.exit().await;
    assert!(!status.success() && log.contains("leaving at once"), "{log}");
    drop(open);
}

#[tokio::test]
async fn connections_to_an_endpoint_that_is_taken_away_go_on_unless_the_settings_say_otherwise() {
    let (one, two) = (echo().await, echo().await);
    for (policy, is_kept) in [("keep", true), ("close-idle", false), ("close-within 1s", false)] {
        let drain = [("drain.removed_endpoints", policy), ("drain.spread", "0s")];
        let gateway = draining(one.address(), &drain).await;
        let mut first = tunnel(gateway.address).await.unwrap();
        gateway.edit("slices.json", &slices(&[two.address()]).to_string());
        gateway.admin_until("/clusters", |text| text.contains(&two.address().to_string())).await;
        let mut second = tunnel(gateway.address).await.unwrap();
        if is_kept {
            say(&mut first).await;
        } else {
            finished(first).await;
            let record = &gateway.records(1).await[0];
            assert_eq!(
                (&record["flag"], record["client_addr"].is_string()),
                (&"LR".into(), true),
                "{record}"
            );
            assert_eq!(record["endpoint"], one.address().to_string());
        }
        say(&mut second).await;
    }
}
