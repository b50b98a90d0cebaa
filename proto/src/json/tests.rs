use serde_json::{Value, json};

use super::*;
use crate::Message;
use crate::envoy::config::cluster::v3 as cluster;
use crate::envoy::config::listener::v3 as listener;
use crate::google::protobuf as pb;
use crate::istio::{TcpClusterRewrite, TypedStruct};

fn printed(type_url: &str, message: &impl Message) -> Value {
    serde_json::to_value(Json::new(type_url, &message.encode_to_vec())).unwrap()
}

fn any(type_url: &str, message: &impl Message) -> pb::Any {
    pb::Any { type_url: type_url.into(), value: message.encode_to_vec() }
}

#[test]
fn a_cluster_has_names_for_its_fields_and_enums() {
    let message = cluster::Cluster {
        name: "c".into(),
        connect_timeout: Some(pb::Duration { seconds: 1, nanos: 500_000_000 }),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(3)),
        per_connection_buffer_limit_bytes: Some(pb::UInt32Value { value: 7 }),
        ..Default::default()
    };
    let expected = json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": "c",
        "type": "EDS",
        "connect_timeout": "1.500s",
        "per_connection_buffer_limit_bytes": 7,
    });
    assert_eq!(printed("type.googleapis.com/envoy.config.cluster.v3.Cluster", &message), expected);
}

#[test]
fn anys_are_opened_and_what_is_not_known_stays_as_bytes() {
    let rewrite = TcpClusterRewrite { cluster_pattern: "a".into(), cluster_replacement: "b".into() };
    let fields = pb::Struct {
        fields: [("x".to_owned(), pb::Value { kind: Some(pb::value::Kind::StringValue("y".into())) })].into(),
    };
    let typed = TypedStruct { type_url: "t".into(), value: Some(fields) };
    let unknown = pb::Any { type_url: "type.googleapis.com/no.such.Type".into(), value: vec![1, 2, 3] };
    let damaged = pb::Any { type_url: TcpClusterRewrite::TYPE_URL.into(), value: vec![0xff] };
    let filter = |name: &str, any: pb::Any| listener::Filter {
        name: name.into(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any)),
    };
    let chain = listener::FilterChain {
        filters: vec![
            filter("rewrite", any(TcpClusterRewrite::TYPE_URL, &rewrite)),
            filter("typed", any("type.googleapis.com/udpa.type.v1.TypedStruct", &typed)),
            filter("unknown", unknown),
            filter("damaged", damaged),
        ],
        ..Default::default()
    };
    let printed = printed("type.googleapis.com/envoy.config.listener.v3.FilterChain", &chain);
    let config = |index: usize| &printed["filters"][index]["typed_config"];
    assert_eq!(config(0)["cluster_pattern"], "a");
    assert_eq!(config(1)["value"], json!({ "x": "y" }));
    assert_eq!(*config(2), json!({ "@type": "type.googleapis.com/no.such.Type", "value": "AQID" }));
    assert_eq!(*config(3), json!({ "@type": TcpClusterRewrite::TYPE_URL, "value": "/w==" }));
}

#[test]
fn maps_have_their_order_and_structs_their_own_form() {
    let number = |value| pb::Value { kind: Some(pb::value::Kind::NumberValue(value)) };
    let of = |name: &str| pb::Struct { fields: [(name.to_owned(), number(1.0))].into() };
    let metadata = crate::envoy::config::core::v3::Metadata {
        filter_metadata: [("z".to_owned(), of("b")), ("istio".to_owned(), of("a"))].into(),
        ..Default::default()
    };
    let text = serde_json::to_string(&Json::new(
        "type.googleapis.com/envoy.config.core.v3.Metadata",
        &metadata.encode_to_vec(),
    ))
    .unwrap();
    assert!(text.ends_with(r#""filter_metadata":{"istio":{"a":1.0},"z":{"b":1.0}}}"#), "{text}");
}

#[test]
fn an_any_of_a_type_with_its_own_form_has_a_value() {
    let duration = pb::Duration { seconds: 3, nanos: 0 };
    let type_url = "type.googleapis.com/google.protobuf.Duration";
    assert_eq!(printed(type_url, &duration), json!({ "@type": type_url, "value": "3s" }));
}

#[test]
fn anys_nested_without_end_do_not_exhaust_the_stack() {
    let type_url = "type.googleapis.com/google.protobuf.Any";
    let mut nested = pb::Any::default();
    for _ in 0..5_000 {
        nested = any(type_url, &nested);
    }
    assert!(serde_json::to_string(&Json::new(type_url, &nested.value)).is_ok());
}

#[test]
fn what_is_printed_can_be_read() {
    let rewrite = TcpClusterRewrite { cluster_pattern: "a".into(), cluster_replacement: "b".into() };
    let any = any(TcpClusterRewrite::TYPE_URL, &rewrite);
    let text = serde_json::to_string(&Json::new(&any.type_url, &any.value)).unwrap();
    assert_eq!(read("google.protobuf.Any", &text), Ok(any.encode_to_vec()));
    let error = read("envoy.config.cluster.v3.Cluster", "{\n\"nam\": 1}").unwrap_err().to_string();
    assert!(error.contains("nam") && error.contains("line 2"), "{error}");
}
