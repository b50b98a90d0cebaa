use std::net::{Ipv4Addr, Ipv6Addr};

use eastgate_config::names::{Name as Entry, Names};
use proptest::prelude::*;

use super::*;

fn rules() -> Rules {
    Rules {
        zones: vec!["global".parse().unwrap()],
        ttl: 30,
        negative_ttl: 5,
        max_udp_bytes: 1232,
        forwards: false,
    }
}

fn table() -> NameTable {
    let entry = |addresses: &[&str]| Entry {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        automatic: false,
    };
    let many: Vec<String> = (0..200).map(|n| format!("10.0.{n}.1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let names: Names = [
        ("httpbin.bar.global", entry(&["127.255.0.3"])),
        ("dual.bar.global", entry(&["240.0.0.1", "240.0.0.2", "240.0.0.3", "2001:db8::1"])),
        ("*.wild.global", entry(&["240.0.0.4"])),
        ("*.outside.example", entry(&["240.0.0.5"])),
        ("api.outside.example", entry(&["240.0.0.6"])),
        ("many.bar.global", entry(&many)),
    ]
    .into_iter()
    .map(|(host, entry)| (host.parse().unwrap(), entry))
    .collect();
    NameTable::build(&names, 7)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, size: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size).set_version(version);
    message.edns = Some(edns);
    message
}

fn bytes_of(query: &Message, transport: Transport, rules: &Rules) -> Vec<u8> {
    match answer(&query.to_vec().unwrap(), Some(&table()), rules, transport, 0) {
        Reply::Answer { bytes, .. } => bytes,
        other => panic!("{other:?}"),
    }
}

fn asked(query: &Message) -> Message {
    Message::from_vec(&bytes_of(query, Transport::Udp, &rules())).unwrap()
}

fn code(name: &str, kind: RecordType) -> ResponseCode {
    asked(&query(name, kind)).metadata.response_code
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

#[test]
fn an_address_comes_in_the_case_that_was_asked_with_the_ttl_and_authority() {
    let asked_for = query("HttpBin.BAR.global.", RecordType::A);
    let answer = asked(&asked_for);
    assert_eq!(addresses(&answer), [IpAddr::from([127, 255, 0, 3])]);
    let [record] = answer.answers.as_slice() else { panic!("{answer}") };
    assert!(record.name.eq_case(&Name::from_ascii("HttpBin.BAR.global.").unwrap()), "{}", record.name);
    assert!(answer.queries[0].name.eq_case(&record.name));
    assert_eq!(
        (record.ttl, answer.metadata.authoritative, answer.metadata.id),
        (30, true, asked_for.metadata.id)
    );
    assert!(answer.metadata.recursion_desired && !answer.metadata.recursion_available);
}

#[test]
fn a_missing_type_is_no_error_and_a_missing_name_is_one_both_with_a_soa() {
    for (name, kind, expected, zone) in [
        ("httpbin.bar.global.", RecordType::AAAA, ResponseCode::NoError, "global."),
        ("httpbin.bar.global.", RecordType::MX, ResponseCode::NoError, "global."),
        ("bar.global.", RecordType::A, ResponseCode::NoError, "global."),
        ("wild.global.", RecordType::A, ResponseCode::NoError, "global."),
        ("global.", RecordType::A, ResponseCode::NoError, "global."),
        ("nothing.bar.global.", RecordType::A, ResponseCode::NXDomain, "global."),
        ("x.httpbin.bar.global.", RecordType::A, ResponseCode::NXDomain, "global."),
        // The dot inside the label is none between two.
        (r"httpbin\.bar.global.", RecordType::A, ResponseCode::NXDomain, "global."),
        ("x.outside.example.", RecordType::AAAA, ResponseCode::NoError, "outside.example."),
        ("api.outside.example.", RecordType::AAAA, ResponseCode::NoError, "api.outside.example."),
    ] {
        let answer = asked(&query(name, kind));
        assert_eq!(answer.metadata.response_code, expected, "{name} {kind}");
        assert!(answer.answers.is_empty() && answer.metadata.authoritative, "{name} {kind}");
        let [soa] = answer.authorities.as_slice() else { panic!("{name} {kind}: {answer}") };
        assert_eq!((soa.name.to_ascii().as_str(), soa.ttl), (zone, 5), "{name} {kind}");
        let RData::SOA(data) = &soa.data else { panic!("{soa}") };
        assert_eq!((data.minimum, data.serial), (5, 7));
    }
}

#[test]
fn wildcards_take_names_below_and_exact_names_come_first() {
    for (name, address) in [
        ("a.wild.global.", [240, 0, 0, 4]),
        ("a.b.wild.global.", [240, 0, 0, 4]),
        ("x.outside.example.", [240, 0, 0, 5]),
        ("api.outside.example.", [240, 0, 0, 6]),
    ] {
        assert_eq!(addresses(&asked(&query(name, RecordType::A))), [IpAddr::from(address)], "{name}");
    }
}

#[test]
fn what_is_not_the_meshs_is_refused_or_another_resolvers() {
    for (name, kind) in [
        ("example.com.", RecordType::A),
        ("outside.example.", RecordType::A),
        ("globalx.", RecordType::A),
        (".", RecordType::NS),
        ("1.1.1.10.in-addr.arpa.", RecordType::PTR),
    ] {
        let asked_for = query(name, kind);
        assert_eq!(asked(&asked_for).metadata.response_code, ResponseCode::Refused, "{name}");
        let forwarding = Rules { forwards: true, ..rules() };
        let bytes = asked_for.to_vec().unwrap();
        let Reply::Forward { failure, .. } = answer(&bytes, Some(&table()), &forwarding, Transport::Udp, 0)
        else {
            panic!("{name} is not forwarded")
        };
        assert_eq!(Message::from_vec(&failure).unwrap().metadata.response_code, ResponseCode::ServFail);
        // A client that wants no recursion gets none.
        let mut iterative = asked_for;
        iterative.metadata.recursion_desired = false;
        let refused = bytes_of(&iterative, Transport::Udp, &forwarding);
        assert_eq!(
            Message::from_vec(&refused).unwrap().metadata.response_code,
            ResponseCode::Refused,
            "{name}"
        );
    }
}

#[test]
fn an_address_leads_to_its_hosts() {
    let answer = asked(&query("3.0.255.127.in-addr.arpa.", RecordType::PTR));
    let [record] = answer.answers.as_slice() else { panic!("{answer}") };
    assert_eq!(record.data.to_string(), "httpbin.bar.global.");
    let v6 = Name::from("2001:db8::1".parse::<Ipv6Addr>().unwrap()).to_ascii();
    assert_eq!(asked(&query(&v6, RecordType::PTR)).answers[0].data.to_string(), "dual.bar.global.");
    assert_eq!(code("3.0.255.127.in-addr.arpa.", RecordType::A), ResponseCode::NoError);
    // Of the automatic ranges we know that there is no other.
    let unknown = asked(&query("9.9.240.240.in-addr.arpa.", RecordType::PTR));
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(unknown.authorities[0].name.to_ascii(), "240.240.in-addr.arpa.");
    let unknown = Name::from("2001:2::1".parse::<Ipv6Addr>().unwrap()).to_ascii();
    let unknown = asked(&query(&unknown, RecordType::PTR));
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(unknown.authorities[0].name.to_ascii(), "0.0.0.0.2.0.0.0.1.0.0.2.ip6.arpa.");
    assert_eq!(code("9.240.240.in-addr.arpa.", RecordType::PTR), ResponseCode::NoError);
    assert_eq!(code("240.in-addr.arpa.", RecordType::PTR), ResponseCode::Refused);
}

#[test]
fn any_is_answered_with_as_little_as_can_be() {
    let answer = asked(&query("dual.bar.global.", RecordType::ANY));
    let [record] = answer.answers.as_slice() else { panic!("{answer}") };
    assert_eq!(record.record_type(), RecordType::HINFO);
    assert_eq!(code("nothing.global.", RecordType::ANY), ResponseCode::NXDomain);
}

#[test]
fn the_zone_itself_has_a_soa() {
    let answer = asked(&query("global.", RecordType::SOA));
    assert_eq!(answer.answers[0].record_type(), RecordType::SOA);
}

#[test]
fn other_classes_transfers_and_operations_are_refused() {
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(asked(&chaos).metadata.response_code, ResponseCode::Refused);
    assert_eq!(code("global.", RecordType::AXFR), ResponseCode::Refused);
    let mut notify = query("global.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(asked(&notify).metadata.response_code, ResponseCode::NotImp);
}

#[test]
fn there_is_one_question_and_it_can_be_read() {
    let mut two = query("a.global.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("b.global.").unwrap(), RecordType::A));
    assert_eq!(asked(&two).metadata.response_code, ResponseCode::FormErr);
    let mut none = query("a.global.", RecordType::A);
    none.queries.clear();
    assert_eq!(asked(&none).metadata.response_code, ResponseCode::FormErr);
    let whole = query("a.global.", RecordType::A).to_vec().unwrap();
    let Reply::Answer { bytes, verdict } = answer(&whole[..15], Some(&table()), &rules(), Transport::Udp, 0)
    else {
        panic!("no answer to a broken question")
    };
    assert_eq!((verdict.code, &bytes[..2]), ("FORMERR", &whole[..2]));
}

#[test]
fn answers_and_stumps_are_not_answered() {
    let response = query("a.global.", RecordType::A).into_response().to_vec().unwrap();
    for bytes in [response.as_slice(), &response[..11], &[]] {
        assert_eq!(answer(bytes, Some(&table()), &rules(), Transport::Udp, 0), Reply::Silence);
    }
}

#[test]
fn before_the_first_table_everything_fails_for_now() {
    let bytes = query("httpbin.bar.global.", RecordType::A).to_vec().unwrap();
    let Reply::Answer { verdict, .. } = answer(&bytes, None, &rules(), Transport::Udp, 0) else {
        panic!("silence")
    };
    assert_eq!(verdict, Verdict { kind: "A", code: "SERVFAIL" });
}

#[test]
fn edns_is_answered_with_edns_and_a_version_to_come_is_told() {
    let plain = asked(&query("httpbin.bar.global.", RecordType::A));
    assert!(plain.edns.is_none());
    let asked_for = with_edns(query("httpbin.bar.global.", RecordType::A), 4096, 0);
    assert_eq!(asked(&asked_for).edns.map(|edns| edns.max_payload()), Some(1232));
    let future = with_edns(query("httpbin.bar.global.", RecordType::A), 4096, 1);
    let bytes = bytes_of(&future, Transport::Udp, &rules());
    let answer = Message::from_vec(&bytes).unwrap();
    // BADVERS is 16: nothing in the header, 1 in the OPT record.
    assert_eq!((bytes[3] & 0x0f, answer.edns.as_ref().unwrap().rcode_high()), (0, 1));
    assert_eq!(answer.edns.unwrap().version(), 0);
    assert!(answer.answers.is_empty());
}

#[test]
fn what_does_not_fit_is_cut_and_marked_and_whole_over_tcp() {
    let plain = query("many.bar.global.", RecordType::A);
    let large = with_edns(query("many.bar.global.", RecordType::A), 65535, 0);
    for (asked_for, room) in [(&plain, 512), (&large, 1232)] {
        let bytes = bytes_of(asked_for, Transport::Udp, &rules());
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(
            answer.metadata.truncation && bytes.len() <= room && bytes.len() + 16 > room,
            "{}",
            bytes.len()
        );
        assert_eq!(answer.edns.is_some(), asked_for.edns.is_some());
    }
    let whole = Message::from_vec(&bytes_of(&plain, Transport::Tcp, &rules())).unwrap();
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
}

#[test]
fn each_address_is_first_in_its_turn() {
    let bytes = query("dual.bar.global.", RecordType::A).to_vec().unwrap();
    let firsts: Vec<IpAddr> = (0..6)
        .map(|turn| match answer(&bytes, Some(&table()), &rules(), Transport::Udp, turn) {
            Reply::Answer { bytes, .. } => {
                let all = addresses(&Message::from_vec(&bytes).unwrap());
                assert_eq!(all.len(), 3);
                all[0]
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(firsts[..3], firsts[3..]);
    let mut distinct = firsts[..3].to_vec();
    distinct.sort();
    assert_eq!(distinct, [1, 2, 3].map(|last| IpAddr::V4(Ipv4Addr::new(240, 0, 0, last))));
}

/// Queries that are nearly right: their bytes, and one of them changed.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let good = prop::sample::select(vec![
        query("httpbin.bar.global.", RecordType::A).to_vec().unwrap(),
        with_edns(query("many.bar.global.", RecordType::A), 1232, 0).to_vec().unwrap(),
        query("3.0.255.127.in-addr.arpa.", RecordType::PTR).to_vec().unwrap(),
    ]);
    (good, any::<prop::sample::Index>(), any::<u8>(), any::<prop::sample::Index>()).prop_map(
        |(mut bytes, at, byte, end)| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(end.index(bytes.len() * 2).max(1).min(bytes.len()));
            bytes
        },
    )
}

proptest! {
    #[test]
    fn whatever_comes_an_answer_can_be_read_fits_and_belongs_to_its_query(
        bytes in prop_oneof![nearly(), prop::collection::vec(any::<u8>(), 0..600)], turn in any::<usize>(), tcp in any::<bool>()
    ) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        if let Reply::Answer { bytes: answer, .. } = answer(&bytes, Some(&table()), &rules(), transport, turn) {
            let message = Message::from_vec(&answer).unwrap();
            prop_assert_eq!(&answer[..2], &bytes[..2]);
            prop_assert_eq!(message.metadata.message_type, MessageType::Response);
            prop_assert!(tcp || answer.len() <= 1232);
        }
    }

    #[test]
    fn case_changes_no_address(upper in prop::collection::vec(any::<bool>(), 18)) {
        let name: String = "httpbin.bar.global".chars().zip(upper)
            .map(|(c, upper)| if upper { c.to_ascii_uppercase() } else { c }).collect();
        let answer = asked(&query(&format!("{name}."), RecordType::A));
        prop_assert_eq!(addresses(&answer), [IpAddr::from([127, 255, 0, 3])]);
        prop_assert_eq!(answer.answers[0].name.to_ascii(), format!("{name}."));
    }
}
