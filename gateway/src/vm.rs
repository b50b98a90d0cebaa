//! `eastgate vm`: what is done for a VM beside running on it: its directory is made, laid out, and taken away again.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use eastgate_config::bootstrap::{Settings, Vm};
use eastgate_config::snapshot::Snapshot;
use eastgate_config::vm::Machine;

use crate::app;
use crate::source::vm as source;

mod bundle;
mod install;
mod layout;
mod rules;
mod sums;
mod unit;

pub use bundle::{BundleArgs, bundle};
pub use install::{InstallArgs, UninstallArgs, install, uninstall};

/// `eastgate vm rules`
#[derive(Debug, Args)]
pub struct RulesArgs {
    /// The VM's directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/istio/envoy")]
    pub config_dir: PathBuf,
    /// Let the mesh in to this port, beside ISTIO_INBOUND_PORTS (repeatable)
    #[arg(long, value_name = "PORT")]
    pub inbound: Vec<u16>,
    /// Whose own connections are not redirected
    #[arg(long, value_name = "NAME", default_value = layout::USER)]
    pub user: String,
}

/// Prints the rules.
///
/// # Errors
/// The directory cannot be used.
pub fn rules(args: &RulesArgs) -> anyhow::Result<()> {
    let local = |port: &u16| (*port, ([127, 0, 0, 1], *port).into());
    let vm = Vm {
        redirect: Some(([127, 0, 0, 1], rules::OUTBOUND).into()),
        inbound_redirect: Some(([0, 0, 0, 0], rules::INBOUND).into()),
        inbound: args.inbound.iter().map(local).collect(),
        ..Vm::default()
    };
    let (machine, snapshot) = read(&source::Contents::read(&args.config_dir)?, vm)?;
    print!("{}", rules::rules(&machine, &snapshot, &args.user));
    Ok(())
}

/// What a VM would make of a directory, certificates left aside.
fn read(contents: &source::Contents, vm: Vm) -> anyhow::Result<(Machine, Snapshot)> {
    let settings = Settings { vm, ..Settings::default() };
    let (machine, snapshot) = source::read(contents, &settings, app::options(&settings)?)?;
    if let Some(rejection) = snapshot.rejections.first() {
        bail!("{rejection}");
    }
    Ok((machine, snapshot))
}

/// The same, saying what may surprise.
fn check(contents: &source::Contents, vm: Vm) -> anyhow::Result<(Machine, Snapshot)> {
    let (machine, snapshot) = read(contents, vm)?;
    for notice in &snapshot.notices {
        println!("note: {notice}");
    }
    Ok((machine, snapshot))
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    layout::write(path, bytes, mode).with_context(|| format!("cannot write {}", path.display()))
}
