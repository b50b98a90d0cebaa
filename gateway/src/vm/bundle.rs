//! `eastgate vm bundle`: the directory to copy to a VM, checked as the VM would.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use eastgate_config::bootstrap::Vm;
use eastgate_config::listener::Role;
use eastgate_config::server_name::SubsetKey;
use eastgate_config::snapshot::Snapshot;
use eastgate_config::vm::{GATEWAY, Hosts};
use serde::Serialize;

use super::{layout, notes, read, source, sums, unit};
use crate::source::files;

/// `eastgate vm bundle`
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// The directory to make; it must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The address of the mesh's gateway
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: String,
    /// The mesh's root certificate
    #[arg(long, value_name = "FILE")]
    pub root_cert: PathBuf,
    /// The VM's certificate chain
    #[arg(long, value_name = "FILE", requires = "key", required_unless_present = "token")]
    pub cert_chain: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cert_chain")]
    pub key: Option<PathBuf>,
    /// A token, with which the VM gets its certificate from the mesh's CA
    #[arg(long, value_name = "FILE")]
    pub token: Option<PathBuf>,
    /// ServiceEntries of the services that the VM may use: a directory or a file
    #[arg(long, value_name = "PATH")]
    pub services: Option<PathBuf>,
    /// A cluster.env to begin with
    #[arg(long, value_name = "FILE")]
    pub cluster_env: Option<PathBuf>,
    /// ISTIO_SERVICE_CIDR: what the firewall redirects
    #[arg(long, value_name = "CIDR,...")]
    pub service_cidr: Option<String>,
    /// ISTIO_INBOUND_PORTS: where the mesh may connect to
    #[arg(long, value_name = "PORT,...")]
    pub inbound_ports: Option<String>,
    /// ISTIO_SVC_IP: the VM's address in the mesh
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// ISTIO_NAMESPACE: the VM's namespace
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// SERVICE_ACCOUNT: the VM's service account
    #[arg(long, value_name = "NAME")]
    pub service_account: Option<String>,
    /// CA_ADDR: the mesh's CA [default with --token: istiod.istio-system.svc:15012]
    #[arg(long, value_name = "HOST:PORT")]
    pub ca: Option<String>,
    /// Have the firewall redirect connections, instead of binding services' addresses
    #[arg(long)]
    pub redirect: bool,
    /// Who runs the process on the VM
    #[arg(long, value_name = "NAME", default_value = layout::USER)]
    pub user: String,
    /// Print text or JSON
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// A directory that was made.
#[derive(Debug, Serialize)]
pub struct Bundled {
    directory: PathBuf,
    files: Vec<String>,
    /// The services that have an address in it.
    services: Vec<String>,
    notes: Vec<String>,
}

impl Display for Bundled {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        write!(
            f,
            "{}: {} files, {} services; copy it to the VM, and there: eastgate vm install {0}",
            self.directory.display(),
            self.files.len(),
            self.services.len()
        )
    }
}

/// Makes the directory.
///
/// # Errors
/// Something that was given cannot be used; nothing is left behind then.
pub fn bundle(args: &BundleArgs) -> anyhow::Result<Bundled> {
    let out = &args.out;
    let is_there = out.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    ensure!(!is_there, "{} is not empty; give a directory that is, or delete it", out.display());
    let services = args.services.as_deref().map(files::read).transpose()?.unwrap_or_default();
    let mut files = given(args)?;
    for (path, text) in &services {
        let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.with_context(|| format!("{path} has no name"))?;
        let before = files.insert(name.clone(), text.clone().into_bytes());
        ensure!(before.is_none(), "there are two files named {name} among the services; rename {path}");
    }
    let (mut hosts, snapshot) = checked(args, &files, services)?;
    for (address, host) in met(&snapshot) {
        hosts.add(address, &host);
    }
    files.insert("hosts".into(), hosts.to_string().into_bytes());
    files.insert(sums::FILE.into(), sums::write(&files).into_bytes());

    // It is made beside its place, so that there is a whole one or none.
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = || format!("cannot write in {}", parent.display());
    std::fs::create_dir_all(parent).with_context(cannot)?;
    let draft = tempfile::Builder::new().prefix(".vm-").tempdir_in(parent).with_context(cannot)?;
    for (name, bytes) in &files {
        let mode = layout::place(name).map_or(0o644, |(_, mode)| mode);
        super::write(&draft.path().join(name), bytes, mode)?;
    }
    let _ = std::fs::remove_dir(out);
    std::fs::rename(draft.keep(), out).with_context(|| format!("cannot make {}", out.display()))?;
    Ok(Bundled {
        directory: out.clone(),
        files: files.into_keys().collect(),
        services: met(&snapshot).into_iter().map(|(_, host)| host).collect(),
        notes: notes(&snapshot),
    })
}

/// Checks it as the VM would, under the names that the files have here.
fn checked(
    args: &BundleArgs,
    files: &BTreeMap<String, Vec<u8>>,
    services: Vec<(String, String)>,
) -> anyhow::Result<(Hosts, Snapshot)> {
    let mut paths = source::Paths::new(&args.out);
    paths.root.clone_from(&args.root_cert);
    if let (Some(chain), Some(key)) = (&args.cert_chain, &args.key) {
        (paths.chain, paths.key) = (chain.clone(), key.clone());
    }
    source::check_certificate(&paths, args.token.is_some())?;
    let text = |name: &str| String::from_utf8_lossy(files.get(name).map_or(&[], Vec::as_slice)).into_owned();
    let named = args.cluster_env.as_ref().unwrap_or(&args.out);
    let contents = source::Contents::given(named, &text("cluster.env"), &text("hosts"), services);
    let vm = Vm { redirect: args.redirect.then(|| ([127, 0, 0, 1], 15001).into()), ..Vm::default() };
    let (machine, snapshot) = read(&contents, vm)?;
    Ok((machine.hosts, snapshot))
}

/// What the arguments make of it.
fn given(args: &BundleArgs) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut files = BTreeMap::new();
    let named = [
        ("root-cert.pem", Some(&args.root_cert)),
        ("cert-chain.pem", args.cert_chain.as_ref()),
        ("key.pem", args.key.as_ref()),
        ("istio-token", args.token.as_ref()),
    ];
    for (name, path) in named {
        if let Some(path) = path {
            files.insert(name.to_owned(), read(path)?);
        }
    }
    let begun = args.cluster_env.as_deref().map(read).transpose()?.unwrap_or_default();
    files.insert("cluster.env".into(), environment(args, &begun).into_bytes());
    let mut hosts = Hosts::default();
    if let Ok(address) = args.gateway.parse::<IpAddr>() {
        for name in ["istio-citadel", "istio-pilot", "istio-pilot.istio-system", "istiod.istio-system.svc"] {
            hosts.add(address, name);
        }
    }
    files.insert("hosts".into(), hosts.to_string().into_bytes());
    files.insert(unit::FILE.into(), unit::unit(&args.user, args.redirect).into_bytes());
    Ok(files)
}

fn environment(args: &BundleArgs, begun: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(begun).into_owned();
    if text.is_empty() {
        text = "ISTIO_CP_AUTH=MUTUAL_TLS\n".into();
    } else if !text.ends_with('\n') {
        text.push('\n');
    }
    let address = args.address.map(|address| address.to_string());
    let by_token = args.token.as_ref().map(|_| "istiod.istio-system.svc:15012".to_owned());
    for (name, value) in [
        ("ISTIO_SERVICE_CIDR", &args.service_cidr),
        ("ISTIO_INBOUND_PORTS", &args.inbound_ports),
        ("ISTIO_SVC_IP", &address),
        ("ISTIO_NAMESPACE", &args.namespace),
        ("SERVICE_ACCOUNT", &args.service_account),
        ("CA_ADDR", &args.ca.clone().or(by_token)),
        (GATEWAY, &Some(args.gateway.clone())),
    ] {
        if let Some(value) = value {
            let _ = writeln!(text, "{name}='{value}'");
        }
    }
    text
}

/// The addresses of services, for `/etc/hosts`.
fn met(snapshot: &Snapshot) -> Vec<(IpAddr, String)> {
    let originating = snapshot.listeners.values().filter(|listener| listener.options.role == Role::Originate);
    let chains = originating.flat_map(|listener| &listener.filter_chains);
    let mut found: Vec<_> = chains
        .filter_map(|chain| {
            let address = chain.matches.connection.destination_ranges.first()?.single()?;
            let name = &chain.route.clusters.first()?.name;
            Some((address, SubsetKey::parse(name)?.host.to_owned()))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}
