//! Question + names → answer, as bytes. No socket, clock or chance: what turns by itself is told as a number.

use std::net::IpAddr;

use eastgate_config::names::{AUTOMATIC_V4, AUTOMATIC_V6};
use eastgate_config::server_name::ServerName;
use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{HINFO, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::name_table::NameTable;

/// What answers look like, whatever the names.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Domains in which a name that is not in the table does not exist.
    pub zones: Vec<ServerName>,
    /// Seconds that an answer may be kept.
    pub ttl: u32,
    /// Seconds that it may be kept that there is none.
    pub negative_ttl: u32,
    /// The most bytes of an answer over UDP.
    pub max_udp_bytes: u16,
    /// There are resolvers for names that are not the mesh's.
    pub forwards: bool,
}

/// How a query came, which bounds its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One packet.
    Udp,
    /// Up to 65,535 bytes.
    Tcp,
    /// Like TCP; CoreDNS cuts it to what its own client takes.
    Grpc,
}

impl Transport {
    /// As a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Grpc => "grpc",
        }
    }
}

/// What becomes of a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// These bytes go back.
    Answer {
        /// The message.
        bytes: Vec<u8>,
        /// What it says, for counting.
        verdict: Verdict,
    },
    /// Another resolver has to say; where none can, this goes back.
    Forward {
        /// SERVFAIL.
        failure: Vec<u8>,
        /// What was asked for, as a label.
        kind: &'static str,
    },
    /// It is no query. Whatever it is, an answer might go back and forth for ever.
    Silence,
}

/// What was asked and what the answer is, as labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The record type.
    pub kind: &'static str,
    /// The response code.
    pub code: &'static str,
}

/// What the table says of a question.
enum Found {
    /// These.
    Records(Vec<RData>),
    /// The name is there, without such a record, in this zone.
    Nothing { zone: Name },
    /// There is no such name in this zone.
    NoName { zone: Name },
    /// The name is not ours.
    NotOurs,
}

/// Answers a query. `names` are none before there was a table; `turn` is another number for every query.
pub fn answer(
    query: &[u8],
    names: Option<&NameTable>,
    rules: &Rules,
    transport: Transport,
    turn: usize,
) -> Reply {
    let Ok(header) = Header::read(&mut BinDecoder::new(query)) else { return Reply::Silence };
    if header.metadata.message_type == MessageType::Response {
        return Reply::Silence;
    }
    let mut response = Message::response(header.metadata.id, header.metadata.op_code);
    response.metadata.recursion_desired = header.metadata.recursion_desired;
    response.metadata.checking_disabled = header.metadata.checking_disabled;
    response.metadata.recursion_available = rules.forwards;
    if header.metadata.op_code != OpCode::Query {
        return finish(response, ResponseCode::NotImp, "other", usize::from(rules.max_udp_bytes));
    }
    // Of several questions only one could be answered (RFC 9619).
    let message = (header.counts.queries == 1).then(|| Message::from_vec(query).ok()).flatten();
    let Some((question, edns)) = message.and_then(|mut message| Some((message.queries.pop()?, message.edns)))
    else {
        return finish(response, ResponseCode::FormErr, "other", usize::from(rules.max_udp_bytes));
    };
    let kind = label_of(question.query_type);
    let room = room(transport, edns.as_ref(), rules);
    let version = edns.as_ref().map_or(0, Edns::version);
    response.edns = edns.map(|edns| own_edns(&edns, rules));
    response.queries.push(question.clone());
    if version != 0 {
        return finish(response, ResponseCode::BADVERS, kind, room);
    }
    let transfer = matches!(question.query_type, RecordType::AXFR | RecordType::IXFR);
    if question.query_class != DNSClass::IN || transfer {
        return finish(response, ResponseCode::Refused, kind, room);
    }
    let Some(names) = names else { return finish(response, ResponseCode::ServFail, kind, room) };
    match find(&question, names, rules, turn) {
        Found::Records(records) => {
            let record = |data| Record::from_rdata(question.name.clone(), rules.ttl, data);
            response.answers = records.into_iter().map(record).collect();
            response.metadata.authoritative = true;
            finish(response, ResponseCode::NoError, kind, room)
        }
        Found::Nothing { zone } => {
            negative(response, ResponseCode::NoError, zone, names, rules, (kind, room))
        }
        Found::NoName { zone } => {
            negative(response, ResponseCode::NXDomain, zone, names, rules, (kind, room))
        }
        Found::NotOurs if rules.forwards && header.metadata.recursion_desired => {
            match finish(response, ResponseCode::ServFail, kind, room) {
                Reply::Answer { bytes, .. } => Reply::Forward { failure: bytes, kind },
                other => other,
            }
        }
        Found::NotOurs => finish(response, ResponseCode::Refused, kind, room),
    }
}

fn find(question: &Query, names: &NameTable, rules: &Rules, turn: usize) -> Found {
    let name = key(&question.name);
    let zone = rules
        .zones
        .iter()
        .map(ServerName::as_str)
        .filter(|zone| is_under(&name, zone))
        .max_by_key(|zone| zone.len());
    if let Some((addresses, of)) = names.find(&name) {
        // Outside the mesh's zones each host (or what a wildcard stands for) is a zone of its own.
        let zone = zone.unwrap_or(of);
        let records: Vec<RData> = match question.query_type {
            RecordType::A => turned(&addresses.v4, turn).map(|address| RData::A((*address).into())).collect(),
            RecordType::AAAA => {
                turned(&addresses.v6, turn).map(|address| RData::AAAA((*address).into())).collect()
            }
            // All there is would invite misuse (https://www.rfc-editor.org/rfc/rfc8482).
            RecordType::ANY => vec![RData::HINFO(HINFO::new("RFC8482".into(), String::new()))],
            RecordType::SOA if name == zone => vec![soa(&wire(zone), names, rules)],
            _ => Vec::new(),
        };
        return if records.is_empty() {
            Found::Nothing { zone: wire(zone) }
        } else {
            Found::Records(records)
        };
    }
    match zone {
        Some(zone) if question.query_type == RecordType::SOA && name == zone => {
            Found::Records(vec![soa(&wire(zone), names, rules)])
        }
        // https://www.rfc-editor.org/rfc/rfc8020: no name at all is below one that is not there.
        Some(zone) if name == zone || names.has_below(&name) => Found::Nothing { zone: wire(zone) },
        Some(zone) => Found::NoName { zone: wire(zone) },
        None => find_address(question, names),
    }
}

/// Looks the other way: from an address to its hosts.
fn find_address(question: &Query, names: &NameTable) -> Found {
    let Ok(range) = question.name.parse_arpa_name() else { return Found::NotOurs };
    let (address, is_whole) = (range.addr(), range.prefix_len() == range.max_prefix_len());
    let hosts = if is_whole { names.hosts_of(address) } else { &[] };
    let wanted = matches!(question.query_type, RecordType::PTR | RecordType::ANY);
    if !hosts.is_empty() {
        return match wanted {
            true => Found::Records(hosts.iter().map(|host| RData::PTR(PTR(wire(host)))).collect()),
            false => Found::Nothing { zone: question.name.to_lowercase() },
        };
    }
    let (automatic, labels) = match address {
        IpAddr::V4(_) => (AUTOMATIC_V4, 4),
        IpAddr::V6(_) => (AUTOMATIC_V6, 14),
    };
    let deep_enough = u32::from(range.prefix_len()) >= automatic.prefix_len();
    if !deep_enough || !automatic.contains(address) {
        return Found::NotOurs;
    }
    let zone = question.name.trim_to(labels).to_lowercase();
    if is_whole { Found::NoName { zone } } else { Found::Nothing { zone } }
}

/// With the SOA record that says how long "no" may be kept (<https://www.rfc-editor.org/rfc/rfc2308#section-3>).
fn negative(
    mut response: Message,
    code: ResponseCode,
    zone: Name,
    names: &NameTable,
    rules: &Rules,
    (kind, room): (&'static str, usize),
) -> Reply {
    let soa = soa(&zone, names, rules);
    response.authorities.push(Record::from_rdata(zone, rules.negative_ttl, soa));
    response.metadata.authoritative = true;
    finish(response, code, kind, room)
}

fn soa(zone: &Name, names: &NameTable, rules: &Rules) -> RData {
    let below = |labels: &[&str]| {
        let name = Name::from_labels(labels.iter().map(|label| label.as_bytes()));
        name.and_then(|name| name.append_domain(zone)).unwrap_or_else(|_| zone.clone())
    };
    let (server, mailbox) = (below(&["ns", "dns"]), below(&["hostmaster"]));
    RData::SOA(SOA::new(server, mailbox, names.serial, 7200, 1800, 86400, rules.negative_ttl))
}

/// Writes it, with as many of its answers as there is room for.
fn finish(mut response: Message, code: ResponseCode, kind: &'static str, room: usize) -> Reply {
    response.metadata.response_code = code;
    let written = match response.to_vec() {
        Ok(bytes) if bytes.len() > room => cut(response, room),
        written => written,
    };
    match written {
        Ok(bytes) => Reply::Answer { bytes, verdict: Verdict { kind, code: label_of_code(code) } },
        Err(_) => Reply::Silence,
    }
}

/// A client that sees the mark asks again over TCP; one that does not has some of the addresses at least.
fn cut(mut response: Message, room: usize) -> Result<Vec<u8>, ProtoError> {
    response.metadata.truncation = true;
    response.authorities.clear();
    let all = std::mem::take(&mut response.answers);
    let mut longest = response.to_vec()?;
    let (mut fits, mut too_many) = (0, all.len());
    while fits + 1 < too_many {
        let count = usize::midpoint(fits, too_many);
        response.answers = all[..count].to_vec();
        let bytes = response.to_vec()?;
        if bytes.len() <= room {
            (fits, longest) = (count, bytes);
        } else {
            too_many = count;
        }
    }
    Ok(longest)
}

fn room(transport: Transport, edns: Option<&Edns>, rules: &Rules) -> usize {
    let room = match transport {
        // https://www.rfc-editor.org/rfc/rfc6891#section-6.2.3: less than 512 is to be read as 512.
        Transport::Udp => edns.map_or(512, |edns| edns.max_payload().clamp(512, rules.max_udp_bytes)),
        Transport::Tcp | Transport::Grpc => u16::MAX,
    };
    usize::from(room)
}

fn own_edns(asked: &Edns, rules: &Rules) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(rules.max_udp_bytes).set_dnssec_ok(asked.flags().dnssec_ok);
    edns
}

/// The name in the form of the table: lower case and without the last dot. A byte that no host has becomes one that
/// none has either, so that a dot inside a label does not look like one between two.
fn key(name: &Name) -> String {
    let mut key = String::with_capacity(name.len());
    for label in name.iter() {
        if !key.is_empty() {
            key.push('.');
        }
        let plain = |byte: &u8| {
            if byte.is_ascii_graphic() && *byte != b'.' { byte.to_ascii_lowercase() } else { b'\\' }
        };
        key.extend(label.iter().map(plain).map(char::from));
    }
    key
}

/// A host of the table as it stands in a message. It was checked when it came in.
fn wire(host: &str) -> Name {
    Name::from_labels(host.split('.').map(str::as_bytes)).unwrap_or_default()
}

fn is_under(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// All of them, each first in its turn: most clients take the first.
fn turned<T>(all: &[T], turn: usize) -> impl Iterator<Item = &T> {
    let (front, back) = all.split_at(turn.checked_rem(all.len()).unwrap_or(0));
    back.iter().chain(front)
}

/// What a query asks for, as one of few labels.
fn label_of(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::ANY => "ANY",
        RecordType::CNAME => "CNAME",
        RecordType::HTTPS => "HTTPS",
        RecordType::MX => "MX",
        RecordType::NS => "NS",
        RecordType::PTR => "PTR",
        RecordType::SOA => "SOA",
        RecordType::SRV => "SRV",
        RecordType::TXT => "TXT",
        _ => "other",
    }
}

/// The code of a message's header, as a label.
pub(super) fn code_of(message: &[u8]) -> &'static str {
    message.get(3).map_or("other", |byte| label_of_code(ResponseCode::from_low(byte & 0x0f)))
}

fn label_of_code(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
