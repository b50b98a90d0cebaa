//! FilterChainMatch: which connections a filter chain takes.

use eastgate_proto::envoy::config::listener::v3 as wire;
use wire::filter_chain_match::ConnectionSourceType;

use super::Problem;
use super::values::{port, ranges};
use crate::listener::{ChainMatch, ConnectionMatch, Source, Transport};
use crate::server_name::Pattern;

pub(super) fn decode(message: Option<&wire::FilterChainMatch>) -> Result<ChainMatch, Problem> {
    let Some(message) = message else { return Ok(anything()) };
    if !message.address_suffix.is_empty() || message.suffix_len.is_some() {
        return Err(Problem::at("address_suffix", "Envoy does not implement it either"));
    }
    let mut server_names = Vec::with_capacity(message.server_names.len());
    for (index, name) in message.server_names.iter().enumerate() {
        let pattern = name.parse::<Pattern>().map_err(|error| {
            Problem::at(format!("server_names[{index}]"), format!("{name:?} matches nothing: {error}"))
        })?;
        server_names.push(pattern);
    }
    let needs_hello = !server_names.is_empty() || !message.application_protocols.is_empty();
    let transport = match message.transport_protocol.as_str() {
        // A connection without a ClientHello has no name and offers no protocol.
        "" if needs_hello => Transport::Tls,
        "" => Transport::Any,
        "tls" => Transport::Tls,
        "raw_buffer" if needs_hello => {
            return Err(Problem::at("transport_protocol", "a connection that is not TLS has no server name"));
        }
        "raw_buffer" => Transport::Raw,
        other => {
            return Err(Problem::at(
                "transport_protocol",
                format!("{other:?} is neither tls nor raw_buffer"),
            ));
        }
    };
    if server_names.is_empty() {
        server_names.push(Pattern::Any);
    }
    Ok(ChainMatch {
        server_names,
        application_protocols: message.application_protocols.clone(),
        sent_as: Vec::new(),
        connection: connection(message, transport)?,
    })
}

/// What a filter chain without a match takes.
fn anything() -> ChainMatch {
    ChainMatch {
        server_names: vec![Pattern::Any],
        connection: ConnectionMatch { transport: Transport::Any, ..Default::default() },
        ..Default::default()
    }
}

fn connection(message: &wire::FilterChainMatch, transport: Transport) -> Result<ConnectionMatch, Problem> {
    let destination_port = message.destination_port.map(|value| port("destination_port", value.value));
    let source_ports = message.source_ports.iter().map(|value| port("source_ports", *value));
    let source = match ConnectionSourceType::try_from(message.source_type) {
        Ok(ConnectionSourceType::Any) => None,
        Ok(ConnectionSourceType::SameIpOrLoopback) => Some(Source::Local),
        Ok(ConnectionSourceType::External) => Some(Source::External),
        Err(_) => {
            return Err(Problem::at("source_type", format!("{} is not known here", message.source_type)));
        }
    };
    Ok(ConnectionMatch {
        transport,
        destination_port: destination_port.transpose()?,
        destination_ranges: ranges("prefix_ranges", &message.prefix_ranges)?,
        source_ranges: ranges("source_prefix_ranges", &message.source_prefix_ranges)?,
        direct_source_ranges: ranges("direct_source_prefix_ranges", &message.direct_source_prefix_ranges)?,
        source_ports: source_ports.collect::<Result<_, _>>()?,
        source,
    })
}
