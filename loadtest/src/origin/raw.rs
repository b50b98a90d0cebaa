//! Plain TCP origins behind passthrough: they see the raw bytes, ClientHello included, and do one thing with them.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::TcpStream;
use tokio::select;

use super::{End, Ending, Error, Origin, Service, finish};
use crate::content::{Content, Digest};

/// How much is read at once.
const BUFFER: usize = 64 * 1024;

/// What a plain TCP origin does with each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawOrigin {
    /// Sends back what it reads, and ends when the other side has ended.
    Echo,
    /// Reads to the end, then answers with one line, the SHA-256 in hexadecimal and the length, and closes: an upload
    /// that is waited for, which fails where a gateway does not relay a half-closed connection.
    Digest,
    /// Sends that many bytes of [`content`](crate::content), half-closes, and reads what is left, so that no RST
    /// overtakes its bytes.
    Send(u64),
    /// Resets the connection at its first bytes. Not before: a reset that overtakes the other side's `connect` is a
    /// connection that failed, not one that was reset.
    Reset,
    /// Reads what comes first, says this, and closes.
    Say(Vec<u8>),
    /// Reads and says nothing, also after the other side has ended.
    Silence,
    /// Never reads and never writes, so that the sender meets full buffers.
    NeverRead,
    /// Speaks before it has read anything, as an SMTP server does, then echoes.
    SpeakFirst(Vec<u8>),
}

impl RawOrigin {
    /// Starts the origin on the current tokio runtime; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(self, address: SocketAddr) -> Result<Origin, Error> {
        Origin::listen(address, Service::Raw(Arc::new(self))).await
    }
}

pub(super) async fn serve(behaviour: &RawOrigin, mut stream: TcpStream, mut end: End) {
    let ending = select! {
        ending = end.wait() => ending,
        // A client that goes away is the test's business, not the origin's.
        done = behave(behaviour, &mut stream) => done.unwrap_or(Ending::Close),
    };
    finish(&stream, ending);
}

async fn behave(behaviour: &RawOrigin, stream: &mut TcpStream) -> io::Result<Ending> {
    match behaviour {
        RawOrigin::Echo => echo(stream).await?,
        RawOrigin::Digest => digest(stream).await?,
        RawOrigin::Send(length) => send(stream, *length).await?,
        RawOrigin::Reset => {
            let _ = stream.read(&mut vec![0; BUFFER]).await?;
            return Ok(Ending::Reset);
        }
        RawOrigin::Say(answer) => {
            let _ = stream.read(&mut vec![0; BUFFER]).await?;
            stream.write_all(answer).await?;
        }
        RawOrigin::Silence => {
            copy(stream, &mut sink()).await?;
            pending::<()>().await;
        }
        RawOrigin::NeverRead => pending().await,
        RawOrigin::SpeakFirst(greeting) => {
            stream.write_all(greeting).await?;
            echo(stream).await?;
        }
    }
    Ok(Ending::Close)
}

async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let (mut read, mut write) = stream.split();
    copy(&mut read, &mut write).await?;
    write.shutdown().await
}

async fn digest(stream: &mut TcpStream) -> io::Result<()> {
    let mut digest = Digest::default();
    let mut buffer = vec![0; BUFFER];
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            length => digest.add(&buffer[..length]),
        }
    }
    let (hash, length) = digest.finish();
    stream.write_all(format!("{hash} {length}\n").as_bytes()).await?;
    stream.shutdown().await
}

async fn send(stream: &mut TcpStream, length: u64) -> io::Result<()> {
    let mut content = Content::new(length);
    while let Some(piece) = content.piece() {
        stream.write_all(&piece).await?;
    }
    stream.shutdown().await?;
    copy(stream, &mut sink()).await?;
    Ok(())
}
