//! Asks a running gateway's admin port.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::Args;
use eastgate_config::bootstrap::Admin;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// Where a gateway's admin port is, and how one gets in.
#[derive(Debug, Clone, Args)]
pub struct AdminPort {
    /// The gateway's admin port: HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH
    #[arg(long, global = true, value_name = "ADDRESS", default_value = DEFAULT)]
    pub admin: String,
    /// A file with the admin port's token, where it wants one
    #[arg(long, global = true, value_name = "FILE")]
    pub admin_token: Option<PathBuf>,
    /// A file with the root certificate for an https:// admin port
    #[arg(long, global = true, value_name = "FILE")]
    pub admin_ca: Option<PathBuf>,
}

/// Where a gateway's admin port is where nothing else is set.
pub const DEFAULT: &str = "127.0.0.1:15000";

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
        ensure!(self.status == StatusCode::OK, "{}", String::from_utf8_lossy(&self.body).trim_end());
        Ok(self.body)
    }
}

impl AdminPort {
    /// Sends one request without a body.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Answer> {
        let admin = &self.admin;
        let none = || format!("no gateway answers at {admin}; give --admin ADDRESS of one");
        let token = self.admin_token.as_deref().map(token).transpose()?;
        let request = Request::builder().method(method).uri(path);
        let request = match token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        };
        if let Some(socket) = admin.strip_prefix("unix:") {
            let stream = UnixStream::connect(socket).await.with_context(none)?;
            return exchange(stream, request.header(header::HOST, "localhost")).await;
        }
        let (secure, address) = match admin.strip_prefix("https://") {
            Some(address) => (true, address),
            None => (false, admin.strip_prefix("http://").unwrap_or(admin)),
        };
        let address = address.trim_end_matches('/');
        let stream = TcpStream::connect(address).await.with_context(none)?;
        let request = request.header(header::HOST, address);
        if !secure {
            return exchange(stream, request).await;
        }
        let connector = TlsConnector::from(Arc::new(self.roots()?));
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).with_context(none)?;
        exchange(connector.connect(name, stream).await.with_context(none)?, request).await
    }

    /// Asks, and prints the answer.
    ///
    /// # Errors
    /// Nobody answers at the admin port, or what answers does not know.
    pub async fn print(&self, method: Method, path: &str) -> anyhow::Result<ExitCode> {
        let body = self.ask(method, path).await?.good()?;
        let mut out = std::io::stdout();
        out.write_all(&body)?;
        if !body.ends_with(b"\n") {
            writeln!(out)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn roots(&self) -> anyhow::Result<ClientConfig> {
        let path = self.admin_ca.as_deref().context("give --admin-ca FILE for an https:// admin port")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).with_context(|| path.display().to_string())? {
            roots.add(certificate.with_context(|| path.display().to_string())?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(config.with_root_certificates(roots).with_no_client_auth())
    }
}

impl From<&Admin> for AdminPort {
    /// The port of a gateway that has these settings.
    fn from(settings: &Admin) -> Self {
        let scheme = if settings.tls_cert_path.is_some() { "https://" } else { "" };
        Self {
            admin: format!("{scheme}{}", settings.address),
            admin_token: settings.token_path.clone(),
            admin_ca: settings.tls_cert_path.clone(),
        }
    }
}

fn token(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--admin-token {}", path.display()))?;
    Ok(text.trim().to_owned())
}

async fn exchange<S>(stream: S, request: hyper::http::request::Builder) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
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
