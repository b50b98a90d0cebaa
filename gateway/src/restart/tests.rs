use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::*;

/// A socket that listens, where, and what was asked for.
fn listening() -> (TcpListener, SocketAddr, SocketAddr) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let socket = TcpListener::bind(any).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address, any)
}

fn at() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("restart");
    (directory, path)
}

#[tokio::test]
async fn a_socket_passes_with_the_clients_that_wait_in_it() {
    let (_directory, path) = at();
    let offer = Offer::new(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (socket, address, any) = listening();
    let mut client = TcpStream::connect(address).unwrap();
    let sockets = Sockets::default();
    sockets.offer();
    // More than a frame may have.
    let names = (0..=MAX_FDS).map(|index| format!("{index}"));
    let kept: Vec<_> = names.map(|name| sockets.pass(&name, any, &socket).unwrap()).collect();
    drop(socket);
    let old = async move {
        let successor = offer.successor(&sockets).await.unwrap();
        drop((kept, successor));
        offer
    };
    let new = async {
        let (mut old, inherited) = Predecessor::find(&path).await.unwrap().unwrap();
        let inherited = Sockets::new(inherited);
        let mut mine = inherited.take("0", any);
        assert_eq!((mine.len(), inherited.close_rest().len()), (1, MAX_FDS));
        old.ready().await.unwrap();
        assert!(old.tunnels().await.unwrap().is_none());
        TcpListener::from(mine.remove(0))
    };
    let (offer, socket) = tokio::join!(old, new);
    let (mut served, _) = socket.accept().unwrap();
    served.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(offer);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_process_that_fails_before_it_is_ready_changes_nothing_and_the_next_one_may_try() {
    let (_directory, path) = at();
    let offer = Offer::new(&path).unwrap();
    let (socket, _, any) = listening();
    let sockets = Sockets::default();
    sockets.offer();
    let _kept = sockets.pass("l", any, &socket).unwrap();
    let old = async { offer.successor(&sockets).await.unwrap() };
    let new = async {
        drop(Predecessor::find(&path).await.unwrap().unwrap());
        // One that hangs makes room for the next.
        let _hanging = Predecessor::find(&path).await.unwrap().unwrap();
        let (mut old, _) = Predecessor::find(&path).await.unwrap().unwrap();
        old.ready().await.unwrap();
        old
    };
    tokio::join!(old, new);
}

#[tokio::test]
async fn a_path_where_nobody_answers_is_a_start_without_a_predecessor() {
    let (_directory, path) = at();
    assert!(Predecessor::find(&path).await.unwrap().is_none());
    // What a killed process leaves.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists() && Predecessor::find(&path).await.unwrap().is_none());
    let offer = Offer::new(&path).unwrap();
    let next = Offer::new(&path).unwrap();
    drop(offer);
    assert!(path.exists(), "the next offer is not taken away with the one before");
    drop(next);
    assert!(!path.exists());
}

#[tokio::test]
async fn tunnels_pass_with_their_bytes_and_are_the_old_ones_until_taken() {
    let (_directory, path) = at();
    let offer = Offer::new(&path).unwrap();
    let tunnel = || Tunnel { state: b"{}".into(), to_upstream: b"up".into(), to_client: b"down".into() };
    let pipe = || std::os::unix::net::UnixStream::pair().unwrap();
    let ((client, mut client_far), (upstream, mut upstream_far)) = (pipe(), pipe());
    let none = Sockets::default();
    let old = async {
        let mut successor = offer.successor(&none).await.unwrap();
        let passed = [(tunnel(), [client.into(), upstream.into()])];
        successor.give(&passed).await.unwrap();
        let error = successor.give(&passed).await.unwrap_err();
        assert!(matches!(error, Error::Gone | Error::Io(_)), "{error}");
    };
    let new = async {
        let (mut old, _) = Predecessor::find(&path).await.unwrap().unwrap();
        old.ready().await.unwrap();
        let (mine, fds) = old.tunnels().await.unwrap().unwrap().remove(0);
        old.taken().await.unwrap();
        // The second time it goes without a word.
        old.tunnels().await.unwrap();
        drop(old);
        (mine, fds)
    };
    let ((), (mine, fds)) = tokio::join!(old, new);
    assert_eq!(mine, tunnel());
    for (fd, far) in fds.into_iter().zip([&mut client_far, &mut upstream_far]) {
        std::os::unix::net::UnixStream::from(fd).write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn a_batch_fits_a_frame() {
    let mut lengths: VecDeque<usize> = [5 << 20, 3 << 20, 1, 9 << 20].into_iter().chain([1; 200]).collect();
    let mut batches = Vec::new();
    while !lengths.is_empty() {
        batches.push(batch(&mut lengths, |length| *length).len());
    }
    // A tunnel that is too long for any frame is refused by the receiver, and stays where it is.
    assert_eq!(batches, [2, 1, 1, MAX_TUNNELS, MAX_TUNNELS, MAX_TUNNELS, 8]);
}
