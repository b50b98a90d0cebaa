//! Where the admin port is, and who may use it.
//!
//! On a loopback address or a Unix socket it is for whoever is on this machine. Anywhere else it wants TLS and a token,
//! and does not start without them: what it shows is the whole mesh, and it can end the process.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use eastgate_config::bootstrap::{Admin, AdminAddress};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::drain::Phase;
use crate::restart::{Kept, Sockets};

/// The setting of where operators are answered.
const KEY: &str = "admin.address";
/// For a client's TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Clients that are in it at once.
const HANDSHAKES: usize = 32;

/// The sockets of the process, and where it is in its life: nothing is answered while another process does yet.
type Shell<'a> = (&'a Sockets, &'a watch::Receiver<Phase>);

/// Answers whoever asks at the address of a setting.
///
/// # Errors
/// It cannot be bound.
pub fn open(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    (sockets, phase): Shell<'_>,
    key: &str,
    address: SocketAddr,
    router: Router,
) -> anyhow::Result<SocketAddr> {
    let (socket, kept) = bind(sockets, key, address)?;
    let bound = socket.local_addr()?;
    let turn = turn(phase);
    tasks.spawn(async move {
        let _kept = kept;
        turn.await?;
        Ok(axum::serve(socket, router).await?)
    });
    Ok(bound)
}

/// Answers operators, and gives where; an unspecified address for a Unix socket.
///
/// # Errors
/// It cannot be bound, its files cannot be read, or it would be open to others without TLS or a token.
pub fn guarded(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    shell: Shell<'_>,
    settings: &Admin,
    router: Router,
) -> anyhow::Result<SocketAddr> {
    let tls = settings.tls_cert_path.clone().zip(settings.tls_key_path.clone());
    let router = fenced(settings, router)?;
    let address = match &settings.address {
        AdminAddress::Unix(path) => {
            return unix(tasks, shell.1, path, router).map(|()| ([0, 0, 0, 0], 0).into());
        }
        AdminAddress::Tcp(address) => *address,
    };
    let guarded = tls.is_some() && settings.token_path.is_some();
    ensure!(
        address.ip().is_loopback() || guarded || settings.insecure,
        "admin.address: {address} is open to other machines; give admin.tls_cert_path, admin.tls_key_path and \
         admin.token_path, or a loopback address, or set admin.insecure if the network keeps others away"
    );
    let Some(files) = tls else { return open(tasks, shell, KEY, address, router) };
    certificate(&files).context("admin.tls_cert_path")?;
    let (socket, kept) = bind(shell.0, KEY, address)?;
    let (bound, turn) = (socket.local_addr()?, turn(shell.1));
    let (accepted, clients) = mpsc::channel(1);
    tasks.spawn(async move {
        let _kept = kept;
        turn.await?;
        Ok(accept(socket, files, accepted).await?)
    });
    tasks.spawn(async move { Ok(axum::serve(Encrypted { clients, bound }, router).await?) });
    Ok(bound)
}

/// Answers only who may ask: no page of another site, and where there is a token, whoever gives it.
///
/// # Errors
/// The token cannot be read.
pub fn fenced(settings: &Admin, router: Router) -> anyhow::Result<Router> {
    let router = router.layer(middleware::from_fn(no_other_sites));
    let Some(path) = &settings.token_path else { return Ok(router) };
    let path: Arc<Path> = path.as_path().into();
    token(&path).with_context(|| format!("admin.token_path: {}", path.display()))?;
    Ok(router.layer(middleware::from_fn_with_state(path, with_token)))
}

fn bind(sockets: &Sockets, key: &str, address: SocketAddr) -> anyhow::Result<(TcpListener, Kept)> {
    let socket = sockets.tcp(key, address);
    let (socket, kept) = socket.with_context(|| format!("{key}: cannot listen on {address}"))?;
    Ok((TcpListener::from_std(socket)?, kept))
}

/// Returns once it is this process that answers: the one before it does so until this one is ready.
fn turn(phase: &watch::Receiver<Phase>) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let mut phase = phase.clone();
    async move {
        phase.wait_for(|phase| *phase != Phase::Waiting).await.context("the gateway is gone")?;
        Ok(())
    }
}

fn unix(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    phase: &watch::Receiver<Phase>,
    path: &Path,
    router: Router,
) -> anyhow::Result<()> {
    let cannot = || format!("{KEY}: cannot listen on unix:{}", path.display());
    // Of a process that is taken over from, the path is taken in time. From any other it is not.
    let taking_over = *phase.borrow() == Phase::Waiting;
    let answered = !taking_over && std::os::unix::net::UnixStream::connect(path).is_ok();
    ensure!(!answered, "{}: another process answers there", cannot());
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let (beside, path) = (PathBuf::from(beside), path.to_owned());
    // What a process of this number has left.
    let _ = std::fs::remove_file(&beside);
    let socket = UnixListener::bind(&beside).with_context(cannot)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).with_context(cannot)?;
    if !taking_over {
        std::fs::rename(&beside, &path).with_context(cannot)?;
    }
    let turn = turn(phase);
    tasks.spawn(async move {
        turn.await?;
        if taking_over {
            std::fs::rename(&beside, &path).with_context(|| format!("{KEY}: unix:{}", path.display()))?;
        }
        Ok(axum::serve(socket, router).await?)
    });
    Ok(())
}

/// Accepts, and shakes hands with several at once: one that is silent keeps nobody waiting. The files are read for each
/// client, so that a renewed certificate is shown without a restart.
async fn accept(
    socket: TcpListener,
    files: (PathBuf, PathBuf),
    accepted: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let (client, address) = socket.accept().await?;
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
        let config = match certificate(&files) {
            Ok(config) => config,
            Err(error) => {
                tracing::warn!("admin.tls_cert_path: {error:#}");
                continue;
            }
        };
        let accepted = accepted.clone();
        tokio::spawn(async move {
            let handshake = TlsAcceptor::from(Arc::new(config)).accept(client);
            if let Ok(Ok(client)) = tokio::time::timeout(HANDSHAKE, handshake).await {
                let _ = accepted.send((client, address)).await;
            }
            drop(place);
        });
    }
}

fn certificate((chain, key): &(PathBuf, PathBuf)) -> anyhow::Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read {}", chain.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_no_client_auth().with_single_cert(chain, key)?)
}

/// Clients whose TLS is agreed.
struct Encrypted {
    clients: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    bound: SocketAddr,
}

impl Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.clients.recv().await {
            Some(client) => client,
            // Whoever accepts has ended, and with it the process will.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.bound)
    }
}

fn token(path: &Path) -> anyhow::Result<[u8; 32]> {
    let text = std::fs::read_to_string(path)?;
    ensure!(!text.trim().is_empty(), "the file is empty");
    Ok(Sha256::digest(text.trim()).into())
}

/// Only who knows the token. It is read for each request, so that it can be changed, and digests are compared: how long
/// that takes says nothing of the token.
async fn with_token(State(path): State<Arc<Path>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    let right = token(&path).is_ok_and(|token| given.is_some_and(|given| token == *Sha256::digest(given)));
    match right {
        true => next.run(request).await,
        false => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            let text = "give the token of admin.token_path: Authorization: Bearer TOKEN\n";
            (StatusCode::UNAUTHORIZED, challenge, text).into_response()
        }
    }
}

/// A page of another site that an operator's browser shows must not change anything here.
async fn no_other_sites(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let foreign = text(header::ORIGIN).is_some_and(|origin| {
        let host = origin.split_once("://").map_or(origin, |(_, host)| host);
        Some(host) != text(header::HOST)
    });
    match foreign && request.method() != Method::GET {
        true => (StatusCode::FORBIDDEN, "a page of another site may not do that\n").into_response(),
        false => next.run(request).await,
    }
}
