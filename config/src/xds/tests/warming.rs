//! Warming and make-before-break.

use super::*;

#[test]
fn a_cluster_that_changes_again_while_it_warms_keeps_its_deadline() {
    // envoy#46383: each change began the wait anew, and the cluster warmed for minutes.
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        for version in 2..5 {
            rig.push(CLUSTER, vec![eds("a", version)], &[]);
            rig.wait(5);
        }
        assert_eq!((rig.timeout_of("a"), rig.hosts("a")), (Some(4), Some(vec![host(1)])));
    }
}

#[test]
fn clusters_without_a_new_endpoints_push_keep_their_endpoints() {
    // istio#28402: "no healthy upstream" 15 s after a CDS push that no EDS push followed.
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        rig.push(CLUSTER, vec![eds("a", 2)], &[]);
        rig.wait(3600);
        assert_eq!((rig.timeout_of("a"), rig.hosts("a")), (Some(2), Some(vec![host(1)])));
    }
}

#[test]
fn an_empty_assignment_is_an_answer() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.push(CLUSTER, vec![eds("a", 1)], &[]);
        rig.push(ENDPOINTS, vec![cla("a", &[])], &[]);
        assert_eq!(rig.hosts("a"), Some(vec![]));
        assert!(rig.client.warming().next().is_none());
    }
}

#[test]
fn a_removed_cluster_stays_for_the_listener_that_names_it() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        rig.push(CLUSTER, vec![eds("b", 1)], &["a"]);
        rig.push(ENDPOINTS, vec![cla("b", &[2])], &[]);
        assert_eq!(rig.hosts("a"), Some(vec![host(1)]));
        rig.push(LISTENER, vec![lds("l", &[("a.b", "b")])], &[]);
        assert_eq!((rig.hosts("a"), rig.route("l", "a.b").as_deref()), (None, Some("b")));
    }
}

#[test]
fn a_removed_cluster_that_a_listener_goes_on_naming_leaves_its_name_behind() {
    // Its chain stays and refuses: without it, its names would go to a chain for `*.b`.
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        rig.push(CLUSTER, vec![], &["a"]);
        rig.wait(15);
        assert_eq!((rig.hosts("a"), rig.route("l", "a.b").as_deref()), (Some(vec![]), Some("a")));
        assert!(rig.client.missing().eq(["a"]));
        rig.push(CLUSTER, vec![eds("a", 1)], &[]);
        rig.push(ENDPOINTS, vec![cla("a", &[3])], &[]);
        assert_eq!(rig.hosts("a"), Some(vec![host(3)]));
        assert!(rig.client.missing().next().is_none());
    }
}

#[test]
fn a_cluster_that_is_removed_and_comes_back_serves_throughout() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.settle();
        rig.push(CLUSTER, vec![], &["a"]);
        rig.push(CLUSTER, vec![eds("a", 2)], &[]);
        assert_eq!((rig.timeout_of("a"), rig.hosts("a")), (Some(1), Some(vec![host(1)])));
        rig.wait(15);
        assert_eq!((rig.timeout_of("a"), rig.hosts("a")), (Some(2), Some(vec![host(1)])));
    }
}

#[test]
fn a_listener_that_comes_before_its_cluster_gets_it_when_it_comes() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.push(LISTENER, vec![lds("l", &[("a.b", "a")])], &[]);
        assert_eq!(rig.hosts("a"), Some(vec![]));
        rig.push(CLUSTER, vec![eds("a", 1)], &[]);
        rig.push(ENDPOINTS, vec![cla("a", &[1])], &[]);
        assert_eq!((rig.hosts("a"), rig.timeout_of("a")), (Some(vec![host(1)]), Some(1)));
        assert!(rig.client.is_settled());
    }
}

#[test]
fn two_clusters_may_read_the_same_endpoints() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        let shared = |name: &str| {
            let mut message = eds_message(name, 1);
            message.eds_cluster_config =
                Some(cluster::cluster::EdsClusterConfig { service_name: "s".into(), ..Default::default() });
            Made::new(CLUSTER, name, &message)
        };
        let said = rig.push(CLUSTER, vec![shared("a"), shared("b")], &[]);
        assert_eq!(said[1].names, ["s"]);
        rig.push(ENDPOINTS, vec![cla("s", &[1])], &[]);
        assert_eq!((rig.hosts("a"), rig.hosts("b")), (Some(vec![host(1)]), Some(vec![host(1)])));
        let said = rig.push(CLUSTER, vec![shared("b")], &["a"]);
        assert!(said.iter().all(|said| said.kind == "CDS"), "{said:?}");
        // Another service for b: the first is not asked for any more.
        let said = rig.push(CLUSTER, vec![eds("b", 1)], &[]);
        let names = [&said[1].names, &said[1].unsubscribe];
        let delta = variant == Variant::Delta;
        assert_eq!(names[0], &["b"]);
        assert_eq!(names[1].len(), usize::from(delta));
        assert_eq!(rig.hosts("b"), Some(vec![host(1)]));
    }
}

#[test]
fn endpoints_that_are_removed_before_their_cluster_serve_until_it_goes() {
    let mut rig = Rig::new(Variant::Delta);
    rig.settle();
    rig.push(ENDPOINTS, vec![], &["a"]);
    assert_eq!(rig.hosts("a"), Some(vec![host(1)]));
    rig.push(LISTENER, vec![], &["l"]);
    rig.push(CLUSTER, vec![], &["a"]);
    assert_eq!(rig.hosts("a"), None);
}

#[test]
fn what_did_not_change_is_the_same_allocation() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
        rig.push(ENDPOINTS, vec![cla("a", &[1]), cla("b", &[1])], &[]);
        rig.push(LISTENER, vec![lds("l", &[("a.b", "a")])], &[]);
        let before = rig.client.snapshot().clone();
        rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
        rig.push(ENDPOINTS, vec![cla("a", &[1]), cla("b", &[2])], &[]);
        rig.push(LISTENER, vec![lds("l", &[("a.b", "a")])], &[]);
        let after = rig.client.snapshot();
        assert!(std::sync::Arc::ptr_eq(&before.clusters["a"], &after.clusters["a"]));
        assert!(std::sync::Arc::ptr_eq(&before.listeners["l"], &after.listeners["l"]));
        assert!(!std::sync::Arc::ptr_eq(&before.clusters["b"], &after.clusters["b"]));
    }
}

#[test]
fn a_listener_on_every_address_binds_where_the_settings_move_its_port_to() {
    for variant in VARIANTS {
        let bind = [(15443, "127.0.0.1:0".parse().unwrap())].into();
        let mut rig = Rig::with(variant, Options { bind, ..Options::default() });
        rig.connect();
        rig.settle();
        let address = rig.client.snapshot().listeners["l"].address;
        assert_eq!(address.to_string(), "127.0.0.1:0");
    }
}
