//! The command line of `eastgate vm`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use eastgate_config::bootstrap::Settings;
use eastgate_config::spiffe::IdPattern;
use serde_json::{Map, Value, json};

use super::SettingsArgs;
use crate::vm::{BundleArgs, InstallArgs, RulesArgs, UninstallArgs};

/// What to do for the VM.
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Run on the VM: carry plain TCP to the mesh's services, and let the mesh in to its own
    Run(Box<VmRunArgs>),
    /// Make the directory to copy to a VM
    Bundle(Box<BundleArgs>),
    /// Lay out a VM's directory on this machine: certificates, cluster.env, /etc/hosts, systemd units
    Install(InstallArgs),
    /// Take away all that install has laid out
    Uninstall(UninstallArgs),
    /// Print the nftables rules that redirect a VM's connections
    Rules(RulesArgs),
}

/// `eastgate vm run`
#[derive(Debug, Clone, Args)]
pub struct VmRunArgs {
    /// The VM's directory: cluster.env, certificates, hosts, ServiceEntries; watched for changes
    #[arg(long, value_name = "DIR", default_value = "/var/lib/istio/envoy")]
    pub config_dir: PathBuf,
    /// Where root-cert.pem, cert-chain.pem and key.pem are [default: that directory, or /etc/certs]
    #[arg(long, value_name = "DIR")]
    pub certs_dir: Option<PathBuf>,
    /// The mesh's gateway, for ${CLUSTER_GW_ADDR} [default: by cluster.env or hosts]
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Option<String>,
    /// The mesh's CA, HOST:PORT, or - for none [default: by cluster.env]
    #[arg(long, value_name = "ADDRESS")]
    pub ca: Option<String>,
    /// Let the mesh in to this port of 127.0.0.1, or to another local address (repeatable)
    #[arg(long, value_name = "PORT[=ADDRESS]", value_parser = inbound)]
    pub inbound: Vec<(u16, SocketAddr)>,
    /// The VM's address in the mesh [default: ISTIO_SVC_IP, or the first found]
    #[arg(long, value_name = "IP")]
    pub inbound_address: Option<IpAddr>,
    /// Who may connect, such as cluster.local/ns/bar/* (repeatable) [default: the VM's trust domain]
    #[arg(long, value_name = "PRINCIPAL")]
    pub allow: Vec<IdPattern>,
    /// The firewall redirects connections (eastgate vm rules): listen on 15001 and 15006 and bind no service's address
    #[arg(long)]
    pub redirect: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub settings: SettingsArgs,
}

fn inbound(text: &str) -> Result<(u16, SocketAddr), String> {
    let (port, address) = text.split_once('=').map_or((text, None), |(port, rest)| (port, Some(rest)));
    let port = port.parse().map_err(|_| "write PORT or PORT=ADDRESS:PORT")?;
    let local = Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    let address = address
        .map_or(local, str::parse)
        .map_err(|_| "write PORT=ADDRESS:PORT, such as 80=127.0.0.1:8080")?;
    Ok((port, address))
}

impl VmRunArgs {
    /// The effective settings: file, then environment, then these flags.
    ///
    /// # Errors
    /// Names the file, key or variable that cannot be used.
    pub fn settings(
        &self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Settings> {
        let ports = self.inbound.iter().map(|(port, address)| (port.to_string(), json!(address)));
        let ports: Map<String, Value> = ports.collect();
        let principals: Vec<_> = self.allow.iter().map(ToString::to_string).collect();
        let redirect = |port: &str, host: &str| self.redirect.then(|| format!("{host}:{port}"));
        Ok(self
            .settings
            .layers(environment)?
            .flag("vm.config_dir", Some(self.config_dir.display().to_string()))
            .flag("vm.certs_dir", self.certs_dir.as_ref().map(|path| path.display().to_string()))
            .flag("vm.gateway", self.gateway.clone())
            .flag("vm.ca_address", self.ca.clone())
            .flag("vm.inbound", (!ports.is_empty()).then_some(Value::Object(ports)))
            .flag("vm.inbound_address", self.inbound_address.map(|address| address.to_string()))
            .flag("vm.allow", (!principals.is_empty()).then(|| json!(principals)))
            .flag("vm.redirect", redirect("15001", "127.0.0.1"))
            .flag("vm.inbound_redirect", redirect("15006", "0.0.0.0"))
            .settings()?)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Command, Eastgate};
    use super::*;

    fn settings(arguments: &[&str]) -> anyhow::Result<Settings> {
        let command = Eastgate::parse_from([&["eastgate", "vm", "run"], arguments].concat()).command;
        let Command::Vm { command: VmCommand::Run(args) } = command else { panic!() };
        args.settings([])
    }

    #[test]
    fn flags_become_settings() {
        let vm = settings(&["--inbound", "8888", "--inbound", "80=127.0.0.1:8080", "--allow", "td/ns/a/*"])
            .unwrap()
            .vm;
        assert_eq!(vm.config_dir.unwrap().to_str(), Some("/var/lib/istio/envoy"));
        assert_eq!((vm.inbound[&8888].port(), vm.inbound[&80].port()), (8888, 8080));
        assert_eq!((vm.allow[0].to_string().as_str(), vm.redirect), ("td/ns/a/*", None));
        let vm = settings(&["--redirect"]).unwrap().vm;
        assert_eq!(vm.redirect.unwrap().to_string(), "127.0.0.1:15001");
        assert_eq!(vm.inbound_redirect.unwrap().port(), 15006);
    }

    #[test]
    fn another_source_beside_it_is_refused() {
        let error = settings(&["--mesh-dir", "/x"]).unwrap_err().to_string();
        assert!(error.contains("one source at a time"), "{error}");
    }
}
