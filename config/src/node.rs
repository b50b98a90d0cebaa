//! Who the gateway says it is to a control plane: the node that Istio's own agent would make of the same pod.
//!
//! istiod reads the id by its parts and refuses the whole node where a list or a boolean in the metadata is not text,
//! so what is settled here is settled by value (`pkg/bootstrap/config.go` and `pkg/model/proxy.go` in istio/istio).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::bootstrap;
use crate::locality::Locality;
use crate::xds::Node;

/// Variables with this prefix become metadata as they are.
const META: &str = "ISTIO_META_";
/// Variables with this prefix are JSON objects that are laid over the metadata; the rest of their name means nothing.
const META_JSON: &str = "ISTIO_METAJSON_";
/// What istiod reads as a list indeed (`BootstrapNodeMetadata`); the agent writes it into its bootstrap.
const LISTS: [&str; 1] = ["PILOT_SAN"];
/// The label that places a pod, older and newer name, with dots for slashes.
const LOCALITY_LABELS: [&str; 2] = ["topology.istio.io/locality", "istio-locality"];

/// The labels of a Kubernetes node that its pods are placed by: region, zone, subzone.
const NODE_LABELS: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// What the pod knows of itself.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The environment.
    pub environment: &'a BTreeMap<String, String>,
    /// The machine's own addresses, the likeliest first.
    pub addresses: &'a [IpAddr],
    /// The downward API's file of labels.
    pub labels: Option<&'a str>,
    /// The downward API's file of annotations.
    pub annotations: Option<&'a str>,
}

/// Who the gateway is.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// As the control plane hears it.
    pub node: Node,
    /// The SPIFFE identity that a certificate is asked for.
    pub spiffe: String,
    /// The Kubernetes cluster, for a control plane that reviews tokens of several.
    pub cluster_id: String,
    /// What could not be read, for the log.
    pub warnings: Vec<String>,
}

/// Makes the identity of what the pod knows; settings go before the environment where both speak.
pub fn identify(given: Surroundings<'_>, settings: &bootstrap::Node) -> Identity {
    let mut warnings = Vec::new();
    let variable = |name: &str| given.environment.get(name).filter(|value| !value.is_empty());
    let namespace = variable("POD_NAMESPACE").unwrap_or(&settings.namespace).clone();
    let name = variable("POD_NAME").or_else(|| variable("HOSTNAME")).map_or("eastgate", String::as_str);
    let account = variable("SERVICE_ACCOUNT").map_or("default", String::as_str);
    let trust_domain = variable("TRUST_DOMAIN").unwrap_or(&settings.trust_domain);
    let addresses = addresses(variable("INSTANCE_IP"), given.addresses, settings.address);

    let mut metadata = from_environment(given.environment, &mut warnings);
    let labels = labels(given, settings, &mut metadata, &mut warnings);
    metadata.insert("NAME".into(), name.into());
    metadata.insert("NAMESPACE".into(), namespace.clone().into());
    if variable("SERVICE_ACCOUNT").is_some() {
        metadata.insert("SERVICE_ACCOUNT".into(), account.into());
    }
    let texts: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    metadata.insert("INSTANCE_IPS".into(), texts.join(",").into());
    metadata.entry("CLUSTER_ID").or_insert_with(|| "Kubernetes".into());
    // Endpoints behind HBONE cannot be passed through to: their pods would be sent plain mesh TLS.
    metadata.entry("DISABLE_HBONE_SEND").or_insert_with(|| "true".into());
    if !settings.network.is_empty() {
        metadata.insert("NETWORK".into(), settings.network.clone().into());
    }
    if !settings.network_view.is_empty() {
        metadata.insert("REQUESTED_NETWORK_VIEW".into(), settings.network_view.join(",").into());
    }
    metadata.extend(settings.metadata.clone());
    if let Some(annotations) = downward(given.annotations, "annotations", &mut warnings) {
        metadata.insert("ANNOTATIONS".into(), json!(annotations));
    }
    // With a generator named, istiod answers in the dialect of gRPC libraries.
    metadata.remove("GENERATOR");
    metadata
        .iter_mut()
        .filter(|(key, _)| !LISTS.contains(&key.as_str()))
        .for_each(|(_, value)| as_text(value));

    let cluster_id = metadata.get("CLUSTER_ID").and_then(Value::as_str).unwrap_or_default().to_owned();
    let domain = &settings.cluster_domain;
    let address = texts.first().map_or("127.0.0.1", String::as_str);
    let node = Node {
        id: given_or(&settings.id, || {
            format!("router~{address}~{name}.{namespace}~{namespace}.svc.{domain}")
        }),
        cluster: given_or(&settings.service_cluster, || service_cluster(&labels, &metadata, &namespace)),
        locality: match settings.locality.as_str() {
            "" => locality(&labels),
            given => place(given),
        },
        metadata,
    };
    let spiffe = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}");
    Identity { node, spiffe, cluster_id, warnings }
}

/// The pod's address first: istiod takes the first for the pod's.
fn addresses(instance: Option<&String>, found: &[IpAddr], setting: Option<IpAddr>) -> Vec<IpAddr> {
    let instance = instance.and_then(|text| text.parse().ok());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in setting.into_iter().chain(instance).chain(found.iter().copied()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        addresses.push(std::net::Ipv4Addr::LOCALHOST.into());
    }
    addresses
}

fn from_environment(
    environment: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Map<String, Value> {
    let mut metadata = Map::new();
    for (name, value) in environment {
        if let Some(key) = name.strip_prefix(META) {
            metadata.insert(key.into(), value.clone().into());
        }
    }
    for (name, value) in environment.iter().filter(|(name, _)| name.starts_with(META_JSON)) {
        match serde_json::from_str::<Map<String, Value>>(value) {
            Ok(map) => metadata.extend(map),
            Err(error) => warnings.push(format!("{name} is no JSON object: {error}")),
        }
    }
    metadata
}

/// The labels that Gateways select by, which are also put into the metadata.
fn labels(
    given: Surroundings<'_>,
    settings: &bootstrap::Node,
    metadata: &mut Map<String, Value>,
    warnings: &mut Vec<String>,
) -> BTreeMap<String, String> {
    let variable = given.environment.get("ISTIO_METAJSON_LABELS");
    let fixed: Option<BTreeMap<String, String>> = variable.and_then(|text| serde_json::from_str(text).ok());
    let mut labels = fixed.clone().unwrap_or_default();
    if let Some(fixed) = fixed.filter(|fixed| !fixed.is_empty()) {
        metadata.insert("STATIC_LABELS".into(), json!(fixed));
    }
    if let Some(mut pod) = downward(given.labels, "labels", warnings) {
        // The hash is another one for each version of a Deployment, and selects nothing.
        pod.remove("pod-template-hash");
        labels.extend(pod);
    }
    labels.extend(settings.labels.clone());
    if let Some(place) = labels.get_mut("istio-locality") {
        *place = with_slashes(place);
    }
    if !labels.is_empty() {
        metadata.insert("LABELS".into(), json!(labels));
    }
    labels
}

fn downward(text: Option<&str>, what: &str, warnings: &mut Vec<String>) -> Option<BTreeMap<String, String>> {
    let parsed = parse_downward(text?);
    parsed
        .map_err(|line| warnings.push(format!("the pod's {what} are not as Kubernetes writes them: {line}")))
        .ok()
}

/// Lines of `key="value"`, quoted as Go quotes.
///
/// # Errors
/// The line whose value is not quoted.
pub fn parse_downward(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pairs = text.lines().filter_map(|line| Some((line, line.split_once('=')?)));
    pairs
        .map(|(line, (key, value))| Ok((key.to_owned(), unquote(value).ok_or_else(|| line.to_owned())?)))
        .collect()
}

fn unquote(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        let unescaped = match c {
            '"' => return None,
            '\\' => match rest.next()? {
                'a' => '\x07',
                'b' => '\x08',
                'f' => '\x0c',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\x0b',
                // One byte, which with its neighbours may make a character.
                'x' => {
                    bytes.push(u8::try_from(number(&mut rest, 2)?).ok()?);
                    continue;
                }
                'u' => char::from_u32(number(&mut rest, 4)?)?,
                'U' => char::from_u32(number(&mut rest, 8)?)?,
                other @ ('\\' | '"') => other,
                _ => return None,
            },
            other => other,
        };
        bytes.extend_from_slice(unescaped.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn number(digits: &mut std::str::Chars<'_>, count: usize) -> Option<u32> {
    let text: String = digits.take(count).collect();
    (text.len() == count).then(|| u32::from_str_radix(&text, 16).ok())?
}

/// istiod decodes its metadata into text fields; a list or a boolean there fails the node as a whole.
fn as_text(value: &mut Value) {
    match value {
        Value::Bool(bool) => *value = bool.to_string().into(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let texts: Vec<_> = items.iter().filter_map(Value::as_str).collect();
            *value = texts.join(",").into();
        }
        _ => {}
    }
}

fn service_cluster(
    labels: &BTreeMap<String, String>,
    metadata: &Map<String, Value>,
    namespace: &str,
) -> String {
    let workload = metadata.get("WORKLOAD_NAME").and_then(Value::as_str);
    let app = labels.get("app").map(String::as_str).or(workload).unwrap_or("istio-proxy");
    format!("{app}.{namespace}")
}

fn given_or(given: &str, made: impl FnOnce() -> String) -> String {
    if given.is_empty() { made() } else { given.to_owned() }
}

/// Where a workload with these labels stands: as its label for that says, else as those of its Kubernetes node do.
pub fn locality(labels: &BTreeMap<String, String>) -> Locality {
    let Some(label) = LOCALITY_LABELS.iter().find_map(|label| labels.get(*label)) else {
        let [region, zone, subzone] = NODE_LABELS.map(|label| labels.get(label).cloned().unwrap_or_default());
        return Locality { region, zone, subzone };
    };
    place(&with_slashes(label))
}

fn place(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Locality { region: next(), zone: next(), subzone: next() }
}

/// A label's value cannot have slashes in Kubernetes, so dots stand for them.
fn with_slashes(label: &str) -> String {
    if label.contains('/') { label.to_owned() } else { label.replace('.', "/") }
}

#[cfg(test)]
mod tests;
