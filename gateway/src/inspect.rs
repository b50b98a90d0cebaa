//! Reads what a connection begins with off a socket, within the limits on its size and time: a PROXY protocol header
//! where the listener expects one, then the ClientHello.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::time::Duration;

use eastgate_config::listener::ProxyProtocol;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::client_hello::{ClientHello, Inspector, Refusal};
use crate::proxy_protocol::{self, Told, Verdict};
use crate::relay;

/// In how many pieces a hello may come, each looked at when it does. On an ordinary line the largest comes in fewer, because
/// whatever has arrived is one piece.
const PIECES: u32 = 8;
/// How long pieces are gathered after that, about: a client that drips costs so many looks a second, and not one for each byte.
const GATHER: Duration = Duration::from_millis(250);

/// What a connection is to begin with.
#[derive(Debug, Clone, Copy)]
pub struct Beginning {
    /// A PROXY protocol header.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// A ClientHello. Without one, the connection is relayed as it is.
    pub hello: bool,
    /// The largest ClientHello.
    pub max_hello_bytes: usize,
    /// For all of it. It is absolute, so that a client that drips is cut like one that is silent.
    pub deadline: Instant,
}

/// What a connection began with.
#[derive(Debug)]
pub struct Begun {
    /// The ClientHello, where one was expected.
    pub hello: Option<ClientHello>,
    /// Every byte that was read, but for the PROXY protocol header: the endpoint gets these very bytes, because the
    /// ClientHello is hashed into the TLS transcript.
    pub raw: Vec<u8>,
    /// What the header tells, where there was one.
    pub told: Option<Box<Told>>,
}

/// Why a connection's beginning is refused.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum Error {
    /// By its ClientHello.
    #[error(transparent)]
    Hello(#[from] Refusal),
    /// By its PROXY protocol header.
    #[error(transparent)]
    Proxy(#[from] proxy_protocol::Error),
}

/// Reads until all that is expected is there.
///
/// # Errors
/// The bytes are refused, or did not come in time, or the client left.
pub async fn beginning(client: &TcpStream, expected: Beginning) -> Result<Begun, Error> {
    let (told, rest) = match expected.proxy_protocol {
        // Boxed, because most listeners expect none, and all would need the room.
        Some(rules) => Box::pin(proxy_header(client, rules, expected.deadline)).await?,
        None => (None, Vec::new()),
    };
    if !expected.hello {
        return Ok(Begun { hello: None, raw: rest, told });
    }
    let (hello, raw) = client_hello(client, &rest, expected).await?;
    Ok(Begun { hello: Some(hello), raw, told })
}

/// How a wait for bytes ended without any.
enum Ended {
    Closed,
    TooSlow,
}

/// Reads at most so many bytes and gives them to `take`. They are often there already, so reading is tried before
/// waiting; the deadline is looked at between reads, too.
async fn read(
    client: &TcpStream,
    most: usize,
    deadline: Instant,
    mut take: impl FnMut(&[u8]),
) -> Result<(), Ended> {
    loop {
        match relay::read(client, most, &mut take) {
            Ok(0) => return Err(Ended::Closed),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Err(Ended::Closed),
        }
        match timeout_at(deadline, poll_fn(|cx| client.poll_read_ready(cx))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Ended::Closed),
            Err(_) => return Err(Ended::TooSlow),
        }
    }
}

async fn client_hello(
    client: &TcpStream,
    already: &[u8],
    expected: Beginning,
) -> Result<(ClientHello, Vec<u8>), Refusal> {
    let mut inspector = Inspector::new(expected.max_hello_bytes);
    inspector.push(already);
    let (mut late, mut pieces) = (false, 0);
    loop {
        match inspector.advance()? {
            Some(hello) => return Ok((hello, inspector.into_raw())),
            None if late => return Err(inspector.too_slow()),
            None => {}
        }
        pieces += 1;
        if pieces > PIECES {
            // Not all at once, where many drip in step.
            let gather = GATHER.mul_f64(0.5 + fastrand::f64());
            sleep_until(expected.deadline.min(Instant::now() + gather)).await;
        }
        let most = inspector.wanted();
        match read(client, most, expected.deadline, |bytes| inspector.push(bytes)).await {
            Ok(()) => {}
            Err(Ended::Closed) => return Err(inspector.closed()),
            Err(Ended::TooSlow) => return Err(inspector.too_slow()),
        }
        // What is there by now is still looked at: it may be this process that was stopped, and not the client that is slow.
        late = Instant::now() >= expected.deadline;
    }
}

/// Reads the header, and gives what it tells and the bytes that came behind it.
async fn proxy_header(
    client: &TcpStream,
    rules: ProxyProtocol,
    deadline: Instant,
) -> Result<(Option<Box<Told>>, Vec<u8>), proxy_protocol::Error> {
    let mut bytes = Vec::new();
    loop {
        match proxy_protocol::parse(&bytes)? {
            Verdict::NeedMore => {}
            Verdict::Absent if rules.optional => return Ok((None, bytes)),
            Verdict::Absent => return Err(proxy_protocol::Error::Missing),
            Verdict::Header(told, length) => return Ok((Some(Box::new(told)), bytes.split_off(length))),
        }
        match read(client, 512, deadline, |piece| bytes.extend_from_slice(piece)).await {
            Ok(()) => {}
            Err(Ended::Closed | Ended::TooSlow) => return Err(proxy_protocol::Error::Unfinished),
        }
    }
}
