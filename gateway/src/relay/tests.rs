use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::thread::JoinHandle;

use eastgate_config::bootstrap::DEFAULT_MAX_PIPES;
use eastgate_config::cluster::Keepalive;

use super::*;

/// A relay between two real socket pairs, on a thread of its own; the test holds the outer ends.
struct Relayed {
    client: StdStream,
    upstream: StdStream,
    relay: JoinHandle<Outcome>,
}

/// What became of a relay.
struct Outcome {
    result: Result<(), Error>,
    to_upstream: u64,
    to_client: u64,
    engine: &'static str,
}

fn pair() -> (StdStream, StdStream) {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let outer = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    (outer, listener.accept().unwrap().0)
}

fn relayed(idle: Duration) -> Relayed {
    relayed_with(Patience { idle, age: None, keepalive: KEEPALIVE })
}

fn relayed_with(patience: Patience) -> Relayed {
    let (client, client_inner) = pair();
    let (upstream, upstream_inner) = pair();
    Relayed {
        client,
        upstream,
        relay: relay_between(client_inner, upstream_inner, patience, DEFAULT_MAX_PIPES),
    }
}

fn relay_between(
    client: StdStream,
    upstream: StdStream,
    patience: Patience,
    pipes: usize,
) -> JoinHandle<Outcome> {
    std::thread::spawn(move || {
        limit_pipes(pipes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let inner = [client, upstream].map(|stream| {
                stream.set_nonblocking(true).unwrap();
                TcpStream::from_std(stream).unwrap()
            });
            let totals = [const { AtomicU64::new(0) }; 2];
            let totals = (&totals[0], &totals[1]);
            let moved = Moved::default();
            let meter = Meter::new(&moved, totals);
            let timer = std::pin::pin!(patience.timer());
            let result = run((&inner[0], &inner[1]), Handed::default(), &meter, &patience, timer).await;
            let engine = meter.engine();
            let counted = (meter.to_upstream.get(), meter.to_client.get());
            drop(meter);
            let published = (totals.0.load(Relaxed), totals.1.load(Relaxed));
            assert_eq!(published, counted);
            Outcome { result, to_upstream: counted.0, to_client: counted.1, engine }
        })
    })
}

const KEEPALIVE: Keepalive =
    Keepalive { time: Duration::from_secs(60), interval: Duration::from_secs(10), probes: 6 };

const LONG: Duration = Duration::from_secs(3600);
const LONG_PATIENCE: Patience = Patience { idle: LONG, age: None, keepalive: KEEPALIVE };

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

#[test]
fn a_finished_upload_still_gets_its_answer() {
    let Relayed { mut client, mut upstream, relay } = relayed(LONG);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut question = Vec::new();
    upstream.read_to_end(&mut question).unwrap();
    upstream.write_all(b"answer").unwrap();
    drop(upstream);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!((question.as_slice(), answer.as_slice()), (&b"question"[..], &b"answer"[..]));
    let Outcome { result, to_upstream, to_client, engine } = relay.join().unwrap();
    assert!(result.is_ok());
    assert_eq!((to_upstream, to_client, engine), (8, 6, "copy"));
}

#[test]
fn the_endpoint_may_finish_first() {
    let Relayed { mut client, mut upstream, relay } = relayed(LONG);
    upstream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    let sent = pattern(300_000);
    let writer = std::thread::spawn({
        let sent = sent.clone();
        move || client.write_all(&sent).unwrap()
    });
    let mut got = Vec::new();
    upstream.read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == sent);
    assert!(relay.join().unwrap().result.is_ok());
}

#[test]
fn both_directions_at_once_lose_nothing_with_a_slow_reader() {
    let Relayed { client, upstream, relay } = relayed(LONG);
    let sent = pattern(8 << 20);
    let ends = [client, upstream].map(|stream| {
        let mut reader = stream.try_clone().unwrap();
        let mut writer = stream;
        let sent = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let reading = std::thread::spawn(move || {
            let mut got = Vec::new();
            // Odd sizes make the relay hold remainders of every length.
            let mut piece = vec![0; 7_919];
            loop {
                match reader.read(&mut piece).unwrap() {
                    0 => return got,
                    read => got.extend_from_slice(&piece[..read]),
                }
            }
        });
        (writing, reading)
    });
    for (writing, reading) in ends {
        writing.join().unwrap();
        assert!(reading.join().unwrap() == sent);
    }
    assert_eq!(relay.join().unwrap().to_upstream, sent.len() as u64);
}

fn reset_socket(socket: StdStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
}

fn assert_reset(mut socket: StdStream) {
    let error = socket.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_is_answered_with_a_reset_either_way() {
    let Relayed { client, upstream, relay } = relayed(LONG);
    reset_socket(client);
    assert_reset(upstream);
    assert!(matches!(relay.join().unwrap().result, Err(Error::Broken { side: Side::Client, .. })));

    let Relayed { client, upstream, relay } = relayed(LONG);
    reset_socket(upstream);
    assert_reset(client);
    assert!(matches!(relay.join().unwrap().result, Err(Error::Broken { side: Side::Upstream, .. })));
}

/// The kernel tells of a reset once, and it may be a write to the client that is told: a read finds an end then.
#[test]
fn a_reset_that_a_write_has_seen_is_no_fin_for_the_endpoint() {
    // Which direction goes first is chance.
    for _ in 0..40 {
        let (client, client_inner) = pair();
        let (mut upstream, upstream_inner) = pair();
        upstream.write_all(b"under way").unwrap();
        reset_socket(client);
        let relay = relay_between(client_inner, upstream_inner, LONG_PATIENCE, DEFAULT_MAX_PIPES);
        assert_reset(upstream);
        assert!(matches!(relay.join().unwrap().result, Err(Error::Broken { side: Side::Client, .. })));
    }
}

#[test]
fn a_reset_after_the_fin_is_seen() {
    let Relayed { client, mut upstream, relay } = relayed(LONG);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(upstream.read(&mut [0; 1]).unwrap(), 0);
    reset_socket(client);
    assert!(matches!(relay.join().unwrap().result, Err(Error::Broken { side: Side::Client, .. })));
    // The FIN came first, so only writing shows the reset.
    while upstream.write_all(b"x").is_ok() {}
}

/// Fills every buffer on the way; the endpoint reads nothing, so the relay comes to hold a remainder in a pipe.
fn fill(client: &mut StdStream) {
    client.set_nonblocking(true).unwrap();
    let piece = pattern(256 * 1024);
    let mut refused = 0;
    while refused < 50 {
        match client.write(&piece) {
            Ok(1..) => refused = 0,
            Ok(0) | Err(_) => {
                refused += 1;
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn a_reset_is_seen_while_the_receiver_is_full() {
    let Relayed { mut client, upstream, relay } = relayed(LONG);
    fill(&mut client);
    reset_socket(client);
    let relay = relay.join().unwrap();
    assert!(matches!(relay.result, Err(Error::Broken { side: Side::Client, .. })));
    assert_eq!(relay.engine, "splice");
    drop(upstream);
}

#[test]
fn a_receiver_that_is_full_and_resets_ends_the_relay() {
    let Relayed { mut client, upstream, relay } = relayed(LONG);
    fill(&mut client);
    reset_socket(upstream);
    assert!(matches!(relay.join().unwrap().result, Err(Error::Broken { side: Side::Upstream, .. })));
}

#[test]
fn silence_ends_a_connection_and_bytes_keep_it() {
    let Relayed { mut client, mut upstream, relay } = relayed(Duration::from_millis(80));
    let mut piece = [0; 1];
    for _ in 0..40 {
        client.write_all(b"x").unwrap();
        upstream.read_exact(&mut piece).unwrap();
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(!relay.is_finished());
    assert!(matches!(relay.join().unwrap().result, Err(Error::Idle(_))));
}

#[test]
fn a_connection_that_is_old_enough_ends_even_while_it_is_busy() {
    let patience = Patience { idle: LONG, age: Some(Duration::from_millis(50)), keepalive: KEEPALIVE };
    let Relayed { mut client, mut upstream, relay } = relayed_with(patience);
    let mut piece = [0; 1];
    while client.write_all(b"x").is_ok() && upstream.read_exact(&mut piece).is_ok() {}
    assert!(matches!(relay.join().unwrap().result, Err(Error::Expired(_))));
}

/// Bulk, single bytes, bulk again: every switch between the engines, with a receiver that stalls in between.
#[test]
fn switching_engines_loses_nothing() {
    let Relayed { client, upstream, relay } = relayed(LONG);
    let bulk = pattern(4 << 20);
    let mut sent = Vec::new();
    let pieces: Vec<Vec<u8>> = (0..6)
        .flat_map(|round| {
            let small = (0..200).map(move |index| vec![(round * 7 + index) as u8; 1 + index % 5]);
            std::iter::once(bulk[round..].to_vec()).chain(small)
        })
        .collect();
    pieces.iter().for_each(|piece| sent.extend_from_slice(piece));
    let writing = std::thread::spawn(move || {
        let mut client = client;
        client.set_nodelay(true).unwrap();
        for piece in pieces {
            client.write_all(&piece).unwrap();
            if piece.len() < 10 {
                // Lets each small piece be read by itself, most of the time.
                std::thread::yield_now();
            }
        }
        client
    });
    let mut upstream = upstream;
    let mut got = Vec::new();
    let mut piece = vec![0; 100_003];
    while got.len() < sent.len() {
        if got.len() % 11 == 0 {
            std::thread::park_timeout(Duration::from_millis(2));
        }
        match upstream.read(&mut piece).unwrap() {
            0 => break,
            read => got.extend_from_slice(&piece[..read]),
        }
    }
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    drop((writing.join().unwrap(), upstream));
    let relay = relay.join().unwrap();
    assert_eq!((relay.engine, relay.to_upstream), ("splice", sent.len() as u64));
}

#[test]
fn without_pipes_bulk_is_copied() {
    let (mut client, client_inner) = pair();
    let (mut upstream, upstream_inner) = pair();
    let relay = relay_between(client_inner, upstream_inner, LONG_PATIENCE, 0);
    let sent = pattern(4 << 20);
    let reading = std::thread::spawn(move || {
        let mut got = Vec::new();
        upstream.read_to_end(&mut got).unwrap();
        got
    });
    client.write_all(&sent).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(reading.join().unwrap() == sent);
    assert_eq!(relay.join().unwrap().engine, "copy");
}
