//! A seeded simulation of an adversarial control plane.
//!
//! Each seed plays a mesh that changes at random, a control plane that pushes it in any order, late, twice, with bad
//! resources in between, or not at all, and a stream that breaks at any step. What is owed is checked after each step,
//! and at the end, when everybody has calmed down, the client must hold what the server does.
//! `SEED=17 cargo test -p eastgate-config --test xds_simulation` plays one seed alone.

#[allow(dead_code)]
#[path = "../src/xds/tests/made.rs"]
mod made;
#[path = "simulation/mesh.rs"]
mod mesh;
#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/server.rs"]
mod server;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use eastgate_config::snapshot::Snapshot;
use eastgate_config::xds::{
    CLUSTER, Client, ENDPOINTS, Guard, GuardAction, LISTENER, Moment, Node, Options, Request, Variant,
};
use model::Model;
use server::{Kind, Pushed, Server};

const SEEDS: u64 = 1000;
const STEPS: usize = 120;
/// No answer is held back for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// SplitMix64: enough chance for a test, and the same on every machine.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }
}

/// A client, a server and what is under way between them.
struct World {
    client: Client,
    server: Server,
    model: Model,
    mirror: Snapshot,
    now: Moment,
    connected: bool,
    to_client: VecDeque<Pushed>,
    to_server: VecDeque<Request>,
    first_of_stream: bool,
    asked: [bool; 3],
    /// What of each type is not answered yet on this stream.
    owed: [VecDeque<Owed>; 3],
    /// What of each type was refused last on this stream, if nothing was accepted since.
    refused: [Option<Pushed>; 3],
}

/// An answer that the client owes.
#[derive(Debug)]
struct Owed {
    nonce: String,
    is_nack: bool,
    since: Moment,
}

impl World {
    fn new(variant: Variant, seed: u64) -> Self {
        let node = Node { id: "router~10.0.0.1~g.ns~ns.svc.cluster.local".into(), ..Node::default() };
        let guard = Guard { action: GuardAction::Warn, max_removed_percent: 50, min_removed: 2 };
        let options = Options { guard, ..Options::default() };
        Self {
            client: Client::new(variant, &node, options),
            server: Server::new(variant, seed),
            model: Model::default(),
            mirror: Snapshot::default(),
            now: Duration::from_secs(1),
            connected: false,
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            first_of_stream: true,
            asked: [false; 3],
            owed: Default::default(),
            refused: Default::default(),
        }
    }

    fn bodies(&self, type_url: &str) -> BTreeMap<String, Vec<u8>> {
        self.client.accepted(type_url).map(|(name, _, body)| (name.to_owned(), body.to_vec())).collect()
    }

    fn real(&self) -> Snapshot {
        let mut snapshot = self.client.snapshot().clone();
        for name in self.client.missing() {
            snapshot.clusters.remove(name);
        }
        snapshot
    }

    fn connect(&mut self) {
        self.connected = true;
        self.first_of_stream = true;
        self.asked = [false; 3];
        self.owed = Default::default();
        self.refused = Default::default();
        self.server.accept();
        self.client.connected(self.now);
        self.model.forget(self.now, true);
        self.transmit();
    }

    fn reset(&mut self) {
        self.connected = false;
        self.to_client.clear();
        self.to_server.clear();
        self.client.disconnected(self.now);
        assert!(self.client.poll_transmit().is_none(), "nothing is sent without a stream");
    }

    /// Takes what the client has to say, and checks it.
    fn transmit(&mut self) {
        while let Some(request) = self.client.poll_transmit() {
            let said = server::said(&request);
            assert_eq!(
                said.has_node, self.first_of_stream,
                "the node is in the first request and in no other"
            );
            self.first_of_stream = false;
            let first = !std::mem::replace(&mut self.asked[said.kind as usize], true);
            if said.kind == Kind::Endpoints && first {
                assert!(!said.names.is_empty(), "a first request without names asks for everything");
            }
            let owed = &mut self.owed[said.kind as usize];
            if owed.front().is_some_and(|owed| owed.nonce == said.nonce) {
                assert_eq!(owed.pop_front().map(|owed| owed.is_nack), Some(said.is_nack));
            } else if matches!(request, Request::Delta(_)) {
                assert!(said.nonce.is_empty() && !said.is_nack, "only an answer has a nonce");
            } else {
                assert!(!said.is_nack && owed.is_empty(), "an answer is given once and in order");
                assert!(first || said.kind == Kind::Endpoints, "only names of endpoints change");
            }
            self.to_server.push_back(request);
        }
    }

    fn deliver_to_client(&mut self) {
        let Some(pushed) = self.to_client.pop_front() else { return };
        let before = self.real();
        let kind = pushed.kind as usize;
        let is_nack = self.model.refuses(&pushed);
        let repeats = self.refused[kind].as_ref().is_some_and(|refused| refused.repeats(&pushed));
        self.owed[kind].push_back(Owed { nonce: pushed.nonce.clone(), is_nack, since: self.now });
        self.refused[kind] = is_nack.then(|| pushed.clone());
        self.client.receive(pushed.response.clone(), self.now);
        self.transmit();
        if !(is_nack && repeats) {
            assert!(self.owed[kind].is_empty(), "what does not repeat a refused push is answered at once");
        } else if pushed.kind != Kind::Endpoints {
            assert!(!self.owed[kind].is_empty(), "a repeated NACK waits");
        }
        self.model.apply(&pushed, self.now);
        self.check_make_before_break(&before);
        self.check(&before);
    }

    fn deliver_to_server(&mut self) {
        let Some(request) = self.to_server.pop_front() else { return };
        let pushed = self.server.receive(request);
        self.to_client.extend(pushed);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let before = self.real();
        self.client.timeout(self.now);
        if self.connected {
            self.transmit();
        }
        let owed = self.owed.iter().flatten().filter(|_| self.connected).map(|owed| owed.since).min();
        assert!(owed.is_none_or(|since| self.now < since + LONGEST_WAIT), "no answer waits for ever");
        assert!(self.client.poll_timeout().is_none_or(|at| at > self.now), "what is due is done");
        self.check(&before);
    }

    /// `before` is the snapshot before the step, less what only stood in for a cluster.
    fn check(&mut self, before: &Snapshot) {
        let endpoints = self.bodies(ENDPOINTS);
        self.model.forget(self.now, false);
        self.model.check(&self.bodies(CLUSTER), &endpoints, &self.bodies(LISTENER));
        let snapshot = self.client.snapshot();
        for listener in snapshot.listeners.values() {
            for cluster in listener.clusters() {
                assert!(snapshot.clusters.contains_key(cluster), "{cluster} is named and not there");
            }
        }
        for (name, cluster) in &snapshot.clusters {
            let had = before.clusters.get(name).is_some_and(|cluster| cluster.endpoints().count() > 0);
            if had && self.model.should_have_endpoints(name) {
                assert!(cluster.endpoints().count() > 0, "{name} lost its endpoints");
            }
        }
        for name in before.clusters.keys().filter(|name| self.model.clusters.contains_key(&***name)) {
            assert!(snapshot.clusters.contains_key(name), "{name} went while CDS has it");
        }
        self.follow();
    }

    /// No push takes the endpoints of a cluster away that a listener goes on naming and CDS does not have any more.
    fn check_make_before_break(&self, before: &Snapshot) {
        let snapshot = self.client.snapshot();
        for name in snapshot.listeners.values().flat_map(|listener| listener.clusters()) {
            let had = before.clusters.get(name).is_some_and(|cluster| cluster.endpoints().count() > 0);
            if had && !self.model.clusters.contains_key(name) {
                assert!(snapshot.clusters[name].endpoints().count() > 0, "{name} went before its listener");
            }
        }
    }

    /// Whoever follows the changes has the same snapshot.
    fn follow(&mut self) {
        let changes = self.client.poll_changes().unwrap_or_default();
        let snapshot = self.client.snapshot();
        for name in changes.clusters {
            match snapshot.clusters.get(name.as_str()) {
                Some(cluster) => self.mirror.clusters.insert(name.into(), cluster.clone()),
                None => self.mirror.clusters.remove(name.as_str()),
            };
        }
        for name in changes.listeners {
            match snapshot.listeners.get(&name) {
                Some(listener) => self.mirror.listeners.insert(name, listener.clone()),
                None => self.mirror.listeners.remove(&name),
            };
        }
        assert!(self.mirror.clusters == snapshot.clusters && self.mirror.listeners == snapshot.listeners);
    }

    fn step(&mut self, chance: &mut Chance) {
        if !self.connected {
            if chance.one_in(2) {
                self.connect();
            } else {
                self.pass(Duration::from_millis(chance.next() % 3000));
            }
            return;
        }
        match chance.below(20) {
            0..=5 => self.deliver_to_client(),
            6..=11 => self.deliver_to_server(),
            12..=14 => self.server.mesh.change(chance),
            15..=16 => {
                let pushed = self.server.push(chance);
                self.to_client.extend(pushed);
            }
            17 => self.pass(Duration::from_millis(chance.next() % 8000)),
            18 if chance.one_in(3) => self.reset(),
            19 if chance.one_in(2) => self.flap(chance),
            19 => {
                let kind = [Kind::Clusters, Kind::Endpoints, Kind::Listeners][chance.below(3)];
                let pushed = self.server.repeat(kind);
                self.to_client.extend(pushed);
            }
            _ => {}
        }
    }

    /// A cluster goes and comes back while endpoints are pushed in between, and all of it is under way before the
    /// server reads a word of the client's.
    fn flap(&mut self, chance: &mut Chance) {
        let Some((name, cluster)) = self.server.mesh.clusters.pop_first() else { return };
        self.push_again(Kind::Clusters, chance);
        self.push_again(Kind::Endpoints, chance);
        self.server.mesh.clusters.insert(name, cluster);
        self.push_again(Kind::Clusters, chance);
        self.push_again(Kind::Endpoints, chance);
    }

    fn push_again(&mut self, kind: Kind, chance: &mut Chance) {
        if !chance.one_in(4) {
            self.to_client.extend(self.server.push_again(kind));
        }
    }

    /// Everybody is honest from here on, and nothing is lost any more.
    fn calm_down(&mut self) {
        if !self.connected {
            self.connect();
        }
        self.exchange();
        // A NACK that is held back may have names to say again that the server has dropped as stale.
        self.pass(LONGEST_WAIT);
        self.exchange();
        self.check_subscriptions();
        self.server.mesh.touch_everything();
        for kind in [Kind::Clusters, Kind::Endpoints, Kind::Listeners] {
            let pushed = self.server.push_honestly(kind);
            self.to_client.extend(pushed);
            self.exchange();
        }
        self.pass(Duration::from_secs(61));
        self.exchange();
        self.pass(Duration::from_secs(61));
    }

    /// Once nothing is under way, both sides agree on what is asked for, and the client has what the server believes
    /// it has.
    fn check_subscriptions(&self) {
        assert_eq!(
            *self.server.subscribed(),
            self.model.used(),
            "what the server sends, what the client wants"
        );
        let held = self.bodies(ENDPOINTS);
        for name in self.server.believed() {
            assert!(held.contains_key(name), "the endpoints of {name} will never come again");
        }
    }

    fn exchange(&mut self) {
        for _ in 0..1000 {
            if self.to_client.is_empty() && self.to_server.is_empty() {
                return;
            }
            self.deliver_to_client();
            self.deliver_to_server();
        }
        unreachable!("the conversation does not come to an end");
    }

    fn check_quiet(&self) {
        let snapshot = self.client.snapshot();
        assert!(self.client.warming().next().is_none() && self.client.is_settled());
        // What has no name stays until the type is heard of again, and there may be nothing more to hear.
        let mut rejections = snapshot.rejections.iter();
        assert!(
            rejections.all(|rejection| rejection.place.resource.name.is_empty()),
            "{:?}",
            snapshot.rejections
        );
        let missing: Vec<&str> = self.client.missing().collect();
        let mesh = &self.server.mesh;
        let real = snapshot.clusters.keys().map(|name| &**name).filter(|name| !missing.contains(name));
        assert!(real.eq(mesh.clusters.keys()));
        assert!(snapshot.listeners.keys().eq(mesh.listeners.keys()));
        for (name, wanted) in &mesh.clusters {
            let cluster = &snapshot.clusters[name.as_str()];
            assert_eq!(cluster.connect_timeout, Duration::from_secs(wanted.timeout), "{name}");
            let held = cluster.endpoints().map(|endpoint| endpoint.address.to_string());
            let wanted = mesh.endpoints[&wanted.service].iter().map(|host| format!("10.0.0.{host}:80"));
            assert!(held.eq(wanted), "endpoints of {name}");
        }
        for (name, chains) in &mesh.listeners {
            let held = snapshot.listeners[name].filter_chains.iter();
            let held = held.map(|chain| (&*chain.name, chain.route.clusters[0].name.as_str()));
            let wanted = chains.iter().map(|(name, cluster)| (name.as_str(), cluster.as_str()));
            assert!(held.eq(wanted), "chains of {name}");
        }
    }
}

fn play(variant: Variant, seed: u64) {
    let mut chance = Chance(seed);
    let mut world = World::new(variant, seed);
    for _ in 0..STEPS {
        world.step(&mut chance);
    }
    world.calm_down();
    world.check_quiet();
}

#[allow(clippy::disallowed_methods, reason = "the test chooses its seeds, not the crate")]
fn play_all(variant: Variant) {
    let only: Option<u64> = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = only.map_or(0..SEEDS, |seed| seed..seed + 1);
    for seed in seeds {
        let played = std::panic::catch_unwind(|| play(variant, seed));
        if let Err(panic) = played {
            eprintln!("{variant:?} with SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn an_adversarial_server_in_delta() {
    play_all(Variant::Delta);
}

#[test]
fn an_adversarial_server_in_state_of_the_world() {
    play_all(Variant::Sotw);
}
