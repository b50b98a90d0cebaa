//! From a document to a resource: its kind and name, its checked content, or what is wrong with it.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ROOT_NAMESPACE;
use super::authorization::AuthorizationPolicy;
use super::destination_rule::DestinationRule;
use super::document::Document;
use super::envoy_filter::EnvoyFilter;
use super::findings::{Findings, Origin};
use super::gateway::Gateway;
use super::gateway_api;
use super::networks::Namespace;
use super::schema::{self, Labels, Metadata, decode};
use super::secret;
use super::service::{EndpointSlice, Pod, Service};
use super::service_entry::{ServiceEntry, Workload};
use super::virtual_service::VirtualService;
use crate::rejection::ResourceName;
use crate::secrets::Pem;

/// The kinds that the gateway uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `networking.istio.io`
    Gateway,
    /// `networking.istio.io`
    VirtualService,
    /// `networking.istio.io`
    DestinationRule,
    /// `networking.istio.io`
    ServiceEntry,
    /// `networking.istio.io`
    WorkloadEntry,
    /// `networking.istio.io`
    EnvoyFilter,
    /// The core group.
    Service,
    /// `discovery.k8s.io`
    EndpointSlice,
    /// The core group.
    Pod,
    /// The core group. Only the mesh's root namespace matters: its label names the cluster's network.
    Namespace,
    /// The Gateway API's (`gateway.networking.k8s.io`), of class `eastgate`.
    ClassGateway,
    /// `gateway.networking.k8s.io`
    TlsRoute,
    /// `security.istio.io`
    AuthorizationPolicy,
    /// The core group. Keys and certificates that a DestinationRule names.
    Secret,
}

const ISTIO: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
/// The namespace of a resource that names none, as `kubectl apply` has it.
const DEFAULT_NAMESPACE: &str = "default";

impl Kind {
    /// Every kind, for whoever has to list and watch them.
    pub const ALL: [Self; 14] = [
        Self::Gateway,
        Self::VirtualService,
        Self::DestinationRule,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::EnvoyFilter,
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Namespace,
        Self::ClassGateway,
        Self::TlsRoute,
        Self::AuthorizationPolicy,
        Self::Secret,
    ];

    /// As in a resource's `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway | Self::ClassGateway => "Gateway",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::EnvoyFilter => "EnvoyFilter",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::TlsRoute => "TLSRoute",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::Secret => "Secret",
        }
    }

    /// The API group; empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Service | Self::Pod | Self::Namespace | Self::Secret => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::ClassGateway | Self::TlsRoute => gateway_api::GROUP,
            Self::AuthorizationPolicy => SECURITY,
            _ => ISTIO,
        }
    }

    /// The versions of the API group that are read, the one to ask an API server for first.
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Service | Self::Pod | Self::Namespace | Self::Secret => &["v1"],
            Self::EndpointSlice => &["v1", "v1beta1"],
            Self::EnvoyFilter => &["v1alpha3"],
            Self::ClassGateway => &["v1", "v1beta1"],
            Self::TlsRoute => &["v1", "v1alpha3", "v1alpha2"],
            Self::AuthorizationPolicy => &["v1", "v1beta1"],
            _ => &["v1", "v1beta1", "v1alpha3"],
        }
    }

    /// Of the clusters of a mesh, only the gateway's own gives its configuration; the others give their services.
    pub fn is_of_every_cluster(self) -> bool {
        matches!(self, Self::Service | Self::EndpointSlice | Self::Pod | Self::Namespace)
    }

    /// All that matters of it is in its metadata.
    pub fn is_metadata(self) -> bool {
        matches!(self, Self::Pod | Self::Namespace)
    }

    /// Only those count that a setting names, in the gateway's own namespace.
    pub fn is_by_name(self) -> bool {
        self == Self::Secret
    }

    /// The only object of the kind that matters, by name.
    pub fn only(self) -> Option<&'static str> {
        (self == Self::Namespace).then_some(ROOT_NAMESPACE)
    }

    /// As in the API's paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Gateway | Self::ClassGateway => "gateways",
            Self::VirtualService => "virtualservices",
            Self::DestinationRule => "destinationrules",
            Self::ServiceEntry => "serviceentries",
            Self::WorkloadEntry => "workloadentries",
            Self::EnvoyFilter => "envoyfilters",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Pod => "pods",
            Self::Namespace => "namespaces",
            Self::TlsRoute => "tlsroutes",
            Self::AuthorizationPolicy => "authorizationpolicies",
            Self::Secret => "secrets",
        }
    }
}

/// A resource's identity. Ordered by kind, then namespace, name and cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Empty for the gateway's own.
    pub(super) cluster: String,
}

impl Key {
    pub(super) fn resource(&self) -> ResourceName {
        ResourceName {
            kind: self.kind.as_str().to_owned(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// A resource that may be used.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object {
    pub(super) name: ResourceName,
    /// Empty for the gateway's own.
    pub(super) cluster: String,
    pub(super) origin: Origin,
    /// `metadata.labels`
    pub(super) labels: Labels,
    pub(super) spec: Spec,
    /// Field and message; told once the resource turns out to matter.
    pub(super) notices: Vec<(String, String)>,
}

/// A resource's checked content.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Spec {
    Gateway(Gateway),
    VirtualService(VirtualService),
    DestinationRule(DestinationRule),
    ServiceEntry(ServiceEntry),
    WorkloadEntry(Workload),
    EnvoyFilter(EnvoyFilter),
    Service(Service),
    EndpointSlice(EndpointSlice),
    Pod(Pod),
    Namespace(Namespace),
    AuthorizationPolicy(AuthorizationPolicy),
    Secret(Pem),
}

/// What a document turned out to be.
#[derive(Debug)]
pub(super) enum Decoded {
    Good(Key, Box<Object>),
    /// The reasons are by field.
    Bad(Key, Origin, Vec<(String, String)>),
    /// A kind that the gateway has no use for.
    Unused {
        group: String,
        resource: ResourceName,
        origin: Origin,
    },
    /// Not even its kind and name can be read.
    Nameless(Origin, (String, String)),
}

impl Decoded {
    /// The same, in this cluster.
    pub(super) fn of_cluster(mut self, cluster: &str) -> Self {
        match &mut self {
            Self::Good(key, object) => {
                cluster.clone_into(&mut key.cluster);
                cluster.clone_into(&mut object.cluster);
            }
            Self::Bad(key, ..) => cluster.clone_into(&mut key.cluster),
            Self::Unused { .. } | Self::Nameless(..) => {}
        }
        self
    }
}

/// Reads a document of this file.
pub(super) fn read(document: Document, file: Option<&str>) -> Decoded {
    let Document { value, lines } = document;
    let origin = Origin { file: file.map(str::to_owned), lines };
    let Identity { kind, group, version, name } = match identify(&value) {
        Ok(identity) => identity,
        Err(refusal) => return Decoded::Nameless(origin, refusal),
    };
    let Some(kind) = kind else { return Decoded::Unused { group, resource: name, origin } };
    let key =
        Key { kind, namespace: name.namespace.clone(), name: name.name.clone(), cluster: String::new() };
    let metadata = decode("metadata", &value["metadata"]).map_err(|refusal| vec![refusal]);
    let metadata = metadata.map(|read: Metadata| Metadata { namespace: name.namespace.clone(), ..read });
    match metadata.and_then(|metadata| Ok((parse(kind, &version, &value, &metadata)?, metadata))) {
        Err(refusals) => Decoded::Bad(key, origin, refusals),
        Ok(((spec, notices), metadata)) => {
            // There are thousands of Pods and EndpointSlices, and nothing to say of their fields later on.
            let lines = if kind.is_of_every_cluster() { origin.lines.outermost() } else { origin.lines };
            let origin = Origin { lines, ..origin };
            let cluster = String::new();
            let name = match kind {
                Kind::ClassGateway => ResourceName { name: gateway_api::gateway_name(&name.name), ..name },
                _ => name,
            };
            Decoded::Good(
                key,
                Box::new(Object { name, cluster, origin, labels: metadata.labels, spec, notices }),
            )
        }
    }
}

struct Identity {
    kind: Option<Kind>,
    group: String,
    version: String,
    name: ResourceName,
}

/// What a resource says it is, read without regard to anything else in it, so that whatever is wrong can be told of it
/// by name.
fn identify(value: &Value) -> Result<Identity, (String, String)> {
    let refuse = |field: &str, reason: &str| Err((field.to_owned(), reason.to_owned()));
    if !value.is_object() {
        return refuse("", "this is no resource; give apiVersion, kind and metadata");
    }
    let text = |value: &Value, field: &str| {
        let text = value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.map(str::to_owned)
    };
    let Some(kind) = text(value, "kind") else {
        return refuse("kind", "the resource has no kind; give one");
    };
    let Some(version) = text(value, "apiVersion") else {
        return refuse(
            "apiVersion",
            "the resource has no apiVersion; give one, such as networking.istio.io/v1",
        );
    };
    let metadata = value.get("metadata").unwrap_or(&Value::Null);
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let known = Kind::ALL.into_iter().find(|known| known.as_str() == kind && known.group() == group);
    let name = match (text(metadata, "name"), known) {
        (Some(name), _) => name,
        (None, Some(_)) => return refuse("metadata.name", "the resource has no name; give it one, as text"),
        // What other programs read may stand beside, such as a Kustomization, which has no name.
        (None, None) => String::new(),
    };
    let namespace = text(metadata, "namespace").unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let name = ResourceName { kind, namespace, name };
    Ok(Identity { kind: known, group: group.to_owned(), version: version.to_owned(), name })
}

type Parsed = Result<(Spec, Vec<(String, String)>), Vec<(String, String)>>;

fn parse(kind: Kind, version: &str, value: &Value, metadata: &Metadata) -> Parsed {
    if !kind.versions().contains(&version) {
        let known = kind.versions().join(", ");
        let reason = format!("version {version} of {} is not known; use one of {known}", kind.as_str());
        return Err(vec![("apiVersion".to_owned(), reason)]);
    }
    let namespace = metadata.namespace.as_str();
    let mut findings = Findings::default();
    let found = &mut findings;
    let spec = match kind {
        Kind::Gateway => {
            spec_of(value, found).map(|spec| Spec::Gateway(Gateway::parse(&spec, namespace, found)))
        }
        Kind::VirtualService => spec_of(value, found)
            .map(|spec| Spec::VirtualService(VirtualService::parse(&spec, namespace, found))),
        Kind::DestinationRule => spec_of(value, found)
            .and_then(|spec| DestinationRule::parse(&spec, namespace, found).map(Spec::DestinationRule)),
        Kind::ServiceEntry => {
            spec_of(value, found).map(|spec| Spec::ServiceEntry(ServiceEntry::parse(&spec, namespace, found)))
        }
        Kind::WorkloadEntry => {
            spec_of(value, found).and_then(|mut spec: schema::service_entry::WorkloadEntry| {
                // Istio selects by either kind of label, and lets the resource's own win.
                spec.labels.extend(metadata.labels.clone());
                Workload::parse(&spec, "spec", found).map(Spec::WorkloadEntry)
            })
        }
        Kind::EnvoyFilter => {
            spec_of(value, found).map(|spec| Spec::EnvoyFilter(EnvoyFilter::parse(&spec, found)))
        }
        Kind::Service => {
            spec_of(value, found).map(|spec| Spec::Service(Service::parse(&spec, metadata, found)))
        }
        Kind::EndpointSlice => decoded::<schema::core::EndpointSlice>("", value, found)
            .map(|slice| Spec::EndpointSlice(EndpointSlice::parse(&slice, metadata, found))),
        Kind::Secret => Some(Spec::Secret(secret::parse(value, found))),
        Kind::Pod => Some(Spec::Pod(Pod { labels: metadata.labels.clone() })),
        Kind::Namespace => Some(Spec::Namespace(Namespace::parse(metadata))),
        Kind::ClassGateway => spec_of(value, found).map(|spec: gateway_api::GatewaySpec| {
            let gateway = spec.translate(found).map(|gateway| Gateway::parse(&gateway, namespace, found));
            Spec::Gateway(gateway.unwrap_or_else(Gateway::none))
        }),
        Kind::TlsRoute => spec_of(value, found).map(|spec: gateway_api::RouteSpec| {
            let route = spec.translate(namespace, found);
            Spec::VirtualService(VirtualService::parse(&route, namespace, found))
        }),
        // An empty policy is one: it allows nobody.
        Kind::AuthorizationPolicy => match value.get("spec") {
            Some(spec) if !spec.is_null() => decoded("spec", spec, found),
            _ => Some(schema::authorization_policy::AuthorizationPolicy::default()),
        }
        .map(|spec| Spec::AuthorizationPolicy(AuthorizationPolicy::parse(&spec, found))),
    };
    match spec {
        Some(spec) if findings.refusals.is_empty() => Ok((spec, findings.notices)),
        _ => Err(findings.refusals),
    }
}

fn spec_of<T: DeserializeOwned>(value: &Value, findings: &mut Findings) -> Option<T> {
    match value.get("spec") {
        Some(spec) if !spec.is_null() => decoded("spec", spec, findings),
        _ => {
            findings.refuse("spec", "the resource has no spec; give it one");
            None
        }
    }
}

fn decoded<T: DeserializeOwned>(root: &str, value: &Value, findings: &mut Findings) -> Option<T> {
    decode(root, value).map_err(|(field, reason)| findings.refuse(field, reason)).ok()
}
