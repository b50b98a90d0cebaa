//! What was refused can be looked at, until it is right or gone, and costs no more than the limit.

use super::*;

fn names(rig: &Rig) -> Vec<(String, bool)> {
    let refused = rig.client.refused().into_iter();
    refused.map(|refused| (refused.name, refused.message.is_some())).collect()
}

#[test]
fn a_refused_message_is_kept_until_its_resource_comes_right_or_goes() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        let wrong = bad("a").any;
        rig.now += Duration::from_secs(7);
        rig.push(CLUSTER, vec![bad("a"), eds("c", 1), bad("b")], &[]);
        let [a, b] = rig.client.refused().try_into().unwrap();
        assert_eq!((a.name.as_str(), a.message, a.at), ("a", wrong, rig.now));
        assert_eq!((b.name.as_str(), b.type_url.as_str(), b.size > 0), ("b", CLUSTER, true));
        assert_eq!(rig.timeout_of("a"), Some(1));
        rig.push(CLUSTER, vec![eds("a", 2), eds("c", 1)], &["b"]);
        assert_eq!(names(&rig), []);
    }
}

#[test]
fn a_listener_that_is_refused_in_part_is_both_held_and_kept() {
    let mut rig = Rig::new(Variant::Delta);
    rig.settle();
    let twice = lds("l", &[("a.b", "a"), ("a.b", "a")]);
    rig.push(LISTENER, vec![twice.version("r7")], &[]);
    let [refused] = rig.client.refused().try_into().unwrap();
    let held: Vec<_> = rig.client.accepted(LISTENER).map(|(_, _, body)| body.to_vec()).collect();
    assert_eq!((refused.version.as_str(), refused.message.unwrap().value), ("r7", held[0].clone()));
}

#[test]
fn refused_messages_of_a_type_stay_within_their_limit() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        let large = |name: &str, size: usize| {
            let mut message = eds_message(name, 1);
            message.cluster_discovery_type = Some(cluster::cluster::ClusterDiscoveryType::Type(4));
            message.alt_stat_name = "x".repeat(size);
            Made::new(CLUSTER, name, &message)
        };
        let half = MAX_KEPT / 2;
        rig.push(CLUSTER, vec![large("a", half - 1024), large("b", half - 1024), large("c", half)], &[]);
        assert_eq!(names(&rig), [("a".into(), true), ("b".into(), true), ("c".into(), false)]);
        assert!(rig.client.refused()[2].size > half);
        // The same again takes its own place, not another.
        rig.push(CLUSTER, vec![large("a", half - 1024), large("b", half - 1024)], &["c"]);
        assert_eq!(names(&rig)[..2], [("a".into(), true), ("b".into(), true)]);
    }
}

#[test]
fn the_journal_notes_what_the_caller_says_a_push_took() {
    let mut rig = Rig::new(Variant::Delta);
    rig.push(CLUSTER, vec![eds("a", 1)], &[]);
    rig.client.took(Duration::from_millis(3));
    rig.push(CLUSTER, vec![eds("b", 1)], &[]);
    let took: Vec<_> = rig.client.journal().map(|push| push.took).collect();
    assert_eq!(took, [Some(Duration::from_millis(3)), None]);
    let push = serde_json::to_value(rig.client.journal().next().unwrap()).unwrap();
    assert_eq!(push["took_seconds"], 0.003);
}
