//! `eastgate register` and `eastgate deregister`: a workload outside of Kubernetes becomes an endpoint of a service,
//! and ceases to be one. What `istioctl register` did, until Istio 1.8.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

mod api;
mod directory;
pub mod plan;

use plan::{Form, Known, Port, Step, Workload};

/// Register a workload outside of Kubernetes as an endpoint of a service
#[derive(Debug, Clone, Args)]
pub struct RegisterArgs {
    /// The service's name
    pub name: String,
    /// The workload's address
    pub address: IpAddr,
    /// The ports, such as 8000 or http:8000
    #[arg(required = true)]
    pub ports: Vec<Port>,
    /// A label for every resource (repeatable)
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = crate::register::label)]
    pub labels: Vec<(String, String)>,
    /// The workload has the identity of this service account, and speaks mesh TLS
    #[arg(short, long, value_name = "NAME")]
    pub service_account: Option<String>,
    /// Write a ServiceEntry and a WorkloadEntry instead of a Service and an EndpointSlice
    #[arg(long)]
    pub service_entry: bool,
    /// The ServiceEntry's host [default: NAME.NAMESPACE.svc.cluster.local]
    #[arg(long, requires = "service_entry")]
    pub host: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// Remove what register made, and nothing else
#[derive(Debug, Clone, Args)]
pub struct DeregisterArgs {
    /// The service's name
    pub name: String,
    /// The workloads' addresses; none: all that were registered
    pub addresses: Vec<IpAddr>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// Where the resources are.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// The namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Write to this mesh directory
    #[arg(long, value_name = "DIR", required_unless_present = "kubernetes", conflicts_with = "kubernetes")]
    pub mesh_dir: Option<PathBuf>,
    /// Write to a Kubernetes API: in-cluster, a kubeconfig, or auto
    #[arg(long, value_name = "CONFIG", num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    pub kubernetes: Option<String>,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print text or JSON
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

impl Place {
    /// Says what was done about a resource, or would be, or keeps it for the one JSON of all.
    fn say(&self, step: &Step, all: &mut Vec<Value>) -> anyhow::Result<()> {
        let (resource, outcome) = (step.resource(), step.outcome());
        let title = plan::title(resource);
        match (self.output.as_str(), self.dry_run) {
            ("json", dry_run) => {
                let metadata = &resource["metadata"];
                all.push(json!({
                    "kind": resource["kind"],
                    "namespace": metadata["namespace"],
                    "name": metadata["name"],
                    "outcome": outcome,
                    "resource": dry_run.then_some(resource),
                }));
            }
            (_, true) => {
                let text = serde_saphyr::to_string(resource)?;
                println!("# {title} would be {outcome}\n---\n{}", text.trim_end());
            }
            (_, false) => println!("{title} {outcome}"),
        }
        Ok(())
    }
}

/// Registers.
///
/// # Errors
/// Something of the same name is in the way, or the directory or API cannot be used.
pub async fn register(args: RegisterArgs) -> anyhow::Result<ExitCode> {
    let RegisterArgs { name, address, ports, labels, service_account, service_entry, host, place } = args;
    for (index, port) in ports.iter().enumerate() {
        let is_twice = ports[..index].iter().any(|other| other.name == port.name);
        anyhow::ensure!(!is_twice, "port {} is given twice; give each a name of its own", port.name);
    }
    let namespace = place.namespace.clone();
    let host = host.unwrap_or_else(|| format!("{name}.{namespace}.svc.cluster.local"));
    let form = if service_entry { Form::ServiceEntry { host } } else { Form::Service };
    let speaks = service_account.is_some();
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    let workload = Workload { namespace, name, address, ports, labels, service_account };
    let store = Store::open(&place).await?;
    let steps = plan::register(&workload, &form, &store.known(&place.namespace).await?)
        .map_err(anyhow::Error::msg)?;
    store.carry_out(&steps, &place).await?;
    if !speaks {
        eprintln!(
            "note: without --service-account the workload counts as one without mesh TLS, and AUTO_PASSTHROUGH does not lead to it"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Deregisters.
///
/// # Errors
/// Nothing of the kind was registered, or the directory or API cannot be used.
pub async fn deregister(args: DeregisterArgs) -> anyhow::Result<ExitCode> {
    let DeregisterArgs { name, addresses, place } = args;
    let store = Store::open(&place).await?;
    let known = store.known(&place.namespace).await?;
    let steps = plan::deregister(&place.namespace, &name, &addresses, &known).map_err(anyhow::Error::msg)?;
    store.carry_out(&steps, &place).await?;
    Ok(ExitCode::SUCCESS)
}

/// `NAME=VALUE`
fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

/// Where resources are kept.
enum Store {
    Directory(PathBuf),
    Api(kube::Client),
}

impl Store {
    async fn open(place: &Place) -> anyhow::Result<Self> {
        match (&place.mesh_dir, &place.kubernetes) {
            (Some(directory), _) => Ok(Self::Directory(directory.clone())),
            (None, config) => {
                let access = crate::kubernetes::Access::new(config.as_deref().unwrap_or("auto"), None);
                Ok(Self::Api(access.client().await?))
            }
        }
    }

    /// The Services, EndpointSlices, ServiceEntries and WorkloadEntries of the namespace.
    async fn known(&self, namespace: &str) -> anyhow::Result<Known> {
        match self {
            Self::Directory(directory) => directory::known(directory, namespace),
            Self::Api(client) => api::known(client, namespace).await,
        }
    }

    /// Does what is to be done, and says so of each step, also where a later one fails.
    async fn carry_out(&self, steps: &[Step], place: &Place) -> anyhow::Result<()> {
        let mut said = Vec::new();
        let mut failed = Ok(());
        for step in steps {
            failed = match self {
                _ if place.dry_run => Ok(()),
                Self::Directory(directory) => directory::carry_out(directory, step),
                Self::Api(client) => api::carry_out(client, step).await,
            };
            if failed.is_err() {
                break;
            }
            place.say(step, &mut said)?;
        }
        if place.output == "json" {
            println!("{:#}", json!({ "dry_run": place.dry_run, "resources": said }));
        }
        failed
    }
}
