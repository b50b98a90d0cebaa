//! Settings of the conversation, and who we say we are.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::google::protobuf as pb;

use crate::locality::Locality;

/// Which of the two ADS methods is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Variant {
    /// `DeltaAggregatedResources`: only what changed is sent. Istio's default since 1.22.
    #[default]
    Delta,
    /// `StreamAggregatedResources`: state of the world; CDS and LDS answers are complete sets.
    Sotw,
}

/// Settings of the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long a cluster waits for its first endpoints before it is used without them. Envoy's
    /// `initial_fetch_timeout` default, which xds_protocol recommends for a resource that may not exist.
    pub init_timeout: Duration,
    /// How long a removed cluster stays for listeners that still name it, and a changed filter chain for its cluster.
    pub settle_timeout: Duration,
    /// What happens to an update that takes away suspiciously much.
    pub guard: Guard,
    /// Where a listener binds instead that is for this port of every address. A control plane knows the ports of the
    /// Gateway, and not what is free on this machine.
    pub bind: BTreeMap<u16, SocketAddr>,
    /// Types beyond CDS, EDS and LDS whose resources are only kept and handed on, not understood.
    pub extra_types: Vec<ExtraType>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            init_timeout: Duration::from_secs(15),
            settle_timeout: Duration::from_secs(15),
            guard: Guard::default(),
            bind: BTreeMap::new(),
            extra_types: Vec::new(),
        }
    }
}

/// The blast-radius guard: when an update is suspicious, and what to do then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// What to do.
    pub action: GuardAction,
    /// More than this share of the clusters going at once is suspicious, in percent ...
    pub max_removed_percent: u32,
    /// ... if it is at least so many: in a small mesh half of the clusters is an ordinary change.
    pub min_removed: usize,
}

impl Default for Guard {
    fn default() -> Self {
        Self { action: GuardAction::Warn, max_removed_percent: 50, min_removed: 5 }
    }
}

/// What the guard does with a suspicious update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardAction {
    /// Nothing.
    Off,
    /// Raises an alarm and applies the update.
    Warn,
    /// Raises an alarm and keeps back what the update takes away, for so long or until `Client::release`.
    Hold(Duration),
}

/// A type whose resources are kept and handed on as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraType {
    /// Such as `type.googleapis.com/istio.networking.nds.v1.NameTable`.
    pub type_url: String,
    /// The names to ask for; none asks for all.
    pub names: Vec<String>,
}

/// Who we are to the control plane. Istio's rules for id and metadata are the shell's business; here they are values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Such as `router~10.0.0.1~gateway-0.istio-system~istio-system.svc.cluster.local`.
    pub id: String,
    /// The service that the gateway is part of, such as `istio-eastwestgateway.istio-system`.
    pub cluster: String,
    /// Istio reads booleans and lists here as strings.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// Where the gateway stands.
    pub locality: Locality,
}

impl Node {
    pub(super) fn to_wire(&self) -> core::Node {
        core::Node {
            id: self.id.clone(),
            cluster: self.cluster.clone(),
            metadata: Some(to_struct(&self.metadata)),
            locality: Some(core::Locality {
                region: self.locality.region.clone(),
                zone: self.locality.zone.clone(),
                sub_zone: self.locality.subzone.clone(),
            }),
            user_agent_name: "eastgate".into(),
            user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentVersion(
                env!("CARGO_PKG_VERSION").into(),
            )),
            // Without it a server must not send a time to live:
            // https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#ttl
            client_features: vec!["xds.config.supports-resource-ttl".into()],
            ..Default::default()
        }
    }
}

fn to_struct(map: &serde_json::Map<String, serde_json::Value>) -> pb::Struct {
    let fields: HashMap<_, _> = map.iter().map(|(key, value)| (key.clone(), to_value(value))).collect();
    pb::Struct { fields }
}

fn to_value(value: &serde_json::Value) -> pb::Value {
    use pb::value::Kind;
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(*value),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(0.0)),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(values) => {
            Kind::ListValue(pb::ListValue { values: values.iter().map(to_value).collect() })
        }
        serde_json::Value::Object(map) => Kind::StructValue(to_struct(map)),
    };
    pb::Value { kind: Some(kind) }
}
