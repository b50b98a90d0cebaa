//! A DNS query over each transport: whatever it is, the answer can be read and fits.

#![no_main]

use std::sync::LazyLock;

use eastgate_config::names::{Name, Names};
use eastgate_fuzz::dns::answer::{Reply, Rules, Transport, answer};
use eastgate_fuzz::dns::name_table::NameTable;
use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;

static NAMES: LazyLock<NameTable> = LazyLock::new(|| {
    let name = |addresses: &[&str]| Name {
        addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
        automatic: false,
    };
    let many: Vec<String> = (0..200).map(|number| format!("10.0.{number}.1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let hosts = [
        ("httpbin.bar.global", name(&["240.240.0.1", "2001:2::1"])),
        ("httpbin.bar.svc.cluster.local", name(&["10.0.0.1"])),
        ("*.wild.global", name(&["10.0.0.2"])),
        ("many.bar.global", name(&many)),
        ("empty.bar.global", name(&[])),
    ];
    let pattern = |host: &str| host.parse().expect("a host");
    let names: Names = hosts.into_iter().map(|(host, name)| (pattern(host), name)).collect();
    NameTable::build(&names, 7)
});

static RULES: LazyLock<Rules> = LazyLock::new(|| Rules {
    zones: ["global", "svc.cluster.local"].map(|zone| zone.parse().expect("a zone")).into(),
    ttl: 30,
    negative_ttl: 5,
    max_udp_bytes: 1232,
    forwards: true,
});

fuzz_target!(|query: &[u8]| {
    for transport in [Transport::Udp, Transport::Tcp, Transport::Grpc] {
        let (bytes, query_is_ours) = match answer(query, Some(&NAMES), &RULES, transport, query.len()) {
            Reply::Answer { bytes, .. } => (bytes, true),
            Reply::Forward { failure, .. } => (failure, false),
            Reply::Silence => continue,
        };
        let most = if transport == Transport::Udp { 1232 } else { 65535 };
        assert!(bytes.len() <= most, "{} bytes over {transport:?}", bytes.len());
        let answered = Message::from_vec(&bytes).expect("an answer that can be read");
        assert_eq!(answered.metadata.id.to_be_bytes(), query[..2]);
        assert!(query_is_ours || answered.answers.is_empty());
    }
});
