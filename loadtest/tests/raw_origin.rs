//! Each plain TCP origin does its one thing, ClientHello or not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::Duration;

use eastgate_loadtest::content;
use eastgate_loadtest::origin::{Origin, RawOrigin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Long enough to be sure that nothing comes, short enough for every test run.
const NOTHING_COMES: Duration = Duration::from_millis(100);

async fn connect(behaviour: RawOrigin) -> (Origin, TcpStream) {
    let origin = behaviour.start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let stream = TcpStream::connect(origin.address()).await.unwrap();
    (origin, stream)
}

async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    bytes
}

#[tokio::test]
async fn echo_gives_every_byte_back_and_ends_after_us() {
    let (_origin, stream) = connect(RawOrigin::Echo).await;
    let sent = content::bytes(300_000);
    let (mut read, mut write) = stream.into_split();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut echoed = Vec::new();
    let (_, length) = tokio::join!(writing, read.read_to_end(&mut echoed));
    assert_eq!(length.unwrap(), sent.len());
    assert!(sent == echoed);
}

#[tokio::test]
async fn digest_answers_only_after_our_end() {
    let (_origin, mut stream) = connect(RawOrigin::Digest).await;
    stream.write_all(&content::bytes(100_000)).await.unwrap();
    assert!(timeout(NOTHING_COMES, stream.read(&mut [0; 1])).await.is_err());
    stream.shutdown().await.unwrap();
    let answer = String::from_utf8(read_all(&mut stream).await).unwrap();
    assert_eq!(answer, format!("{} 100000\n", content::sha256(100_000)));
}

#[tokio::test]
async fn send_loses_no_byte_though_ours_were_not_asked_for() {
    let (_origin, mut stream) = connect(RawOrigin::Send(200_000)).await;
    stream.write_all(b"a ClientHello, say").await.unwrap();
    assert!(read_all(&mut stream).await == content::bytes(200_000));
}

#[tokio::test]
async fn reset_resets_at_the_first_bytes() {
    let (origin, mut stream) = connect(RawOrigin::Reset).await;
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(origin.counters().connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn silence_reads_everything_and_says_nothing_until_it_stops() {
    let (origin, mut stream) = connect(RawOrigin::Silence).await;
    timeout(Duration::from_secs(10), stream.write_all(&vec![0; 20_000_000])).await.unwrap().unwrap();
    stream.shutdown().await.unwrap();
    assert!(timeout(NOTHING_COMES, stream.read(&mut [0; 1])).await.is_err());
    origin.stop().await;
    assert_eq!(read_all(&mut stream).await, b"");
}

#[tokio::test]
async fn never_read_fills_the_buffers_and_resets_when_told() {
    let (origin, mut stream) = connect(RawOrigin::NeverRead).await;
    let filled = timeout(Duration::from_millis(300), stream.write_all(&vec![0; 50_000_000])).await;
    assert!(filled.is_err(), "50 MB fit into the buffers");
    assert_eq!(origin.counters().open.load(Ordering::Relaxed), 1);
    origin.reset().await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn speak_first_greets_and_then_echoes() {
    let (_origin, mut stream) = connect(RawOrigin::SpeakFirst(b"220 ready\r\n".to_vec())).await;
    let mut greeting = [0; 11];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    stream.write_all(b"HELO").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, b"HELO");
}
