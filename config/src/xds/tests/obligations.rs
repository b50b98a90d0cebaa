//! X1 to X19: what the protocol asks of every client.

use super::*;

fn one(said: Vec<Said>, kind: &str) -> Said {
    let mut of: Vec<Said> = said.into_iter().filter(|said| said.kind == kind).collect();
    assert_eq!(of.len(), 1, "{of:?}");
    of.remove(0)
}

#[test]
fn x1_every_response_is_answered_once_with_its_own_nonce() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        let first = rig.response(CLUSTER, vec![eds("a", 1)], &[]);
        let second = rig.response(CLUSTER, vec![bad("b")], &[]);
        rig.client.receive(first, rig.now);
        rig.client.receive(second, rig.now);
        let said = rig.said();
        let answers: Vec<_> = said.iter().filter(|said| said.kind == "CDS").collect();
        assert_eq!(answers.iter().map(|said| said.nonce.as_str()).collect::<Vec<_>>(), ["n1", "n2"]);
        assert_eq!(answers.iter().map(|said| said.error.is_some()).collect::<Vec<_>>(), [false, true]);
        assert!(rig.said().is_empty());
    }
}

#[test]
fn x1_a_nonce_is_never_carried_to_another_stream() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        let owed = rig.response(CLUSTER, vec![eds("a", 1)], &[]);
        rig.client.receive(owed, rig.now);
        rig.client.disconnected(rig.now);
        assert!(rig.said().is_empty());
        assert!(rig.connect().iter().all(|said| said.nonce.is_empty()));
    }
}

#[test]
fn x2_a_nack_keeps_the_last_good_version_in_force_and_names_what_is_wrong() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        let ack = one(rig.push(CLUSTER, vec![eds("a", 1)], &[]), "CDS");
        assert_eq!((ack.nonce.as_str(), &ack.error), ("n1", &None));
        rig.push(ENDPOINTS, vec![cla("a", &[1])], &[]);
        let nack = one(rig.push(CLUSTER, vec![bad("a"), eds("b", 1)], &[]), "CDS");
        if variant == Variant::Sotw {
            assert_eq!((ack.version.as_str(), nack.version.as_str()), ("v1", "v1"));
        }
        assert_eq!(nack.nonce, "n3");
        let error = nack.error.unwrap();
        assert!(error.contains("Cluster a: type: ORIGINAL_DST"), "{error}");
        // The good one of the same push is used, and the last good version of the bad one stays.
        assert_eq!(rig.hosts("a"), Some(vec![host(1)]));
        assert!(rig.client.warming().eq(["b"]));
        let rejections = &rig.client.snapshot().rejections;
        assert!(rejections.len() == 1 && rejections[0].last_good_kept);
        let ack = one(rig.push(CLUSTER, vec![eds("a", 2), eds("b", 1)], &[]), "CDS");
        assert_eq!(ack.error, None);
        assert!(rig.client.snapshot().rejections.is_empty());
    }
}

#[test]
fn x3_the_node_is_in_the_first_request_of_a_stream_and_in_no_other() {
    for variant in VARIANTS {
        let mut rig = Rig::with(variant, Options::default());
        for _ in 0..2 {
            let nodes: Vec<bool> = rig.connect().iter().map(|said| said.node).collect();
            assert!(nodes[0] && nodes[1..].iter().all(|node| !node), "{nodes:?}");
            assert!(rig.push(CLUSTER, vec![eds("a", 1)], &[]).iter().all(|said| !said.node));
            rig.client.disconnected(rig.now);
        }
    }
}

#[test]
fn x4_a_new_stream_begins_with_what_is_known() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.settle();
    rig.client.disconnected(rig.now);
    let said = rig.connect();
    let versions: Vec<_> =
        said.iter().map(|said| (said.kind, said.version.as_str(), said.names.as_slice())).collect();
    assert_eq!(versions, [("CDS", "v1", &[][..]), ("EDS", "v2", &["a".into()]), ("LDS", "v3", &[])]);

    let mut rig = Rig::new(Variant::Delta);
    rig.push(CLUSTER, vec![eds("a", 1).version("7"), eds("b", 1).version("8")], &[]);
    rig.push(ENDPOINTS, vec![cla("a", &[1]).version("9")], &[]);
    rig.client.disconnected(rig.now);
    let said = rig.connect();
    let initial = |index: usize| -> Vec<(&str, &str)> {
        said[index].initial.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect()
    };
    assert_eq!((initial(0), initial(1)), (vec![("a", "7"), ("b", "8")], vec![("a", "9")]));
    assert_eq!((said[0].names.len(), said[1].names.as_slice()), (0, &["a".to_owned(), "b".into()][..]));
    assert_eq!(rig.hosts("a"), Some(vec![host(1)]));
}

#[test]
fn x5_a_change_of_subscription_in_delta_has_no_nonce_and_an_ack_no_names() {
    let mut rig = Rig::new(Variant::Delta);
    rig.push(CLUSTER, vec![eds("a", 1)], &[]);
    rig.push(ENDPOINTS, vec![cla("a", &[1])], &[]);
    let said = rig.push(CLUSTER, vec![eds("b", 1)], &["a"]);
    assert_eq!(said[0], Said { kind: "CDS", nonce: "n3".into(), ..Said::default() });
    let change =
        Said { kind: "EDS", names: vec!["b".into()], unsubscribe: vec!["a".into()], ..Said::default() };
    assert_eq!(said[1..], [change]);
}

#[test]
fn x6_nothing_wanted_is_never_said_as_everything_wanted() {
    for variant in VARIANTS {
        let mut rig = Rig::with(variant, Options::default());
        assert!(rig.connect().iter().all(|said| said.kind != "EDS"));
        assert!(rig.push(CLUSTER, vec![], &[]).iter().all(|said| said.kind != "EDS"));
        rig.push(CLUSTER, vec![eds("a", 1)], &[]);
        // Now a name was wanted on the stream, and an empty list (or an unsubscription) is nothing.
        let last = one(rig.push(CLUSTER, vec![], &["a"]), "EDS");
        assert!(last.names.is_empty());
        assert_eq!(last.unsubscribe.len(), usize::from(variant == Variant::Delta));
        rig.client.disconnected(rig.now);
        assert!(rig.connect().iter().all(|said| said.kind != "EDS"));
    }
}

#[test]
fn x7_what_a_complete_set_lacks_is_deleted() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.settle();
    rig.push(LISTENER, vec![lds("m", &[("a.b", "a")])], &[]);
    assert!(rig.client.snapshot().listeners.keys().eq(["m"]));
    rig.push(LISTENER, vec![], &[]);
    rig.push(CLUSTER, vec![], &[]);
    assert!(rig.client.snapshot().listeners.is_empty() && rig.client.snapshot().clusters.is_empty());
}

#[test]
fn x8_endpoints_that_a_response_lacks_stay_and_go_with_their_cluster() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
    rig.push(ENDPOINTS, vec![cla("a", &[1]), cla("b", &[2])], &[]);
    rig.push(ENDPOINTS, vec![cla("b", &[3])], &[]);
    rig.push(ENDPOINTS, vec![], &[]);
    assert_eq!((rig.hosts("a"), rig.hosts("b")), (Some(vec![host(1)]), Some(vec![host(3)])));
    rig.push(CLUSTER, vec![eds("b", 1)], &[]);
    assert_eq!(rig.hosts("a"), None);
    rig.wait(61);
    assert!(rig.client.accepted(ENDPOINTS).map(|(name, ..)| name).eq(["b"]));
}

#[test]
fn x9_in_delta_only_removed_resources_are_deleted() {
    let mut rig = Rig::new(Variant::Delta);
    rig.settle();
    rig.push(CLUSTER, vec![], &[]);
    rig.push(LISTENER, vec![lds("m", &[("c.d", "a")])], &[]);
    assert!(rig.client.snapshot().listeners.keys().eq(["l", "m"]));
    let said = rig.push(LISTENER, vec![], &["l", "m", "never-there"]);
    assert_eq!(said[0].error, None);
    assert!(rig.client.snapshot().listeners.is_empty());
    rig.push(CLUSTER, vec![], &["a"]);
    assert!(rig.client.snapshot().clusters.is_empty());
}

#[test]
fn x10_a_name_that_comes_twice_is_refused_and_its_last_good_version_stays() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        let nack = one(rig.push(CLUSTER, vec![eds("a", 2), eds("b", 2), eds("a", 3)], &[]), "CDS");
        assert!(nack.error.unwrap().contains("Cluster a: the response has this name more than once"));
        assert_eq!(rig.timeout_of("a"), Some(1));
        assert!(rig.client.warming().eq(["b"]));
        assert_eq!(rig.client.snapshot().rejections.len(), 1);
    }
}

#[test]
fn x11_what_nobody_asked_for_is_ignored_without_a_word() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        let ack = one(rig.push(ENDPOINTS, vec![cla("stranger", &[9]), cla("a", &[2])], &[]), "EDS");
        assert_eq!(ack.error, None);
        assert_eq!(rig.hosts("a"), Some(vec![host(2)]));
        assert!(rig.client.accepted(ENDPOINTS).map(|(name, ..)| name).eq(["a"]));
        assert_eq!(rig.client.journal().next_back().unwrap().ignored, 1);
        // An answer about a type that was never asked for would be a request for everything of it.
        assert!(rig.push("type.googleapis.com/some.Other", vec![], &[]).is_empty());
        assert!(rig.client.journal().next_back().unwrap().unasked);
    }
}

#[test]
fn x12_a_resource_that_does_not_come_counts_as_absent_until_it_does() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.push(CLUSTER, vec![eds("a", 1)], &[]);
        rig.wait(14);
        assert_eq!(rig.hosts("a"), None);
        assert_eq!(rig.client.poll_timeout(), Some(rig.now + Duration::from_secs(1)));
        rig.wait(1);
        assert_eq!(rig.hosts("a"), Some(vec![]));
        rig.push(ENDPOINTS, vec![cla("a", &[1])], &[]);
        assert_eq!(rig.hosts("a"), Some(vec![host(1)]));
    }
}

#[test]
fn x13_a_changed_cluster_serves_in_its_old_version_until_its_endpoints_come() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        rig.push(CLUSTER, vec![eds("a", 2)], &[]);
        assert_eq!((rig.timeout_of("a"), rig.hosts("a")), (Some(1), Some(vec![host(1)])));
        rig.push(ENDPOINTS, vec![cla("a", &[1])], &[]);
        assert_eq!((rig.timeout_of("a"), rig.hosts("a")), (Some(2), Some(vec![host(1)])));
    }
}

#[test]
fn x14_requests_go_out_clusters_first_then_endpoints_then_listeners() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        rig.client.disconnected(rig.now);
        let kinds: Vec<_> = rig.connect().iter().map(|said| said.kind).collect();
        assert_eq!(kinds, ["CDS", "EDS", "LDS"]);
        let listener = rig.response(LISTENER, vec![lds("l", &[("a.b", "a")])], &[]);
        let clusters = rig.response(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
        rig.client.receive(listener, rig.now);
        rig.client.receive(clusters, rig.now);
        let kinds: Vec<_> = rig.said().iter().map(|said| said.kind).collect();
        assert_eq!(kinds, ["CDS", "EDS", "LDS"]);
    }
}

#[test]
fn x14_a_chain_changes_over_only_when_its_new_cluster_is_ready() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        // The control plane errs: the listener names a cluster before its endpoints, then before itself.
        rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
        rig.push(LISTENER, vec![lds("l", &[("a.b", "b")])], &[]);
        assert_eq!(rig.route("l", "a.b").as_deref(), Some("a"));
        rig.push(ENDPOINTS, vec![cla("b", &[2])], &[]);
        assert_eq!(rig.route("l", "a.b").as_deref(), Some("b"));
        rig.push(LISTENER, vec![lds("l", &[("a.b", "c")])], &[]);
        assert_eq!(rig.route("l", "a.b").as_deref(), Some("b"));
        rig.wait(15);
        assert_eq!(rig.route("l", "a.b").as_deref(), Some("c"));
    }
}

#[test]
fn x15_a_heartbeat_renews_a_time_to_live_and_its_end_removes() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.push(CLUSTER, vec![eds("a", 1)], &[]);
        rig.push(ENDPOINTS, vec![cla("a", &[1]).version("1").ttl(5)], &[]);
        rig.wait(4);
        let beat = || cla("a", &[]).version("1").ttl(5).heartbeat();
        let ack = one(rig.push(ENDPOINTS, vec![beat()], &[]), "EDS");
        assert_eq!(ack.error, None);
        rig.wait(4);
        assert_eq!(rig.hosts("a"), Some(vec![host(1)]));
        rig.wait(1);
        assert_eq!(rig.hosts("a"), Some(vec![]));
        let nack = one(rig.push(ENDPOINTS, vec![beat()], &[]), "EDS");
        assert!(nack.error.unwrap().contains("no body"));
    }
}

#[test]
fn x15_heartbeats_alone_remove_nothing_from_a_complete_set() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.push(CLUSTER, vec![eds("a", 1).version("1").ttl(5), eds("b", 1).version("1").ttl(9)], &[]);
    rig.wait(4);
    rig.push(CLUSTER, vec![eds("a", 1).version("1").ttl(5).heartbeat()], &[]);
    rig.wait(4);
    assert!(rig.client.accepted(CLUSTER).map(|(name, ..)| name).eq(["a", "b"]));
    rig.wait(1);
    assert_eq!(rig.client.accepted(CLUSTER).count(), 0);
}

#[test]
fn x16_a_request_that_crosses_a_response_is_told_apart_by_its_nonce() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.push(CLUSTER, vec![eds("a", 1)], &[]);
    rig.push(ENDPOINTS, vec![cla("a", &[1])], &[]);
    // EDS n4 is under way while CDS n3 makes us ask for more under the nonce we know.
    let clusters = rig.response(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
    let crossing = rig.response(ENDPOINTS, vec![cla("a", &[2])], &[]);
    rig.client.receive(clusters, rig.now);
    let early = one(rig.said(), "EDS");
    assert_eq!((early.nonce.as_str(), early.names.len()), ("n2", 2));
    rig.client.receive(crossing, rig.now);
    let answer = one(rig.said(), "EDS");
    assert_eq!((answer.nonce.as_str(), answer.names.len()), ("n4", 2));
}

#[test]
fn x17_no_answer_to_a_request_is_waited_for() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.push(CLUSTER, vec![eds("a", 1)], &[]);
        assert!(!rig.client.is_settled());
        let said = rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
        assert!(one(said, "EDS").names.contains(&"b".to_owned()));
        rig.push(LISTENER, vec![], &[]);
        rig.wait(15);
        // EDS has not said a word, and nothing waits for it any more.
        assert_eq!((rig.hosts("a"), rig.hosts("b")), (Some(vec![]), Some(vec![])));
        assert!(rig.client.warming().next().is_none() && rig.client.is_settled());
    }
}

#[test]
fn x18_a_stream_that_ends_changes_nothing_in_service() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        rig.client.poll_changes();
        let before = rig.client.snapshot().clone();
        for _ in 0..3 {
            rig.client.disconnected(rig.now);
            rig.wait(1800);
            rig.connect();
            rig.push(CLUSTER, vec![eds("a", 1)], &[]);
            rig.push(ENDPOINTS, vec![cla("a", &[1])], &[]);
            rig.push(LISTENER, vec![lds("l", &[("a.b", "a")])], &[]);
        }
        assert_eq!(rig.client.poll_changes(), None);
        assert_eq!(rig.client.snapshot(), &before);
    }
}

#[test]
fn x19_a_stream_that_is_refused_leaves_the_first_request_to_the_next_one() {
    // RESOURCE_EXHAUSTED ends a stream before anything came. Backing off is the shell's; here it must only be
    // harmless however often it happens.
    for variant in VARIANTS {
        let mut rig = Rig::with(variant, Options::default());
        let first = rig.connect();
        for _ in 0..3 {
            rig.client.disconnected(rig.now);
            assert_eq!(rig.connect(), first);
            assert!(rig.said().is_empty());
        }
    }
}
