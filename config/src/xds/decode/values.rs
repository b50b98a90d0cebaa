//! Small values that occur in several messages.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::envoy::r#type::v3::Percent;
use eastgate_proto::google::protobuf as pb;

use super::Problem;
use crate::cidr::Cidr;
use crate::cluster::Keepalive;

/// A duration that may be left out. protobuf allows negative ones; a timeout is none.
pub(super) fn duration(field: &str, value: Option<pb::Duration>) -> Result<Option<Duration>, Problem> {
    let Some(value) = value else { return Ok(None) };
    let seconds = u64::try_from(value.seconds).ok();
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        // The largest that protobuf allows (10,000 years); it keeps sums with the clock far from overflow.
        (Some(seconds), Some(nanos)) if seconds <= 315_576_000_000 => Ok(Some(Duration::new(seconds, nanos))),
        _ => Err(Problem::at(field, "it is no duration from 0 to 10,000 years")),
    }
}

/// The whole part of a percentage that may be left out.
pub(super) fn percent(field: &str, value: Option<Percent>) -> Result<Option<u32>, Problem> {
    match value {
        None => Ok(None),
        // Truncation is Envoy's way, too, and the range makes it safe; a NaN is in no range.
        Some(Percent { value }) if (0.0..=100.0).contains(&value) => Ok(Some(value as u32)),
        Some(_) => Err(Problem::at(field, "it is no percentage from 0 to 100")),
    }
}

/// Thousandths of a factor that may be left out.
pub(super) fn thousandths(field: &str, value: Option<f64>) -> Result<Option<u32>, Problem> {
    match value {
        None => Ok(None),
        Some(value) if (0.0..=1_000_000.0).contains(&value) => Ok(Some((value * 1000.0).round() as u32)),
        Some(_) => Err(Problem::at(field, "it is no factor from 0 to 1,000,000")),
    }
}

pub(super) fn port(field: &str, value: u32) -> Result<u16, Problem> {
    u16::try_from(value).map_err(|_| Problem::at(field, format!("{value} is no port")))
}

/// An address as Envoy has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Ip(SocketAddr),
    Name(String, u16),
    /// Reachable from inside an Envoy alone.
    Internal,
}

pub(super) fn address(field: &str, value: Option<&core::Address>) -> Result<Address, Problem> {
    use core::address::Address as Wire;
    match value.and_then(|value| value.address.as_ref()) {
        Some(Wire::SocketAddress(socket)) => {
            socket_address(socket).map_err(|problem| problem.inside("socket_address").inside(field))
        }
        Some(Wire::EnvoyInternalAddress(_) | Wire::Pipe(_)) => Ok(Address::Internal),
        None => Err(Problem::at(field, "there is no address")),
    }
}

fn socket_address(socket: &core::SocketAddress) -> Result<Address, Problem> {
    use core::socket_address::PortSpecifier;
    if socket.protocol != core::socket_address::Protocol::Tcp as i32 {
        return Err(Problem::at("protocol", "only TCP is relayed"));
    }
    if !socket.network_namespace_filepath.is_empty() {
        return Err(Problem::at("network_namespace_filepath", "other network namespaces are not entered"));
    }
    let port = match socket.port_specifier {
        Some(PortSpecifier::PortValue(value)) => port("port_value", value)?,
        Some(PortSpecifier::NamedPort(_)) => return Err(Problem::at("named_port", "ports are numbers here")),
        None => return Err(Problem::at("port_value", "there is no port")),
    };
    match socket.address.parse::<IpAddr>() {
        Ok(ip) => Ok(Address::Ip(SocketAddr::new(ip, port))),
        Err(_) if is_host(&socket.address) => Ok(Address::Name(socket.address.clone(), port)),
        Err(_) => {
            Err(Problem::at("address", format!("{:?} is neither an IP address nor a name", socket.address)))
        }
    }
}

fn is_host(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=255).contains(&text.len()) && text.bytes().all(plain)
}

pub(super) fn ranges(field: &str, values: &[core::CidrRange]) -> Result<Vec<Cidr>, Problem> {
    values.iter().enumerate().map(|(index, value)| range(&format!("{field}[{index}]"), value)).collect()
}

pub(super) fn range(field: &str, value: &core::CidrRange) -> Result<Cidr, Problem> {
    let len = value.prefix_len.map_or(0, |len| len.value);
    let address = value.address_prefix.parse::<IpAddr>().ok();
    address.and_then(|address| Cidr::new(address, len)).ok_or_else(|| {
        Problem::at(field, format!("{:?}/{len} is no range of IP addresses", value.address_prefix))
    })
}

/// Times that are left out are Linux's own.
pub(super) fn keepalive(value: core::TcpKeepalive) -> Keepalive {
    let seconds = |value: Option<pb::UInt32Value>, default: u64| {
        Duration::from_secs(value.map_or(default, |value| u64::from(value.value)))
    };
    Keepalive {
        time: seconds(value.keepalive_time, 7200),
        interval: seconds(value.keepalive_interval, 75),
        probes: value.keepalive_probes.map_or(9, |probes| probes.value),
    }
}

/// A text in a protobuf struct, by its path.
pub(super) fn text_at<'a>(fields: &'a pb::Struct, path: &[&str]) -> Option<&'a str> {
    use pb::value::Kind;
    let (first, rest) = path.split_first()?;
    match (fields.fields.get(*first)?.kind.as_ref()?, rest) {
        (Kind::StringValue(text), []) => Some(text),
        (Kind::StructValue(inner), [_, ..]) => text_at(inner, rest),
        _ => None,
    }
}

/// The texts of a protobuf struct, sorted by key; what is no text is left out.
pub(super) fn labels(fields: &pb::Struct) -> Vec<(String, String)> {
    let text = |(key, _): (&String, &pb::Value)| Some((key.clone(), text_at(fields, &[key])?.to_owned()));
    let mut labels: Vec<_> = fields.fields.iter().filter_map(text).collect();
    labels.sort();
    labels
}

/// The message type that an `Any` holds, without the authority before it.
pub(super) fn kind(any: &pb::Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}
