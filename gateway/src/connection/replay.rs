//! Sends an endpoint the ClientHello and hears what it answers first. Until then the hello is all that was sent, and it
//! is still held: an endpoint that says nothing is left for another, and the client does not notice.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::pin::pin;
use std::time::Duration;

use eastgate_config::bootstrap;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{Error, connect, cut};
use crate::access_log;
use crate::relay::{self, Handed, Side};
use crate::server_hello::Answer;
use crate::table::Routed;
use crate::upstream::health::Outcome;
use crate::upstream::{Attempts, Upstream};

/// A server's first flight is a few kilobytes, and a client's fresh socket has room for as many.
const FIRST_READ: usize = 16 * 1024;

/// How an endpoint was heard.
enum Heard {
    /// It answered; this is left to be written to the client.
    Answered(Answer, Handed),
    /// The client has sent more than its hello, or has finished: no other endpoint would hear the same.
    Client(Handed),
    /// The client has reset the connection.
    ClientLeft,
    /// It closed.
    Closed,
    /// It reset the connection.
    Broken(io::Error),
    /// It has said nothing in time; this is left to be written to it.
    Nothing(Handed),
}

/// Replays the hello to this endpoint, and to others while it is not answered. An endpoint's own alert is an answer, and
/// may be the client's fault: it is passed on as it came. When no other endpoint can be had, the client gets what the
/// last one did.
///
/// # Errors
/// The last endpoint reset the connection, or the client left.
pub(super) async fn replay(
    client: &TcpStream,
    mut upstream: Upstream,
    hello: Vec<u8>,
    (routed, attempts): (&Routed, &mut Attempts<'_>),
    (settings, record): (&bootstrap::Upstream, &mut access_log::Open),
) -> Result<(Upstream, Handed, Option<Answer>), Error> {
    loop {
        let (outcome, end) = match hear(client, &upstream.stream, &hello, settings.answer_timeout).await {
            Heard::Answered(answer, handed) => {
                upstream.replied(&routed.cluster, outcome(answer));
                return Ok((upstream, handed, Some(answer)));
            }
            Heard::Client(handed) => return Ok((upstream, handed, None)),
            Heard::ClientLeft => {
                cut(&upstream.stream);
                return Err(Error::ClientLeft);
            }
            // What is left to the relay is to find the FIN again, and pass it on.
            Heard::Closed => (
                Outcome::ClosedBeforeAnswer,
                Ok(Handed { moved: (hello.len() as u64, 0), ..Handed::default() }),
            ),
            Heard::Broken(source) => {
                (Outcome::ResetBeforeAnswer, Err(relay::Error::Broken { side: Side::Upstream, source }))
            }
            Heard::Nothing(handed) => (Outcome::SilentTooLong, Ok(handed)),
        };
        upstream.replied(&routed.cluster, outcome);
        attempts.failed();
        attempts.tell(upstream.endpoint.endpoint().address, || outcome.to_string());
        // Kept until another is connected, because it may yet speak.
        match connect(client, routed, attempts, record).await {
            Ok(other) => upstream = other,
            Err(Error::ClientLeft) => return Err(Error::ClientLeft),
            Err(_) => {
                super::note_endpoint(record, &upstream);
                let handed = end.inspect_err(|_| cut(client))?;
                return Ok((upstream, handed, None));
            }
        }
    }
}

fn outcome(answer: Answer) -> Outcome {
    match answer {
        Answer::ServerHello | Answer::HelloRetryRequest | Answer::Cut => Outcome::Answered,
        Answer::Alert(description) => Outcome::Alert(description),
        Answer::NotTls => Outcome::NotTls,
    }
}

/// Writes the hello and reads the first bytes of the answer, through the thread's buffer and on to the client: the reads
/// and writes that the relay would have made.
async fn hear(client: &TcpStream, upstream: &TcpStream, hello: &[u8], patience: Duration) -> Heard {
    let mut unsent = hello;
    let mut deadline = pin!(sleep(patience));
    loop {
        let mut gone = None;
        while !unsent.is_empty() && gone.is_none() {
            match upstream.try_write(unsent) {
                Ok(written) => unsent = unsent.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => gone = Some(error),
            }
        }
        let sent = (hello.len() - unsent.len()) as u64;
        let mut answered = None;
        let read = relay::read(upstream, FIRST_READ, |bytes| {
            let written = client.try_write(bytes).unwrap_or_default();
            let rest = bytes.get(written..).unwrap_or_default();
            answered = Some((Answer::of(bytes), written as u64, rest.to_vec()));
        });
        let handed = |moved, to_client| Handed {
            to_upstream: unsent.to_vec(),
            to_client,
            moved: (sent, moved),
            ended: [false; 2],
        };
        match (read, answered, gone) {
            (_, Some((answer, moved, rest)), _) => return Heard::Answered(answer, handed(moved, rest)),
            // The kernel tells of a reset once, so what reading says after that is no FIN.
            (_, None, Some(error)) => return Heard::Broken(error),
            (Ok(_), ..) => return Heard::Closed,
            (Err(error), ..) if error.kind() == ErrorKind::WouldBlock => {}
            (Err(error), ..) => return Heard::Broken(error),
        }
        let wanted = match unsent {
            [] => Interest::READABLE,
            _ => Interest::READABLE | Interest::WRITABLE,
        };
        tokio::select! {
            biased;
            ready = upstream.ready(wanted) => if let Err(error) = ready { return Heard::Broken(error) },
            spoken = spoke(client) => return match spoken {
                Ok(()) => Heard::Client(handed(0, Vec::new())),
                Err(_) => Heard::ClientLeft,
            },
            () = &mut deadline, if !patience.is_zero() => return Heard::Nothing(handed(0, Vec::new())),
        }
    }
}

/// Waits until there is something to read from the client, be it its FIN.
async fn spoke(client: &TcpStream) -> io::Result<()> {
    loop {
        poll_fn(|cx| client.poll_read_ready(cx)).await?;
        // The hello may have filled the buffer that it was read into, and then nobody knows whether there is more.
        let peek = || SockRef::from(client).peek(&mut [MaybeUninit::uninit()]);
        match client.try_io(Interest::READABLE, peek) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            seen => return seen.map(drop),
        }
    }
}
