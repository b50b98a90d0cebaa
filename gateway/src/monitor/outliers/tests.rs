use eastgate_config::cluster::{self as config, OutlierDetection, Resolutions};
use eastgate_config::endpoint::{Address, Endpoint as Configured};
use eastgate_config::snapshot::Snapshot;
use imbl::OrdMap;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::upstream::health::{Outcome, Reason, reasons, report};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn rules() -> OutlierDetection {
    OutlierDetection {
        consecutive_failures: Some(3),
        consecutive_enforcing: 100,
        interval: seconds(10),
        base_ejection_time: seconds(30),
        max_ejection_time: seconds(300),
        max_ejection_jitter: Duration::ZERO,
        max_ejection_percent: 50,
        always_eject_one: false,
        success_rate: None,
        failure_percentage: None,
    }
}

/// A table of one cluster, what watches it, and the calls between them.
struct Watch {
    table: Table,
    outliers: Outliers,
    calls: UnboundedReceiver<String>,
}

impl Watch {
    fn new(endpoints: u8) -> Self {
        let (watcher, calls) = unbounded_channel();
        let mut watch = Self { table: Table::default(), outliers: Outliers::new(watcher), calls };
        watch.publish(endpoints, Some(rules()));
        watch
    }

    /// Puts another table in the place of the one before.
    fn publish(&mut self, endpoints: u8, rules: Option<OutlierDetection>) {
        let endpoint = |last| Configured::new(Address::Socket(([10, 0, 0, last], 80).into()));
        let mut config = config::Cluster::new("c", (0..endpoints).map(endpoint).collect());
        config.outlier_detection = rules;
        let clusters = OrdMap::unit("c".into(), Arc::new(config));
        let snapshot = Arc::new(Snapshot { clusters, ..Snapshot::default() });
        self.table = Table::build(snapshot, &Resolutions::new(), &self.table);
        self.outliers.follow(self.table.cluster_of_name("c").unwrap());
    }

    fn cluster(&self) -> &Arc<Cluster> {
        self.table.cluster_of_name("c").unwrap()
    }

    fn report(&self, index: usize, outcome: Outcome, times: usize) {
        let cluster = self.cluster();
        (0..times).for_each(|_| report(cluster, &cluster.endpoints[index], outcome, Duration::ZERO));
    }

    /// What the task does at this time.
    fn at(&mut self, now: Duration) -> Vec<usize> {
        while let Ok(cluster) = self.calls.try_recv() {
            self.outliers.call(cluster, now);
        }
        self.outliers.look_where_due(&self.table, now);
        let endpoints = self.cluster().endpoints.iter().enumerate();
        let out = endpoints.filter(|(_, endpoint)| !endpoint.takes_connections());
        let out: Vec<_> = out.map(|(index, _)| index).collect();
        let picked = (0..50).filter_map(|_| {
            let balancer = self.cluster().balancer();
            balancer.pick(&[], None, Instant::now(), |below| fastrand::u64(..below)).map(|one| one.address)
        });
        let of_those_out = |address: &SocketAddr| {
            out.iter().any(|index| self.cluster().endpoints[*index].address == *address)
        };
        assert_eq!(picked.filter(of_those_out).count(), 0, "an endpoint that is out was picked");
        out
    }
}

#[test]
fn an_outlier_is_out_at_once_and_in_again_in_time_and_then_the_cluster_is_forgotten() {
    let mut watch = Watch::new(3);
    watch.report(0, Outcome::Connected, 10);
    watch.report(0, Outcome::ConnectFailed, 3);
    assert_eq!(watch.at(seconds(1)), [0]);
    let [Reason::Ejected(ejection)] = reasons(&watch.cluster().endpoints[0])[..] else { panic!("no reason") };
    assert_eq!(ejection.cause, Cause::Consecutive);
    assert_eq!(watch.at(seconds(30)), [0]);
    assert!(watch.outliers.due() <= Some(seconds(31)));
    assert!(watch.at(seconds(31)).is_empty());
    assert!(reasons(&watch.cluster().endpoints[0]).is_empty());
    for now in [41, 51, 61] {
        assert!(watch.at(seconds(now)).is_empty());
    }
    assert_eq!((watch.outliers.due(), watch.outliers.watched.len()), (None, 0), "nothing is left to look at");
    watch.report(0, Outcome::ConnectFailed, 1);
    assert!(watch.calls.try_recv().is_ok(), "and the next failure wakes it up again");
}

#[test]
fn who_leaves_hellos_unanswered_is_out_while_others_answer_them() {
    let mut watch = Watch::new(4);
    watch.report(0, Outcome::ClosedBeforeAnswer, 2);
    watch.report(0, Outcome::NotTls, 1);
    assert!(watch.at(seconds(1)).is_empty(), "nobody has answered anything yet");
    (1..4).for_each(|index| watch.report(index, Outcome::Answered, 5));
    watch.report(0, Outcome::SilentTooLong, 3);
    assert_eq!(watch.at(seconds(2)), [0]);
    let why = reasons(&watch.cluster().endpoints[0])[0].to_string();
    assert!(why.contains("ClientHellos"), "{why}");
}

#[test]
fn a_client_that_sends_nonsense_ejects_nobody() {
    let mut watch = Watch::new(4);
    for round in 0..50 {
        (0..4).for_each(|index| watch.report(index, Outcome::Alert(40), 3));
        (0..4).for_each(|index| watch.report(index, Outcome::ClosedBeforeAnswer, 3));
        assert!(watch.at(seconds(round)).is_empty());
    }
}

#[test]
fn an_ejection_outlives_the_table_and_not_the_rules() {
    let mut watch = Watch::new(3);
    watch.report(1, Outcome::ConnectTimedOut, 3);
    assert_eq!(watch.at(seconds(1)), [1]);
    watch.publish(5, Some(rules()));
    assert_eq!(watch.at(seconds(2)), [1]);
    watch.publish(5, None);
    assert!(watch.at(seconds(3)).is_empty());
}

#[test]
fn a_row_that_was_spared_has_to_be_completed_anew() {
    let mut watch = Watch::new(3);
    let none = OutlierDetection { max_ejection_percent: 10, ..rules() };
    watch.publish(3, Some(none));
    let overflows =
        |watch: &Watch| watch.cluster().stats.ejections.counts().map(|(_, _, spared)| spared).sum::<u64>();
    watch.report(0, Outcome::ConnectFailed, 3);
    assert!(watch.at(seconds(1)).is_empty());
    watch.report(0, Outcome::ConnectFailed, 2);
    watch.at(seconds(2));
    assert_eq!(overflows(&watch), 1);
    watch.report(0, Outcome::ConnectFailed, 1);
    watch.at(seconds(3));
    assert_eq!(overflows(&watch), 2);
}
