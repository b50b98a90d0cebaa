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
