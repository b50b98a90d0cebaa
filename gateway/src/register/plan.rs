//! What has to change for a workload to be registered, or not any more: pure.
//!
//! ```text
//! Service NAME            selector-less, ports          or  ServiceEntry NAME   hosts, ports, selects the label below
//! EndpointSlice NAME-IP   one for each address              WorkloadEntry NAME-IP
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use eastgate_config::istio::Kind;
use serde_json::{Map, Value, json};

/// Says that `register` made a resource, so that `deregister` may take it away.
const OWNER: (&str, &str) = ("app.kubernetes.io/managed-by", "eastgate-register");
/// By what a ServiceEntry of ours selects its WorkloadEntries.
const SERVICE: &str = "eastgate.io/registered-for";
/// The annotation that `istioctl register` wrote.
const ACCOUNTS: &str = "alpha.istio.io/kubernetes-serviceaccounts";
const TLS_MODE: &str = "security.istio.io/tlsMode";

/// A port of the service, which is also the workload's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Unique in the service.
    pub name: String,
    /// From 1.
    pub number: u16,
}

impl std::str::FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = text.rsplit_once(':').unwrap_or(("", text));
        let number = number.parse().ok().filter(|number| *number > 0u16);
        let number = number.ok_or_else(|| format!("{text:?} is no port; write 8000 or http:8000"))?;
        let name = if name.is_empty() { format!("tcp-{number}") } else { name.to_owned() };
        let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !name.chars().all(named) || name.starts_with('-') || name.ends_with('-') || name.len() > 63 {
            return Err(format!("{name:?} is no name of a port; use lower-case letters, digits and -"));
        }
        Ok(Self { name, number })
    }
}

/// Which pair of kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// A Service without a selector, and EndpointSlices.
    Service,
    /// A ServiceEntry for this host, and WorkloadEntries.
    ServiceEntry {
        /// What clients ask for.
        host: String,
    },
}

impl Form {
    fn kinds(&self) -> (Kind, Kind) {
        match self {
            Self::Service => (Kind::Service, Kind::EndpointSlice),
            Self::ServiceEntry { .. } => (Kind::ServiceEntry, Kind::WorkloadEntry),
        }
    }
}

/// What is to be registered.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Of all resources.
    pub namespace: String,
    /// Of the service.
    pub name: String,
    /// Of the workload.
    pub address: IpAddr,
    /// At least one.
    pub ports: Vec<Port>,
    /// Added to every resource.
    pub labels: BTreeMap<String, String>,
    /// The workload has this identity, and speaks mesh TLS.
    pub service_account: Option<String>,
}

/// What to do with one resource.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It is not there yet.
    Create(Value),
    /// It is there and not as it should be; this is all of it.
    Update(Value),
    /// It is as it should be.
    Keep(Value),
    /// It goes.
    Delete(Value),
}

impl Step {
    /// The resource.
    pub fn resource(&self) -> &Value {
        match self {
            Self::Create(resource)
            | Self::Update(resource)
            | Self::Keep(resource)
            | Self::Delete(resource) => resource,
        }
    }

    /// What has become of it, in a word.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Create(_) => "created",
            Self::Update(_) => "updated",
            Self::Keep(_) => "unchanged",
            Self::Delete(_) => "deleted",
        }
    }
}

/// The resources there are, of one namespace.
pub type Known = Vec<Value>;

/// What registering takes.
///
/// # Errors
/// Something of the same name is in the way; the error says what it is and what to do.
pub fn register(workload: &Workload, form: &Form, known: &Known) -> Result<Vec<Step>, String> {
    let (service_kind, workload_kind) = form.kinds();
    let service = find(known, service_kind, &workload.name);
    let wanted = match service {
        None => new_service(workload, form),
        Some(there) => merged_service(workload, form, there)?,
    };
    let name = format!("{}-{}", workload.name, dashed(workload.address));
    let there = find(known, workload_kind, &name);
    if let Some(there) = there.filter(|there| !is_ours(there)) {
        return Err(format!(
            "{} is there and not of register's making; remove it or use another name",
            title(there)
        ));
    }
    let endpoint = match form {
        Form::Service => slice(workload, &name),
        Form::ServiceEntry { .. } => entry(workload, &name),
    };
    // The service first: endpoints without one lead nowhere.
    Ok(vec![step(service, wanted), step(there, endpoint)])
}

/// What deregistering takes: these addresses, or all that were registered. The service goes with its last address, if
/// register made it.
///
/// # Errors
/// Nothing of the kind was registered.
pub fn deregister(
    namespace: &str,
    name: &str,
    addresses: &[IpAddr],
    known: &Known,
) -> Result<Vec<Step>, String> {
    let of_service = |resource: &&Value| is_ours(resource) && resource["metadata"]["labels"][SERVICE] == name;
    let workloads: Vec<&Value> =
        known.iter().filter(of_service).filter(|resource| is_workload(resource)).collect();
    let names: Vec<String> = addresses.iter().map(|address| format!("{name}-{}", dashed(*address))).collect();
    let goes = |resource: &Value| {
        names.is_empty() || names.iter().any(|name| resource["metadata"]["name"] == name.as_str())
    };
    let (going, staying): (Vec<&Value>, Vec<&Value>) =
        workloads.into_iter().partition(|resource| goes(resource));
    let stays = |kind: Kind| staying.iter().any(|resource| resource["kind"] == kind.as_str());
    let services = known.iter().filter(of_service).filter(|resource| {
        (resource["kind"] == "Service" && !stays(Kind::EndpointSlice))
            || (resource["kind"] == "ServiceEntry" && !stays(Kind::WorkloadEntry))
    });
    let steps: Vec<Step> = going.into_iter().chain(services).cloned().map(Step::Delete).collect();
    if steps.is_empty() {
        let what = if names.is_empty() { name.to_owned() } else { names.join(", ") };
        return Err(format!(
            "register has made nothing called {what} in namespace {namespace}; nothing is changed"
        ));
    }
    Ok(steps)
}

/// `Service bar/httpbin`
pub fn title(resource: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &resource["metadata"];
    format!("{} {}/{}", text(&resource["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

fn find<'a>(known: &'a Known, kind: Kind, name: &str) -> Option<&'a Value> {
    known.iter().find(|resource| resource["kind"] == kind.as_str() && resource["metadata"]["name"] == name)
}

fn is_ours(resource: &Value) -> bool {
    resource["metadata"]["labels"][OWNER.0] == OWNER.1
}

fn is_workload(resource: &Value) -> bool {
    resource["kind"] == "EndpointSlice" || resource["kind"] == "WorkloadEntry"
}

fn step(there: Option<&Value>, wanted: Value) -> Step {
    match there {
        None => Step::Create(wanted),
        Some(there) => {
            let mut merged = there.clone();
            lay(&mut merged, wanted);
            if merged == *there { Step::Keep(merged) } else { Step::Update(merged) }
        }
    }
}

/// Lays fields over others; what is not spoken of stays, and a list takes the place of a list.
fn lay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

fn dashed(address: IpAddr) -> String {
    let text = address.to_string().replace([':', '.'], "-");
    // `::1` would begin or end with a dash, which no name may.
    text.split('-').map(|part| if part.is_empty() { "0" } else { part }).collect::<Vec<_>>().join("-")
}

fn metadata(workload: &Workload, name: &str, more: &[(&str, &str)]) -> Value {
    let mut labels: Map<String, Value> =
        workload.labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    for (key, value) in [OWNER, (SERVICE, &workload.name)].iter().chain(more) {
        labels.insert((*key).to_owned(), (*value).into());
    }
    let mut metadata = json!({ "name": name, "namespace": workload.namespace, "labels": labels });
    if let Some(account) = &workload.service_account {
        metadata["annotations"] = json!({ ACCOUNTS: account });
    }
    metadata
}

fn service_ports(ports: &[Port], form: &Form) -> Vec<Value> {
    let port = |port: &Port| match form {
        Form::Service => json!({ "name": port.name, "port": port.number, "protocol": "TCP" }),
        Form::ServiceEntry { .. } => {
            json!({ "name": port.name, "number": port.number, "protocol": protocol(&port.name) })
        }
    };
    ports.iter().map(port).collect()
}

/// Istio's convention: the protocol is what the port's name begins with.
fn protocol(name: &str) -> &'static str {
    match name.split('-').next().unwrap_or_default() {
        "http" => "HTTP",
        "http2" => "HTTP2",
        "https" => "HTTPS",
        "grpc" => "GRPC",
        "mongo" => "MONGO",
        "tls" => "TLS",
        _ => "TCP",
    }
}

fn new_service(workload: &Workload, form: &Form) -> Value {
    let ports = service_ports(&workload.ports, form);
    let metadata = metadata(workload, &workload.name, &[]);
    match form {
        Form::Service => json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": { "ports": ports },
        }),
        Form::ServiceEntry { host } => json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": metadata,
            "spec": {
                "hosts": [host], "location": "MESH_INTERNAL", "resolution": "STATIC", "ports": ports,
                "workloadSelector": { "labels": { SERVICE: workload.name } },
            },
        }),
    }
}

/// A service that is there already: ours gets the ports that it lacks, another must have them all.
fn merged_service(workload: &Workload, form: &Form, there: &Value) -> Result<Value, String> {
    let title = title(there);
    if *form == Form::Service
        && there["spec"]["selector"].as_object().is_some_and(|labels| !labels.is_empty())
    {
        return Err(format!("{title} has a selector: Kubernetes finds its endpoints; use another name"));
    }
    let number = if *form == Form::Service { "port" } else { "number" };
    let mut ports = there["spec"]["ports"].as_array().cloned().unwrap_or_default();
    for (port, wanted) in workload.ports.iter().zip(service_ports(&workload.ports, form)) {
        match ports.iter().find(|there| there["name"] == port.name.as_str()) {
            Some(there) if there[number] == port.number => {}
            Some(there) => {
                return Err(format!(
                    "{title} has port {} as {}; give that number, or the port another name",
                    port.name, there[number]
                ));
            }
            None if is_ours(there) => ports.push(wanted),
            None => {
                return Err(format!(
                    "{title} is not of register's making and has no port {}; add the port to it, or use another name",
                    port.name
                ));
            }
        }
    }
    if !is_ours(there) {
        return Ok(there.clone());
    }
    Ok(json!({ "metadata": metadata(workload, &workload.name, &[]), "spec": { "ports": ports } }))
}

fn slice(workload: &Workload, name: &str) -> Value {
    let mut labels = vec![
        ("kubernetes.io/service-name", workload.name.as_str()),
        ("endpointslice.kubernetes.io/managed-by", OWNER.1),
    ];
    labels.extend(workload.service_account.iter().map(|_| (TLS_MODE, "istio")));
    let ports: Vec<Value> = workload
        .ports
        .iter()
        .map(|port| json!({ "name": port.name, "port": port.number, "protocol": "TCP" }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata(workload, name, &labels),
        "addressType": if workload.address.is_ipv4() { "IPv4" } else { "IPv6" },
        "ports": ports,
        "endpoints": [{ "addresses": [workload.address], "conditions": { "ready": true } }],
    })
}

fn entry(workload: &Workload, name: &str) -> Value {
    let metadata = metadata(workload, name, &[]);
    let ports: Map<String, Value> =
        workload.ports.iter().map(|port| (port.name.clone(), port.number.into())).collect();
    let mut labels = metadata["labels"].clone();
    let mut spec = json!({ "address": workload.address, "ports": ports });
    if let Some(account) = &workload.service_account {
        labels[TLS_MODE] = "istio".into();
        spec["serviceAccount"] = account.as_str().into();
    }
    spec["labels"] = labels;
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": metadata, "spec": spec,
    })
}

#[cfg(test)]
mod tests;
