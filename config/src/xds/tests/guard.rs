//! The blast-radius guard, and what the journal tells of it.

use super::*;

const HOLD: Duration = Duration::from_secs(600);

fn rig(variant: Variant, action: GuardAction) -> Rig {
    let guard = Guard { action, max_removed_percent: 50, min_removed: 2 };
    let mut rig = Rig::with(variant, Options { guard, ..Options::default() });
    rig.connect();
    let names = ["a", "b", "c", "d"];
    rig.push(CLUSTER, names.iter().map(|name| eds(name, 1)).collect(), &[]);
    rig.push(ENDPOINTS, names.iter().map(|name| cla(name, &[1])).collect(), &[]);
    rig.client.poll_changes();
    rig
}

#[test]
fn a_push_that_takes_most_clusters_away_raises_an_alarm_and_is_applied() {
    for variant in VARIANTS {
        let mut rig = rig(variant, GuardAction::Warn);
        rig.push(CLUSTER, vec![eds("a", 1)], &["b", "c", "d"]);
        assert!(rig.client.snapshot().clusters.keys().map(|name| &**name).eq(["a"]));
        let alarms = rig.client.poll_changes().unwrap().alarms;
        let Alarm::ClustersRemoved { removed, of: 4, kept_until: None } = &alarms[0] else {
            panic!("{alarms:?}")
        };
        assert_eq!((removed.count, removed.first.join(" ")), (3, "b c d".into()));
    }
}

#[test]
fn half_of_the_clusters_may_go() {
    for variant in VARIANTS {
        let mut rig = rig(variant, GuardAction::Hold(HOLD));
        rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &["c", "d"]);
        assert!(rig.client.snapshot().clusters.keys().map(|name| &**name).eq(["a", "b"]));
        assert!(rig.client.poll_changes().unwrap().alarms.is_empty());
    }
}

#[test]
fn with_hold_the_clusters_stay_until_the_time_is_over() {
    for variant in VARIANTS {
        let mut rig = rig(variant, GuardAction::Hold(HOLD));
        let said = rig.push(CLUSTER, vec![eds("a", 1), eds("new", 1)], &["b", "c", "d"]);
        assert_eq!(said[0].error, None);
        assert!(rig.client.is_keeping_back());
        assert!(rig.client.warming().eq(["new"]));
        let said = rig.push(ENDPOINTS, vec![cla("b", &[2]), cla("new", &[1])], &[]);
        assert_eq!(said[0].error, None);
        assert_eq!(rig.hosts("b"), Some(vec![host(2)]));
        // The next push says the same of them; that is no second alarm and no longer wait.
        rig.wait(300);
        rig.client.poll_changes();
        rig.push(CLUSTER, vec![eds("a", 1), eds("new", 1)], &["b", "c", "d"]);
        assert_eq!(rig.client.poll_changes(), None);
        rig.wait(299);
        assert_eq!(rig.client.snapshot().clusters.len(), 5);
        rig.wait(1);
        assert!(rig.client.snapshot().clusters.keys().map(|name| &**name).eq(["a", "new"]));
        assert!(!rig.client.is_keeping_back());
    }
}

#[test]
fn an_operator_may_let_go_and_the_control_plane_may_think_better_of_it() {
    for variant in VARIANTS {
        let mut rig = rig(variant, GuardAction::Hold(HOLD));
        rig.push(CLUSTER, vec![eds("a", 1)], &["b", "c", "d"]);
        rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1), eds("c", 1)], &[]);
        rig.client.release(rig.now);
        assert!(rig.client.snapshot().clusters.keys().map(|name| &**name).eq(["a", "b", "c"]));
        assert!(!rig.client.is_keeping_back());
    }
}

#[test]
fn with_hold_a_cluster_that_has_endpoints_is_not_emptied() {
    for variant in VARIANTS {
        let mut rig = rig(variant, GuardAction::Hold(HOLD));
        rig.push(ENDPOINTS, vec![cla("a", &[]), cla("b", &[2])], &[]);
        assert_eq!((rig.hosts("a"), rig.hosts("b")), (Some(vec![host(1)]), Some(vec![host(2)])));
        let alarms = rig.client.poll_changes().unwrap().alarms;
        assert!(matches!(&alarms[..], [Alarm::EndpointsEmptied { services, .. }] if services.first == ["a"]));
        rig.push(ENDPOINTS, vec![cla("a", &[3])], &[]);
        rig.client.release(rig.now);
        assert_eq!(rig.hosts("a"), Some(vec![host(3)]));
        rig.push(ENDPOINTS, vec![cla("a", &[])], &[]);
        rig.wait(600);
        assert_eq!(rig.hosts("a"), Some(vec![]));
    }
}

#[test]
fn without_a_guard_nothing_is_said() {
    for variant in VARIANTS {
        let mut rig = rig(variant, GuardAction::Off);
        rig.push(ENDPOINTS, vec![cla("a", &[])], &[]);
        rig.push(CLUSTER, vec![], &["a", "b", "c", "d"]);
        assert!(rig.client.poll_changes().unwrap().alarms.is_empty());
        assert!(rig.client.snapshot().clusters.is_empty());
    }
}

#[test]
fn the_journal_tells_the_last_hundred_pushes() {
    for variant in VARIANTS {
        let mut rig = Rig::new(variant);
        rig.push(CLUSTER, vec![eds("a", 1), eds("b", 1)], &[]);
        rig.push(CLUSTER, vec![eds("a", 2), bad("c")], &["b"]);
        let push = rig.client.journal().next_back().unwrap().clone();
        assert_eq!((push.number, push.at, push.version.as_str()), (2, rig.now, "v2"));
        assert_eq!((push.changed.first.join(""), push.removed.first.join("")), ("a".into(), "b".into()));
        assert_eq!((push.added.count, push.rejections.len()), (0, 1));
        for _ in 0..200 {
            rig.push(CLUSTER, vec![eds("a", 2)], &["b"]);
        }
        assert_eq!(rig.client.journal().count(), journal::CAPACITY);
        assert_eq!(rig.client.journal().next_back().unwrap().number, 202);
        let many: Vec<Made> = (0..50).map(|number| eds(&format!("x{number}"), 1)).collect();
        rig.push(CLUSTER, many, &[]);
        let push = rig.client.journal().next_back().unwrap();
        assert_eq!((push.added.count, push.added.first.len()), (50, journal::MAX_NAMES));
    }
}
