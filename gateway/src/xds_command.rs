//! `eastgate xds`: asks a running gateway where its conversation with the control plane stands.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Ask a running gateway about its control plane.
#[derive(Debug, Clone, Args)]
pub struct XdsArgs {
    /// What to ask
    #[command(subcommand)]
    pub question: Question,
    /// The gateway's admin port
    #[arg(long, global = true, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin: String,
    /// Print text or JSON
    #[arg(short, long, global = true, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// What to ask.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Question {
    /// Versions, nonces and ages of each type; what waits, is missing, or is kept back
    Status,
    /// The last pushes, and what each changed
    Log,
    /// What changed between two pushes of the log
    Diff {
        /// A version, or #NUMBER of a push
        from: String,
        /// A version, or #NUMBER of a push
        to: String,
    },
    /// Let go of what the blast-radius guard keeps back
    Release,
}

impl Question {
    fn request(&self) -> (Method, String) {
        match self {
            Self::Status => (Method::GET, "/xds?".into()),
            Self::Log => (Method::GET, "/xds/log?".into()),
            Self::Diff { from, to } => {
                (Method::GET, format!("/xds/diff?from={}&to={}&", escaped(from), escaped(to)))
            }
            Self::Release => (Method::POST, "/xds/release?".into()),
        }
    }
}

/// Everything but letters, digits and three signs as `%XX`.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}

/// Asks, and prints the answer.
///
/// # Errors
/// Nobody answers at the admin port, or what answers does not know.
pub async fn run(args: &XdsArgs) -> anyhow::Result<ExitCode> {
    let (method, path) = args.question.request();
    let format = if args.output == "json" { "format=json" } else { "" };
    let path = format!("{path}{format}");
    ask(&args.admin, method, path.trim_end_matches(['?', '&'])).await
}

/// Asks the admin port of a running gateway, and prints the answer.
///
/// # Errors
/// Nobody answers there, or what answers does not know.
pub async fn ask(admin: &str, method: Method, path: &str) -> anyhow::Result<ExitCode> {
    let stream = TcpStream::connect(admin)
        .await
        .with_context(|| format!("no gateway answers at {admin}; give the address of one's admin port"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request =
        Request::builder().method(method).uri(path).header(header::HOST, admin).body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if status != StatusCode::OK {
        anyhow::bail!("{}", String::from_utf8_lossy(&body).trim_end());
    }
    std::io::stdout().write_all(&body)?;
    if !body.ends_with(b"\n") {
        println!();
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_may_have_any_characters() {
        let question = Question::Diff { from: "2026-11-22T15:00:00Z/1".into(), to: "#7 &".into() };
        assert_eq!(question.request().1, "/xds/diff?from=2026-11-22T15%3A00%3A00Z%2F1&to=%237%20%26&");
    }
}
