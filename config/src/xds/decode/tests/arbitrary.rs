//! Bytes that no control plane would send.

use proptest::prelude::*;

use super::*;
use crate::xds::tests::made;

/// Some bytes of every type, valid to begin with.
fn valid() -> Vec<(Kind, Vec<u8>)> {
    let mut listener = made::listener_message("x", &[("a.b", "c"), ("*.b", "d")]);
    listener.default_filter_chain = Some(made::chain("a.b", "c"));
    vec![
        (Kind::Cluster, made::eds("x", 1).any.unwrap().value),
        (Kind::Endpoints, made::cla("x", &[1, 2]).any.unwrap().value),
        (Kind::Listener, listener.encode_to_vec()),
    ]
}

fn decode_as_everything(bytes: &[u8]) {
    for kind in [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Extra(0)] {
        let name = name(kind, bytes).unwrap_or_else(|| "x".into());
        let _ = decode(kind, &name, bytes, None);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_as_everything(&bytes);
    }

    #[test]
    fn a_message_with_wrong_bytes_in_it_is_decoded_or_refused(
        which in 0..3_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let (_, mut bytes) = valid().swap_remove(which);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        decode_as_everything(&bytes);
    }
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    // Messages in messages: prost stops at a hundred. Socket in `Any` in socket: nobody would, so we do not begin.
    let mut rule = Vec::new();
    for _ in 0..10_000 {
        let mut outer = vec![0x42];
        prost_len(rule.len(), &mut outer);
        outer.extend(&rule);
        rule = outer;
    }
    decode_as_everything(&rule);
    use eastgate_proto::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
    use eastgate_proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
    let mut socket = TransportSocket::default();
    for _ in 0..2_000 {
        let outer = ProxyProtocolUpstreamTransport { transport_socket: Some(socket), ..Default::default() };
        let kind = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
        let config_type = Some(ConfigType::TypedConfig(super::packed(kind, &outer)));
        socket = TransportSocket { config_type, ..Default::default() };
    }
    let mut message = made::eds_message("x", 1);
    message.transport_socket = Some(socket);
    assert!(decode(Kind::Cluster, "x", &message.encode_to_vec(), None).is_ok());
}

fn prost_len(mut len: usize, bytes: &mut Vec<u8>) {
    while len > 127 {
        bytes.push((len & 127) as u8 | 128);
        len >>= 7;
    }
    bytes.push(len as u8);
}

#[test]
fn a_name_is_found_where_the_rest_cannot_be_read() {
    // Field 4 of a cluster is a message; here it has a length that its own field 1 cannot keep.
    let mut bytes = eastgate_proto::Named { name: "x".into() }.encode_to_vec();
    bytes.extend([0x22, 0x02, 0x0a, 0x7f]);
    assert_eq!(name(Kind::Cluster, &bytes).as_deref(), Some("x"));
    let problems = decode(Kind::Cluster, "x", &bytes, None).unwrap_err();
    assert!(told(&problems).contains("its bytes are no such message"));
}

#[test]
fn a_resource_under_another_name_than_its_own_is_refused() {
    let bytes = made::eds("x", 1).any.unwrap().value;
    let problems = decode(Kind::Cluster, "y", &bytes, None).unwrap_err();
    assert!(told(&problems).contains("it is sent as \"y\" but calls itself \"x\""));
}
