//! `eastgate vm`: what is done for a VM beside running on it: its directory is made, laid out, and taken away again.

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use eastgate_config::bootstrap::{Settings, Vm};
use eastgate_config::snapshot::Snapshot;
use eastgate_config::vm::Machine;
use serde::Serialize;

use crate::app;
use crate::source::vm as source;

mod bundle;
mod install;
mod layout;
mod rules;
mod sums;
mod unit;

pub use bundle::{BundleArgs, Bundled, bundle};
pub use install::{InstallArgs, Installed, UninstallArgs, Uninstalled, install, uninstall};

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
    /// Print text or JSON
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// Rules for nftables.
#[derive(Debug, Serialize)]
pub struct Rules {
    ruleset: String,
}

impl Display for Rules {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.ruleset.trim_end())
    }
}

/// Makes the rules.
///
/// # Errors
/// The directory cannot be used.
pub fn rules(args: &RulesArgs) -> anyhow::Result<Rules> {
    let local = |port: &u16| (*port, ([127, 0, 0, 1], *port).into());
    let vm = Vm {
        redirect: Some(([127, 0, 0, 1], rules::OUTBOUND).into()),
        inbound_redirect: Some(([0, 0, 0, 0], rules::INBOUND).into()),
        inbound: args.inbound.iter().map(local).collect(),
        ..Vm::default()
    };
    let (machine, snapshot) = read(&source::Contents::read(&args.config_dir)?, vm)?;
    Ok(Rules { ruleset: rules::rules(&machine, &snapshot, &args.user) })
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

/// What may surprise in it.
fn notes(snapshot: &Snapshot) -> Vec<String> {
    snapshot.notices.iter().map(ToString::to_string).collect()
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    layout::write(path, bytes, mode).with_context(|| format!("cannot write {}", path.display()))
}
