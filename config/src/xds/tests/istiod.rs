//! What istiod does beside the protocol.

use super::*;
use eastgate_proto::istio::{NameInfo, NameTable};

#[test]
fn a_change_that_istiod_dropped_as_stale_is_repeated_under_the_newest_nonce() {
    // istiod ignores a request whose nonce is not its newest without a word, so the change has to be in the ACK of
    // whatever was under way.
    let mut rig = Rig::new(Variant::Sotw);
    rig.push(CLUSTER, vec![eds("a", 1)], &[]);
    rig.push(ENDPOINTS, vec![cla("a", &[1])], &[]);
    rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
    let said = rig.push(ENDPOINTS, vec![cla("a", &[2])], &[]);
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].nonce.as_str(), said[0].names.as_slice()), ("n4", &["a".to_owned(), "b".into()][..]));
}

#[test]
fn endpoints_that_istiod_has_no_reason_to_send_again_are_remembered() {
    // a goes and comes back while an EDS response is under way. Both changes of subscription are dropped as stale,
    // the names in the ACK are those that istiod knows, and it sends nothing.
    let mut rig = Rig::new(Variant::Sotw);
    rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
    rig.push(ENDPOINTS, vec![cla("a", &[1]), cla("b", &[2])], &[]);
    rig.push(CLUSTER, vec![eds("b", 1)], &[]);
    rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
    rig.push(ENDPOINTS, vec![cla("b", &[3])], &[]);
    rig.wait(15);
    assert_eq!(rig.hosts("a"), Some(vec![host(1)]));
}

#[test]
fn a_partial_endpoints_push_deletes_nothing() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
    rig.push(ENDPOINTS, vec![cla("a", &[1]), cla("b", &[2])], &[]);
    rig.client.poll_changes();
    rig.push(ENDPOINTS, vec![cla("b", &[3])], &[]);
    let changes = rig.client.poll_changes().unwrap();
    assert!(changes.clusters.iter().eq(["b"]) && changes.listeners.is_empty());
    assert_eq!(rig.hosts("a"), Some(vec![host(1)]));
}

#[test]
fn an_empty_list_of_names_is_sent_only_when_the_last_cluster_is_gone() {
    let mut rig = Rig::new(Variant::Sotw);
    let mut said = rig.push(CLUSTER, vec![bad("a")], &[]);
    said.extend(rig.push(CLUSTER, vec![eds("a", 1)], &[]));
    said.extend(rig.push(ENDPOINTS, vec![cla("a", &[1])], &[]));
    said.extend(rig.push(CLUSTER, vec![bad("a")], &[]));
    assert!(said.iter().filter(|said| said.kind == "EDS").all(|said| said.names == ["a"]), "{said:?}");
    let said = rig.push(CLUSTER, vec![], &[]);
    assert!(said[1].kind == "EDS" && said[1].names.is_empty() && said[1].nonce == "n3");
    // And the next cluster is asked for as on any other day.
    let said = rig.push(CLUSTER, vec![eds("b", 1)], &[]);
    assert_eq!(said[1].names, ["b"]);
}

#[test]
fn an_ack_never_asks_for_a_full_response() {
    // istiod answers an empty nonce with everything.
    let mut rig = Rig::new(Variant::Sotw);
    rig.settle();
    for _ in 0..3 {
        let said = rig.push(CLUSTER, vec![eds("a", 1)], &[]);
        assert!(said.iter().all(|said| !said.nonce.is_empty()), "{said:?}");
    }
}

#[test]
fn versions_may_go_backwards_and_repeat() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.push(CLUSTER, vec![eds("a", 1)], &[]);
        rig.push(ENDPOINTS, vec![cla("a", &[1]).version("9")], &[]);
        rig.push(ENDPOINTS, vec![cla("a", &[2]).version("3")], &[]);
        rig.push(ENDPOINTS, vec![cla("a", &[3]).version("3")], &[]);
        assert_eq!(rig.hosts("a"), Some(vec![host(3)]));
    }
}

#[test]
fn one_bad_chain_costs_that_chain_and_not_the_listener() {
    // istio#42050 and istio#50353: two chains of the same match made Envoy refuse all of 15443.
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        let chains = [("a.b", "a"), ("a.b", "c"), ("d.e", "a")];
        let said = rig.push(LISTENER, vec![lds("l", &chains)], &[]);
        let error = said[0].error.clone().unwrap();
        assert!(error.contains("Listener l: filter_chains[1] (a.b#2).filter_chain_match"), "{error}");
        assert_eq!(rig.route("l", "a.b").as_deref(), Some("a"));
        assert_eq!(rig.route("l", "d.e").as_deref(), Some("a"));
        assert_eq!(rig.client.snapshot().rejections.len(), 1);
        // The same bytes again are refused again.
        let said = rig.push(LISTENER, vec![lds("l", &chains)], &[]);
        assert!(said[0].error.is_some());
        let said = rig.push(LISTENER, vec![lds("l", &[("a.b", "a")])], &[]);
        assert!(said[0].error.is_none() && rig.client.snapshot().rejections.is_empty());
    }
}

#[test]
fn a_chain_that_turns_bad_keeps_its_last_good_version() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        let mut message = listener_message("l", &[("a.b", "c"), ("d.e", "a")]);
        message.filter_chains[0].filters[0].config_type = None;
        let said = rig.push(LISTENER, vec![Made::new(LISTENER, "l", &message)], &[]);
        assert!(said[0].error.as_ref().unwrap().contains("(its last good version stays in use)"));
        assert_eq!(rig.route("l", "a.b").as_deref(), Some("a"));
        assert_eq!(rig.route("l", "d.e").as_deref(), Some("a"));
    }
}

#[test]
fn a_resource_that_cannot_even_be_named_deletes_nothing() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.settle();
    let mut torn = eds("a", 2);
    torn.any.as_mut().unwrap().value = vec![0xff; 8];
    let said = rig.push(CLUSTER, vec![torn, eds("b", 1)], &[]);
    assert!(said[0].error.as_ref().unwrap().contains("it has no name"));
    assert_eq!(rig.hosts("a"), Some(vec![host(1)]));
}

#[test]
fn other_types_are_kept_and_handed_on() {
    const NAMES: &str = "type.googleapis.com/istio.workload.Address";
    for variant in VARIANTS {
        let extra = ExtraType { type_url: NAMES.into(), names: Vec::new() };
        let mut rig = Rig::with(variant, Options { extra_types: vec![extra], ..Options::default() });
        assert_eq!(rig.connect().last().map(|said| said.kind), Some("other"));
        let table = pb::Any { type_url: NAMES.into(), value: vec![1, 2, 3] };
        let made = Made { name: String::new(), version: String::new(), any: Some(table), ttl: None };
        assert_eq!(rig.push(NAMES, vec![made], &[])[0].error, None);
        let changes = rig.client.poll_changes().unwrap();
        assert!(changes.extra.contains(&(NAMES.to_owned(), String::new())));
        assert!(rig.client.accepted(NAMES).map(|(_, _, body)| body).eq([&[1_u8, 2, 3][..]]));
    }
}

fn name_table(entries: &[(&str, &[&str])]) -> Made {
    let info = |ips: &[&str]| NameInfo {
        ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        ..Default::default()
    };
    let table = entries.iter().map(|(host, ips)| ((*host).to_owned(), info(ips))).collect();
    Made::new(NAME_TABLE, "", &NameTable { table })
}

#[test]
fn the_name_table_is_what_dns_says() {
    for variant in VARIANTS {
        let extra = ExtraType { type_url: NAME_TABLE.into(), names: Vec::new() };
        let mut rig = Rig::with(variant, Options { extra_types: vec![extra], ..Options::default() });
        rig.connect();
        rig.settle();
        assert!(rig.client.is_settled() && rig.client.snapshot().names.is_none(), "names are not waited for");
        rig.push(NAME_TABLE, vec![name_table(&[])], &[]);
        assert!(rig.client.snapshot().names.is_none(), "what istiod gives to gateways says nothing");
        let table = name_table(&[
            ("HTTPBIN.bar.global", &["240.0.0.3", "2001:db8::3", "10.0.0.0/8"]),
            ("*.wild.global", &["240.0.0.4"]),
            ("no name", &["240.0.0.5"]),
            ("*", &["240.0.0.6"]),
        ]);
        assert_eq!(rig.push(NAME_TABLE, vec![table], &[])[0].error, None);
        assert!(rig.client.poll_changes().unwrap().names);
        let names = rig.client.snapshot().names.clone().unwrap();
        let hosts: Vec<String> = names.keys().map(ToString::to_string).collect();
        assert_eq!(hosts, ["httpbin.bar.global", "*.wild.global"]);
        assert_eq!(names.values().map(|name| name.addresses.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(rig.client.snapshot().notices.len(), 3, "the range and the two that are no names");

        // What cannot be read is refused, and the last good one stays.
        let mut torn = name_table(&[]);
        torn.any.as_mut().unwrap().value = vec![0xff; 8];
        assert!(rig.push(NAME_TABLE, vec![torn], &[])[0].error.is_some());
        assert_eq!(rig.client.snapshot().names.as_ref(), Some(&names));
        rig.push(NAME_TABLE, vec![name_table(&[("a.b", &["1.1.1.1"])])], &[]);
        assert_eq!(rig.client.snapshot().names.as_ref().unwrap().len(), 1);
        assert!(rig.client.snapshot().notices.is_empty());
        rig.push(NAME_TABLE, vec![name_table(&[])], &[]);
        assert!(rig.client.snapshot().names.as_ref().unwrap().is_empty(), "all are gone");
    }
}

#[test]
fn endpoints_that_come_while_their_cluster_is_away_are_remembered_too() {
    // As above, but the endpoints first come in the short time in which nobody wants them. istiod has sent them, and
    // sees neither that they were not wanted nor that they are wanted again.
    let mut rig = Rig::new(Variant::Sotw);
    rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
    rig.push(CLUSTER, vec![eds("b", 1)], &[]);
    rig.push(ENDPOINTS, vec![cla("a", &[1]), cla("b", &[2])], &[]);
    rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
    rig.push(ENDPOINTS, vec![cla("b", &[3])], &[]);
    rig.wait(15);
    assert_eq!(rig.hosts("a"), Some(vec![host(1)]));
}
