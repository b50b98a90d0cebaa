//! The load: real TLS through the gateway without a pause, every connection entered in the ledger; and tunnels that stay
//! open from one fault to the next.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::client::{self, Client, Expect, Peer, exchange};
use eastgate_loadtest::content;
use http_body_util::Full;
use hyper::Request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use crate::fate::{Connection, Fate, Ledger};
use crate::support::{PATIENCE, SPIFFE};

/// How many clients there are, each with one connection at a time.
pub(crate) const CLIENTS: usize = 12;
/// What the largest body has.
const LARGEST: usize = 64 * 1024;

/// A socket that knows whether an endpoint has answered, and tells when the first bytes are sent.
struct Heard {
    stream: TcpStream,
    answered: Arc<AtomicBool>,
    said: Option<watch::Sender<usize>>,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        // An alert comes from the gateway too, and is no endpoint's answer: records of a handshake are.
        if buf.filled().get(before) == Some(&22) {
            self.answered.store(true, SeqCst);
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready()
            && let Some(said) = self.said.take()
        {
            said.send_modify(|count| *count += 1);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What the clients share.
pub(crate) struct Shared {
    pub(crate) ledger: Mutex<Ledger>,
    moment: AtomicU32,
    ended: watch::Sender<bool>,
    /// For each client, when its connection began.
    begun: watch::Sender<[u32; CLIENTS]>,
    /// How many connections have come to their end, by the moment they began at.
    over: watch::Sender<Vec<usize>>,
    client: Client,
}

/// What is known of a connection before its end.
struct Open {
    began: u32,
    answered: Arc<AtomicBool>,
    pod: Option<usize>,
    /// Is told when the ClientHello is sent.
    said: Option<watch::Sender<usize>>,
}

impl Shared {
    /// The next moment, after which all that begins is later.
    pub(crate) fn tick(&self) -> u32 {
        self.moment.fetch_add(1, SeqCst) + 1
    }

    fn now(&self) -> u32 {
        self.moment.load(SeqCst)
    }

    fn open(&self) -> Open {
        Open { began: self.now(), answered: Arc::default(), pod: None, said: None }
    }

    fn close(&self, open: Open, done: Result<(), client::Error>) -> Fate {
        let (fate, why) = match &done {
            Ok(()) => (Fate::Ok, String::new()),
            Err(error) => (Fate::of(error), format!("{error:?}")),
        };
        self.enter(open, fate, why);
        fate
    }

    fn enter(&self, Open { began, answered, pod, .. }: Open, fate: Fate, why: String) {
        let answered = answered.load(SeqCst);
        let connection = Connection { began, ended: self.now(), answered, pod, fate, why };
        self.ledger.lock().unwrap().connections.push(connection);
        self.over.send_modify(|over| {
            let began = began as usize;
            over.resize(over.len().max(began + 1), 0);
            over[began] += 1;
        });
    }
}

/// The names of pods are their numbers in their certificates.
pub(crate) fn pod_name(number: usize) -> String {
    format!("pod-{number}.example")
}

fn pod_of(peer: Option<Peer>) -> Option<usize> {
    let names = peer?.names();
    names.iter().find_map(|name| name.strip_prefix("pod-")?.strip_suffix(".example")?.parse().ok())
}

async fn shake(
    shared: &Shared,
    address: SocketAddr,
    name: &str,
    open: &mut Open,
) -> Result<TlsStream<Heard>, client::Error> {
    let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
    let stream = connecting
        .map_err(|_| client::Error::Timeout(PATIENCE))?
        .map_err(|source| client::Error::Connect { address, source })?;
    let stream = Heard { stream, answered: Arc::clone(&open.answered), said: open.said.take() };
    let stream = shared.client.handshake(stream, name).await?;
    open.pod = pod_of(Peer::of(&stream));
    Ok(stream)
}

/// One connection: a body goes up, and its SHA-256 comes back.
async fn once(
    shared: &Shared,
    address: SocketAddr,
    name: &str,
    length: usize,
    open: &mut Open,
) -> Result<bool, client::Error> {
    let stream = shake(shared, address, name, open).await?;
    let body = Full::new(content::bytes(length));
    let request = Request::post("/sha256").header("host", name).body(body)?;
    let answer = tokio::time::timeout(PATIENCE, exchange(stream, request)).await;
    let answer = answer.map_err(|_| client::Error::Timeout(PATIENCE))??;
    let told = answer.json()["sha256"].as_str().map(str::to_owned);
    Ok(answer.status == 200 && told == Some(content::sha256(length as u64)))
}

/// The same, entered in the ledger; false if it was lost.
async fn entered(shared: &Shared, address: SocketAddr, name: &str, length: usize, mut open: Open) -> bool {
    match once(shared, address, name, length, &mut open).await {
        Ok(true) => shared.close(open, Ok(())) == Fate::Ok,
        Ok(false) => {
            shared.enter(open, Fate::Wrong, "another digest".into());
            false
        }
        Err(error) => shared.close(open, Err(error)) == Fate::Ok,
    }
}

/// Connections one after the other, by several clients.
pub(crate) struct Load {
    pub(crate) shared: Arc<Shared>,
    address: SocketAddr,
    names: &'static [&'static str],
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// The clients take the names in turn.
    pub(crate) fn start(
        ca: &Ca,
        address: SocketAddr,
        names: &'static [&'static str],
        ledger: Ledger,
        moment: u32,
    ) -> Self {
        let mut options = client::Options::new(ca.roots());
        options.expect = Expect::OneOf(vec![SPIFFE.into()]);
        options.alpn = vec!["istio".into()];
        options.timeout = PATIENCE;
        let shared = Arc::new(Shared {
            ledger: Mutex::new(ledger),
            moment: AtomicU32::new(moment),
            ended: watch::Sender::new(false),
            begun: watch::Sender::new([0; CLIENTS]),
            over: watch::Sender::default(),
            client: Client::new(options).unwrap(),
        });
        let client = |index: usize| {
            let (shared, name) = (Arc::clone(&shared), names[index % names.len()]);
            tokio::spawn(async move {
                let mut length = 1 + index * 1_009;
                while !*shared.ended.borrow() {
                    let open = shared.open();
                    shared.begun.send_modify(|begun| begun[index] = open.began);
                    length = (length * 7 + 11) % LARGEST;
                    // Whoever is refused at once comes back a little later, as clients do.
                    if !entered(&shared, address, name, length, open).await {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { shared, address, names, clients }
    }

    /// Has so many others come, each with one connection, and waits until all have sent their ClientHello.
    pub(crate) async fn more(&mut self, count: usize) {
        let said = watch::Sender::new(0);
        for index in 0..count {
            let (shared, address) = (Arc::clone(&self.shared), self.address);
            let (name, open) =
                (self.names[index % self.names.len()], Open { said: Some(said.clone()), ..shared.open() });
            self.clients.push(tokio::spawn(async move {
                entered(&shared, address, name, 1_000, open).await;
            }));
        }
        let mut said = said.subscribe();
        let waiting = tokio::time::timeout(PATIENCE, said.wait_for(|said| *said == count));
        waiting.await.expect("all say hello").unwrap();
    }

    /// Waits until so many connections that began after this moment have come to their end, whatever that was.
    pub(crate) async fn until_over(&self, since: u32, count: usize) {
        let mut over = self.shared.over.subscribe();
        let ended = |over: &Vec<usize>| over.iter().skip(since as usize).sum::<usize>();
        let mut known = 0;
        while known < count {
            let more = tokio::time::timeout(PATIENCE * 2, over.wait_for(|over| ended(over) > known)).await;
            known = ended(&more.expect("connections come and go").unwrap());
        }
    }

    /// Waits until every client's connection has begun after this moment.
    pub(crate) async fn until_all_begun(&self, since: u32) {
        let mut begun = self.shared.begun.subscribe();
        let all = |begun: &[u32; CLIENTS]| begun.iter().all(|began| *began >= since);
        tokio::time::timeout(PATIENCE * 2, begun.wait_for(all)).await.expect("clients come back").unwrap();
    }

    /// Waits until each of these pods has served a connection that began after this moment.
    pub(crate) async fn until_served_by(&self, since: u32, pods: &[usize]) {
        let mut over = self.shared.over.subscribe();
        let served = |_: &Vec<usize>| {
            let ledger = self.shared.ledger.lock().unwrap();
            let later = || ledger.connections.iter().rev().take_while(|connection| connection.ended >= since);
            let by =
                |pod| later().any(|one| one.began >= since && one.fate == Fate::Ok && one.pod == Some(pod));
            pods.iter().all(|pod| by(*pod))
        };
        let waiting = tokio::time::timeout(PATIENCE * 2, over.wait_for(served)).await;
        waiting.unwrap_or_else(|_| panic!("pods {pods:?} do not all serve again")).unwrap();
    }

    /// Lets the last ones end.
    pub(crate) async fn finish(self) -> (Ledger, u32) {
        self.shared.ended.send_replace(true);
        for client in self.clients {
            client.await.unwrap();
        }
        let ledger = std::mem::take(&mut *self.shared.ledger.lock().unwrap());
        (ledger, self.shared.now())
    }
}

/// A tunnel that stays open, over which requests are made.
pub(crate) struct Tunnel {
    stream: TlsStream<Heard>,
    open: Open,
}

impl Tunnel {
    /// Its client, as the gateway sees it.
    pub(crate) fn client(&self) -> SocketAddr {
        self.stream.get_ref().0.stream.local_addr().unwrap()
    }

    /// Asks for more than buffers hold, and reads nothing of it.
    pub(crate) async fn asks_for_much(&mut self) {
        self.stream.write_all(b"GET /bytes/30000000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        self.stream.flush().await.unwrap();
        self.stream.get_ref().0.stream.readable().await.unwrap();
    }
}

/// Tunnels that stay open; one that is lost is entered in the ledger, and opened again.
pub(crate) struct Standing {
    shared: Arc<Shared>,
    address: SocketAddr,
    name: &'static str,
    tunnels: Vec<Tunnel>,
    wanted: usize,
    /// Requests that were answered over them.
    pub(crate) answers: usize,
}

impl Standing {
    pub(crate) async fn open(load: &Load, address: SocketAddr, name: &'static str, wanted: usize) -> Self {
        let shared = Arc::clone(&load.shared);
        let mut standing = Self { shared, address, name, tunnels: Vec::new(), wanted, answers: 0 };
        standing.refill().await;
        standing
    }

    /// Opens as many as are missing.
    pub(crate) async fn refill(&mut self) {
        while self.tunnels.len() < self.wanted {
            let mut open = self.shared.open();
            match shake(&self.shared, self.address, self.name, &mut open).await {
                Ok(stream) => self.tunnels.push(Tunnel { stream, open }),
                Err(error) => drop(self.shared.close(open, Err(error))),
            }
        }
    }

    /// Has others in the place of all of them.
    pub(crate) async fn renew(&mut self) {
        for tunnel in std::mem::take(&mut self.tunnels) {
            self.shared.close(tunnel.open, Ok(()));
        }
        self.refill().await;
    }

    /// Some of them, which are nobody's loss any more.
    pub(crate) fn give_away(&mut self, count: usize) -> Vec<Tunnel> {
        self.tunnels.split_off(self.tunnels.len().saturating_sub(count))
    }

    /// Has every tunnel that is not with one of these pods answer.
    pub(crate) async fn ask(&mut self, except: &[usize]) {
        for mut tunnel in std::mem::take(&mut self.tunnels) {
            if tunnel.open.pod.is_some_and(|pod| except.contains(&pod)) {
                self.tunnels.push(tunnel);
                continue;
            }
            let asking = tokio::time::timeout(PATIENCE, request(&mut tunnel.stream));
            let error = match asking.await {
                Ok(Ok(())) => {
                    self.answers += 1;
                    self.tunnels.push(tunnel);
                    continue;
                }
                Ok(Err(error)) => client::Error::Handshake(error),
                Err(_) => client::Error::Timeout(PATIENCE),
            };
            self.shared.close(tunnel.open, Err(error));
        }
    }

    /// Ends them all, each as one that was served.
    pub(crate) fn finish(self) -> usize {
        for tunnel in self.tunnels {
            self.shared.close(tunnel.open, Ok(()));
        }
        self.answers
    }
}

async fn request(stream: &mut TlsStream<Heard>) -> io::Result<()> {
    stream.write_all(b"GET /hostname HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let mut answer = Vec::new();
    loop {
        let read = stream.read_buf(&mut answer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.to_ascii_lowercase();
        let length = length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        if Some(body.len()) == length.and_then(|length| length.parse().ok()) {
            return Ok(());
        }
    }
}
