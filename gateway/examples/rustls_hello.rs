//! Writes the ClientHello of this workspace's rustls to standard output: `rustls_hello NAME [PROTOCOL]...`.
//! One of the clients of `tests/hellos/capture.py`.

use std::io::Write as _;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().ok_or_else(|| anyhow::anyhow!("a server name is missing"))?;
    let mut config =
        ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = args.map(String::into_bytes).collect();
    let mut client = ClientConnection::new(Arc::new(config), name.try_into()?)?;
    let mut flight = Vec::new();
    client.write_tls(&mut flight)?;
    std::io::stdout().write_all(&flight)?;
    Ok(())
}
