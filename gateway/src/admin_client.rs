//! Asks a running gateway's admin port.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// How it went.
    pub status: StatusCode,
    /// What stands before the body.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body, where the answer is that all went well.
    ///
    /// # Errors
    /// It did not; the error is what the gateway says of it.
    pub fn good(self) -> anyhow::Result<Bytes> {
        match self.status {
            StatusCode::OK => Ok(self.body),
            _ => anyhow::bail!("{}", String::from_utf8_lossy(&self.body).trim_end()),
        }
    }
}

/// Sends one request, without a body, to an admin port: `HOST:PORT`, `http://HOST:PORT` or `unix:/PATH`.
///
/// # Errors
/// Nobody answers there.
pub async fn ask(admin: &str, method: Method, path: &str) -> anyhow::Result<Answer> {
    let none = || format!("no gateway answers at {admin}; give --admin ADDRESS of one");
    match admin.strip_prefix("unix:") {
        Some(socket) => {
            let stream = UnixStream::connect(socket).await.with_context(none)?;
            exchange(stream, "localhost", method, path).await
        }
        None => {
            let address = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
            let stream = TcpStream::connect(address).await.with_context(none)?;
            exchange(stream, address, method, path).await
        }
    }
}

/// Asks, and prints the answer.
///
/// # Errors
/// Nobody answers at the admin port, or what answers does not know.
pub async fn print(admin: &str, method: Method, path: &str) -> anyhow::Result<ExitCode> {
    let body = ask(admin, method, path).await?.good()?;
    std::io::stdout().write_all(&body)?;
    if !body.ends_with(b"\n") {
        println!();
    }
    Ok(ExitCode::SUCCESS)
}

async fn exchange<S>(stream: S, host: &str, method: Method, path: &str) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request =
        Request::builder().method(method).uri(path).header(header::HOST, host).body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

/// A value for a path's query: everything but letters, digits and three signs as `%XX`.
pub fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}
