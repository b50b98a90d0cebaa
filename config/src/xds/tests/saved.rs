//! What was accepted, saved and taken back.

use super::*;

#[test]
fn a_client_that_starts_without_a_control_plane_serves_what_was_saved() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        rig.push(CLUSTER, vec![eds("a", 1), bad("b")], &[]);
        let mut saved = rig.client.saved();
        saved.reverse();
        let mut other = Rig::with(variant, Options::default());
        let pushes = other.client.restore(saved, other.now);
        assert!(pushes.iter().all(|push| push.rejections.is_empty()));
        assert_eq!(other.client.snapshot().clusters, rig.client.snapshot().clusters);
        assert_eq!(other.client.snapshot().listeners, rig.client.snapshot().listeners);
        assert!(!other.client.is_settled());
        let said = other.connect();
        assert_eq!(said[1].names, ["a"]);
        // A server that is told its own version says nothing, and what was saved would never be confirmed.
        assert_eq!((said[0].version.as_str(), said[1].version.as_str()), ("", ""));
    }
}

/// A client that has read from disk what `settle` makes, and its first requests are out.
fn restored(variant: Variant) -> Rig {
    let mut before = Rig::new(variant);
    before.settle();
    let mut rig = Rig::with(variant, Options::default());
    rig.client.restore(before.client.saved(), rig.now);
    rig.connect();
    assert!(!rig.client.is_settled());
    rig
}

#[test]
fn restored_endpoints_are_as_good_as_any_until_others_come() {
    for variant in VARIANTS {
        let mut rig = restored(variant);
        rig.push(CLUSTER, vec![eds("a", 1)], &[]);
        assert!(!rig.client.is_settled(), "listeners were not heard of yet");
        rig.push(LISTENER, vec![lds("l", &[("a.b", "a")])], &[]);
        // A control plane that was told their versions need not send them again.
        assert!(rig.client.is_settled());
        assert_eq!(rig.hosts("a"), Some(vec![host(1)]));
        rig.push(ENDPOINTS, vec![cla("a", &[2])], &[]);
        assert_eq!(rig.hosts("a"), Some(vec![host(2)]));
    }
}

#[test]
fn restored_endpoints_outlast_fresh_clusters_that_endpoints_do_not_follow() {
    for variant in VARIANTS {
        let mut rig = restored(variant);
        rig.push(CLUSTER, vec![eds("a", 2), eds("new", 1)], &[]);
        rig.push(LISTENER, vec![lds("l", &[("a.b", "a"), ("c.d", "new")])], &[]);
        assert!(!rig.client.is_settled(), "both wait for their endpoints");
        assert_eq!((rig.timeout_of("a"), rig.hosts("a")), (Some(1), Some(vec![host(1)])));
        rig.wait(15);
        assert!(rig.client.is_settled());
        assert_eq!((rig.timeout_of("a"), rig.hosts("a")), (Some(2), Some(vec![host(1)])));
        assert_eq!(rig.hosts("new"), Some(vec![]));
        // The stream ends before endpoints have come at all, and so does the next.
        for _ in 0..2 {
            rig.client.disconnected(rig.now);
            rig.wait(60);
            rig.connect();
            rig.push(CLUSTER, vec![eds("a", 3), eds("new", 1)], &[]);
            rig.wait(60);
            assert_eq!((rig.timeout_of("a"), rig.hosts("a")), (Some(3), Some(vec![host(1)])));
        }
    }
}

#[test]
fn restored_endpoints_outlast_a_cluster_that_goes_and_comes_back() {
    for variant in VARIANTS {
        let mut rig = restored(variant);
        rig.push(CLUSTER, vec![], &["a"]);
        rig.push(CLUSTER, vec![eds("a", 2)], &[]);
        rig.wait(15);
        assert_eq!((rig.timeout_of("a"), rig.hosts("a")), (Some(2), Some(vec![host(1)])));
    }
}

#[test]
fn a_file_is_read_by_the_same_rules_and_answered_by_nobody() {
    for variant in VARIANTS {
        let mut rig = Rig::with(variant, Options::default());
        let clusters = rig.response(CLUSTER, vec![eds("a", 1), bad("b")], &[]);
        let push = rig.client.load(clusters, rig.now);
        assert_eq!((push.added.count, push.rejections.len()), (1, 1));
        let endpoints = rig.response(ENDPOINTS, vec![cla("a", &[1])], &[]);
        rig.client.load(endpoints, rig.now);
        assert_eq!(rig.hosts("a"), Some(vec![host(1)]));
        assert!(rig.said().is_empty());
    }
}
