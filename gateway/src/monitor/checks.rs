//! Active checks of all clusters. What several clusters ask of one endpoint in the same way is asked once.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use eastgate_config::cluster::{HealthCheck, Probe};
use tokio::task::JoinSet;

use super::probe;
use crate::table::Table;
use crate::upstream::Cluster;
use crate::upstream::endpoint::{Endpoint, Out};
use crate::upstream::health::active::State;

/// How checks are made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Checks that are made at the same time.
    pub max_probes: usize,
    /// How the endpoints of clusters are checked for which the source says nothing. These are well until they are found ill.
    pub default: Option<HealthCheck>,
}

/// What is asked of an endpoint.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    /// Where.
    address: SocketAddr,
    /// How; what is left to the cluster or the endpoint is filled in.
    check: HealthCheck,
}

/// How the answer to a question came out.
pub(super) type Answered = (Arc<Question>, Result<(), probe::Failure>);

/// Every question, who wants to know, and what is known.
#[derive(Debug)]
pub(super) struct Checks {
    options: Options,
    asked: HashMap<Arc<Question>, Asked>,
    /// When each question that is not being asked is to be. The number tells questions of the same time apart.
    due: BTreeSet<(Duration, u64)>,
    by_number: HashMap<u64, Arc<Question>>,
    next_number: u64,
    by_cluster: HashMap<String, Vec<Wanted>>,
    running: JoinSet<Answered>,
}

#[derive(Debug)]
struct Asked {
    state: State,
    number: u64,
    /// Not set while it is being asked.
    due: Option<Duration>,
    clusters: BTreeSet<String>,
}

/// One of a cluster's questions.
#[derive(Debug)]
struct Wanted {
    endpoint: SocketAddr,
    question: Arc<Question>,
}

impl Checks {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            asked: HashMap::new(),
            due: BTreeSet::new(),
            by_number: HashMap::new(),
            next_number: 0,
            by_cluster: HashMap::new(),
            running: JoinSet::new(),
        }
    }

    /// When a check is to be made, unless as many are being made as may be.
    pub(super) fn due(&self) -> Option<Duration> {
        let free = self.running.len() < self.options.max_probes;
        self.due.first().filter(|_| free).map(|(due, _)| *due)
    }

    /// The next result; none while no check is being made.
    pub(super) async fn result(&mut self) -> Option<Answered> {
        loop {
            match self.running.join_next().await? {
                Ok(result) => return Some(result),
                // A check that has panicked would never be made again; there is none that does.
                Err(error) => tracing::error!(%error, "a health check ended by itself"),
            }
        }
    }

    /// Asks what a new or changed cluster wants to know, and no longer what only it wanted.
    pub(super) fn follow(&mut self, cluster: &Arc<Cluster>, now: Duration) {
        let name = &cluster.config.name;
        let wanted = self.wanted(cluster);
        for Wanted { question, .. } in &wanted {
            if !self.asked.contains_key(question) {
                self.begin(Arc::clone(question), now);
            }
            if let Some(asked) = self.asked.get_mut(question) {
                asked.clusters.insert(name.clone());
            }
        }
        let before = self.by_cluster.remove(name).unwrap_or_default();
        let kept: BTreeSet<_> = wanted.iter().map(|wanted| Arc::as_ptr(&wanted.question)).collect();
        // A question that is equal is another allocation unless it was asked before.
        for Wanted { question, .. } in before {
            let stays = kept.contains(&Arc::as_ptr(&question))
                || wanted.iter().any(|wanted| wanted.question == question);
            if !stays {
                self.leave(&question, name);
            }
        }
        if !wanted.is_empty() {
            self.by_cluster.insert(name.clone(), wanted);
        }
        self.apply(cluster);
    }

    /// Forgets a cluster that is gone.
    pub(super) fn forget(&mut self, name: &str) {
        for Wanted { question, .. } in self.by_cluster.remove(name).unwrap_or_default() {
            self.leave(&question, name);
        }
    }

    fn begin(&mut self, question: Arc<Question>, due: Duration) {
        let number = self.next_number;
        self.next_number += 1;
        self.due.insert((due, number));
        self.by_number.insert(number, Arc::clone(&question));
        let clusters = BTreeSet::new();
        self.asked.insert(question, Asked { state: State::default(), number, due: Some(due), clusters });
    }

    fn leave(&mut self, question: &Arc<Question>, cluster: &str) {
        let Some(asked) = self.asked.get_mut(question) else { return };
        asked.clusters.remove(cluster);
        if !asked.clusters.is_empty() {
            return;
        }
        let number = asked.number;
        if let Some(due) = asked.due {
            self.due.remove(&(due, number));
        }
        self.by_number.remove(&number);
        self.asked.remove(question);
    }

    /// What a cluster wants to know of its endpoints.
    fn wanted(&self, cluster: &Cluster) -> Vec<Wanted> {
        let checks = match cluster.config.health_checks.as_slice() {
            [] => self.options.default.as_slice(),
            checks => checks,
        };
        let each =
            cluster.endpoints.iter().flat_map(|endpoint| checks.iter().map(move |check| (endpoint, check)));
        each.map(|(endpoint, check)| {
            let question = question(cluster, endpoint, check);
            let known = self.asked.get_key_value(&question).map(|(known, _)| Arc::clone(known));
            Wanted { endpoint: endpoint.address, question: known.unwrap_or_else(|| Arc::new(question)) }
        })
        .collect()
    }

    /// Begins as many of the checks that are due as may be made at the same time.
    pub(super) fn start_where_due(&mut self, table: &Table, now: Duration) {
        while self.due().is_some_and(|due| due <= now)
            && let Some((_, number)) = self.due.pop_first()
        {
            let Some(question) = self.by_number.get(&number) else { continue };
            let Some(asked) = self.asked.get_mut(question) else { continue };
            asked.due = None;
            for cluster in asked.clusters.iter().filter_map(|name| table.cluster_of_name(name)) {
                cluster.stats.checks.attempts.fetch_add(1, Relaxed);
            }
            let question = Arc::clone(question);
            self.running.spawn(async move {
                let result = probe::ask(question.address, &question.check).await;
                (question, result)
            });
        }
    }

    /// Takes in a result, tells the clusters that asked, and sets the next check.
    pub(super) fn settle(&mut self, (question, result): Answered, table: &Table, now: Duration) {
        // Nobody may want to know any more.
        let Some(asked) = self.asked.get_mut(&question) else { return };
        let passed = result.is_ok();
        let changed = asked.state.take(passed, &question.check);
        let clusters: Vec<_> = asked.clusters.iter().filter_map(|name| table.cluster_of_name(name)).collect();
        let used = clusters.iter().any(|cluster| cluster.stats.connected.load(Relaxed) > 0);
        let due = now + asked.state.pause(&question.check, used, |below| fastrand::u64(..below));
        asked.due = Some(due);
        self.due.insert((due, asked.number));
        let failure = result.err().map(Arc::new);
        if changed {
            tell(&question, failure.as_deref());
        }
        for cluster in clusters {
            let counts = &cluster.stats.checks;
            let counter = if passed { &counts.passes } else { &counts.failures };
            counter.fetch_add(1, Relaxed);
            for wanted in self.by_cluster.get(&cluster.config.name).into_iter().flatten() {
                if wanted.question == question
                    && let Some(endpoint) =
                        cluster.endpoints.iter().find(|one| one.address == wanted.endpoint)
                {
                    let failure = failure.as_ref().map(|failure| failure.to_string());
                    endpoint.stats.health().set_failed_check(failure);
                }
            }
            if changed {
                self.apply(cluster);
            }
        }
    }

    /// Brings the flags of a cluster's endpoints in step with what is known of them.
    fn apply(&self, cluster: &Arc<Cluster>) {
        let wanted = self.by_cluster.get(&cluster.config.name).map_or(&[][..], Vec::as_slice);
        // Ill by any of its checks, well by all of them, or not known yet; then it stays as it is.
        let mut found: HashMap<SocketAddr, Option<bool>> = HashMap::new();
        for Wanted { endpoint, question } in wanted {
            let well = self.asked.get(question).and_then(|asked| asked.state.is_well());
            let so_far = found.entry(*endpoint).or_insert(Some(true));
            *so_far = match (*so_far, well) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            };
        }
        let mut changed = false;
        for endpoint in &cluster.endpoints {
            changed |= match found.get(&endpoint.address) {
                Some(Some(false)) => endpoint.stats.take_out(Out::FailedCheck),
                Some(None) => false,
                // Nobody checks it any more, or all is well.
                Some(Some(true)) | None => endpoint.stats.let_in(Out::FailedCheck),
            };
        }
        if changed {
            cluster.rebalance(Instant::now());
        }
    }
}

fn tell(question: &Question, failure: Option<&probe::Failure>) {
    let address = question.address;
    match failure {
        None => tracing::info!(%address, "endpoint passes its health check"),
        Some(failure) => {
            tracing::warn!(%address, %failure, "endpoint fails its health check: it takes no new connections")
        }
    }
}

/// What is asked of this endpoint, with all that the check leaves to the cluster.
fn question(cluster: &Cluster, endpoint: &Endpoint, check: &HealthCheck) -> Question {
    let mut check = check.clone();
    let mut address = endpoint.address;
    if let Some(port) = check.port.take().or(endpoint.extras.health_check_port) {
        address.set_port(port);
    }
    let name = match endpoint.extras.hostname.is_empty() {
        true => &cluster.config.name,
        false => &endpoint.extras.hostname,
    };
    match &mut check.probe {
        Probe::Http { host, .. } | Probe::Grpc { authority: host, .. } if host.is_empty() => {
            host.clone_from(name)
        }
        Probe::Tls { server_name, .. } if server_name.is_empty() => *server_name = asked_for(name),
        _ => {}
    }
    Question { address, check }
}

/// The server name that clients of a cluster ask for: Istio's `outbound|80|v1|host` is `outbound_.80_.v1_.host` there.
fn asked_for(cluster: &str) -> String {
    match *cluster.split('|').collect::<Vec<_>>() {
        [direction, port, subset, host] => format!("{direction}_.{port}_.{}_.{host}", subset),
        _ => cluster.to_owned(),
    }
}
