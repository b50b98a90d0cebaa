use std::time::{Duration, SystemTime};

use eastgate_loadtest::ca::Ca;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const A: &str = "spiffe://cluster.local/ns/bar/sa/a";

fn credentials(ca: &Ca, names: &[&str]) -> Result<Credentials, credentials::Error> {
    let identity = ca.issue(names).unwrap();
    let now = SystemTime::now();
    Credentials::new(
        identity.chain_pem().as_bytes(),
        identity.key_pem().as_bytes(),
        ca.certificate_pem().as_bytes(),
        now,
    )
}

fn mesh(ca: &Ca) -> Mesh {
    let mesh = Mesh::default();
    mesh.renew(Arc::new(credentials(ca, &[A]).unwrap()));
    mesh
}

#[test]
fn credentials_that_do_not_belong_together_are_refused_with_a_remedy() {
    let (ca, other) = (Ca::new().unwrap(), Ca::new().unwrap());
    let good = credentials(&ca, &[A]).unwrap();
    assert_eq!(good.identity.to_string(), A);
    let (one, two) = (ca.issue(&[A]).unwrap(), ca.issue(&[A]).unwrap());
    let made = |chain: &str, key: &str, roots: &str, now| {
        let made = Credentials::new(chain.as_bytes(), key.as_bytes(), roots.as_bytes(), now);
        made.unwrap_err().to_string()
    };
    let now = SystemTime::now();
    let (chain, key, root) = (one.chain_pem(), one.key_pem(), ca.certificate_pem());
    assert!(made(&chain, &two.key_pem(), root, now).contains("copy both from the same secret"));
    assert!(made(&chain, &key, other.certificate_pem(), now).contains("from another CA"));
    let late = now + Duration::from_secs(100 * 366 * 24 * 3600 * 30);
    assert!(made(&chain, &key, root, late).contains("it has expired"));
    assert!(made("", &key, root, now).contains("no PEM certificate"));
    assert!(made(&chain, "", root, now).contains("no PEM private key"));
    assert!(made(&chain, &key, "x", now).contains("root"));
    for names in [&["a.b"][..], &[A, "spiffe://cluster.local/ns/bar/sa/b"], &["https://a/ns/b/sa/c"]] {
        assert!(credentials(&ca, names).unwrap_err().to_string().contains("holds no identity"), "{names:?}");
    }
}

#[tokio::test]
async fn both_ends_know_each_other_and_half_closes_and_bytes_pass() {
    let ca = Ca::new().unwrap();
    let (here, there) = (mesh(&ca), mesh(&ca));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut session = there.accept(&socket).await.unwrap();
        let peer = admit(session.get_ref().1.peer_certificates(), &Peers::default(), Side::Client).unwrap();
        let mut received = String::new();
        session.read_to_string(&mut received).await.unwrap();
        session.write_all(b"world").await.unwrap();
        session.shutdown().await.unwrap();
        (peer, received)
    });
    let socket = TcpStream::connect(address).await.unwrap();
    let peers = Peers { server_name: "outbound_.80_._.a.b.global".parse().ok(), allowed: vec![] };
    let (mut session, peer) = here.connect(&socket, &peers).await.unwrap();
    assert_eq!(session.get_ref().1.alpn_protocol(), Some(&b"istio"[..]));
    session.write_all(b"hello").await.unwrap();
    session.shutdown().await.unwrap();
    let mut answer = String::new();
    session.read_to_string(&mut answer).await.unwrap();
    let (other, received) = server.await.unwrap();
    assert_eq!((received.as_str(), answer.as_str()), ("hello", "world"));
    assert_eq!((peer.to_string(), other.to_string()), (A.to_owned(), A.to_owned()));
}

#[tokio::test]
async fn a_wrong_ca_and_a_wrong_identity_are_told_apart() {
    let (ca, other) = (Ca::new().unwrap(), Ca::new().unwrap());
    let shake = async |there: Mesh, allowed: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let _ = there.accept(&socket).await.map(|_| ());
        });
        let socket = TcpStream::connect(address).await.unwrap();
        let peers = Peers { server_name: "a.b".parse().ok(), allowed: vec![allowed.parse().unwrap()] };
        mesh(&ca).connect(&socket, &peers).await.unwrap_err()
    };
    let error = shake(mesh(&other), "*").await;
    let Error::Handshake { side: Side::Upstream, source } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("from another CA"), "{source}");
    assert!(!error.may_pass());
    let error = shake(mesh(&ca), "cluster.local/ns/foo/*").await;
    let text = error.to_string();
    assert!(text.contains(A) && text.contains("only cluster.local/ns/foo/* may be there"), "{text}");
    let error = shake(Mesh::default(), "*").await;
    assert!(matches!(&error, Error::Handshake { .. }) && error.may_pass(), "{error:?}");
}
