//! A gateway under load with pods behind it, and how a fault goes: it begins, lasts for a number of connections, ends, and
//! everything is as it was.

use eastgate_loadtest::ca::Ca;

use crate::fate::{Done, Hurts, Ledger};
use crate::load::{Load, Standing};
use crate::network::Pod;
use crate::program::Eastgate;

/// How many come beside the load, where that gets nowhere.
const OTHERS: usize = 20;

/// A fault that has begun.
pub(crate) struct Fault {
    name: &'static str,
    hurts: Hurts,
    first: u32,
    begun: u32,
    since: std::time::Instant,
}

/// All that a fault may be done to.
pub(crate) struct Scene {
    pub(crate) pods: Vec<Pod>,
    pub(crate) gateway: Eastgate,
    load: Load,
    pub(crate) standing: Standing,
    /// For how many connections a fault lasts.
    count: usize,
}

/// What passes from one scene to the next.
pub(crate) struct Kept {
    pub(crate) pods: Vec<Pod>,
    pub(crate) ledger: Ledger,
    pub(crate) moment: u32,
    /// Requests over tunnels that stayed open.
    pub(crate) answers: usize,
}

impl Scene {
    pub(crate) async fn start(
        kept: Kept,
        gateway: Eastgate,
        (listener, names): (&str, &'static [&'static str]),
        ca: &Ca,
        count: usize,
    ) -> Self {
        let address = gateway.listening(listener).await;
        let Kept { pods, ledger, moment, answers } = kept;
        let load = Load::start(ca, address, names, ledger, moment);
        load.until_over(0, 2 * count).await;
        let mut standing = Standing::open(&load, address, names[0], 12).await;
        standing.answers = answers;
        Self { pods, gateway, load, standing, count }
    }

    /// Before a fault is done: what is open now is under way when it begins.
    pub(crate) async fn begins(&self, name: &'static str, hurts: Hurts) -> Fault {
        let first = self.load.shared.tick();
        Fault { name, hurts, first, begun: first, since: std::time::Instant::now() }
    }

    /// The fault is done: has so many connections begin and end in its presence. Tunnels that it does not hurt go on, and
    /// the admin port answers.
    pub(crate) async fn lasts(&mut self, fault: &mut Fault, share: f64) {
        fault.begun = self.load.shared.tick();
        let count = (self.count as f64 * share) as usize;
        self.load.until_over(fault.begun, count).await;
        assert!(!self.gateway.admin("/ready").await.is_empty(), "the admin port is silent");
        match fault.hurts {
            Hurts::Nobody | Hurts::Unanswered(_) => self.standing.ask(&[]).await,
            Hurts::UnderWay(pods) => self.standing.ask(pods).await,
            Hurts::Everybody(_) => {}
        }
    }

    /// The same, with tunnels to these pods left alone.
    pub(crate) async fn lasts_beside(&mut self, fault: &mut Fault, pods: &[usize]) {
        fault.begun = self.load.shared.tick();
        self.load.until_over(fault.begun, self.count).await;
        self.standing.ask(pods).await;
    }

    /// Has so many more connections begin and end, while a fault is being done.
    pub(crate) async fn goes_on(&self, count: usize) {
        self.load.until_over(self.load.shared.tick(), count).await;
    }

    /// The fault is done, and nobody gets anywhere: has others come, who send their ClientHello and wait.
    pub(crate) async fn waits(&mut self, fault: &mut Fault) {
        fault.begun = self.load.shared.tick();
        self.load.more(OTHERS).await;
    }

    /// The fault is done, and who is under way gets nowhere: has others come, and waits for what becomes of them.
    pub(crate) async fn fails(&mut self, fault: &mut Fault) {
        self.waits(fault).await;
        self.load.until_over(fault.begun, OTHERS).await;
    }

    /// The fault is undone: has every pod serve again, and every tunnel answer.
    pub(crate) async fn ends(&mut self, fault: Fault) {
        let Fault { name, hurts, first, begun, since } = fault;
        let ends = self.load.shared.tick();
        self.load.shared.ledger.lock().unwrap().faults.push(Done {
            name,
            hurts,
            begins: (first, begun),
            ends,
        });
        self.load.until_all_begun(ends).await;
        let pods: Vec<_> = (0..self.pods.len()).collect();
        self.load.until_served_by(ends, &pods).await;
        self.standing.ask(&[]).await;
        self.standing.refill().await;
        eprintln!("{name}: {:.1?}", since.elapsed());
    }

    pub(crate) async fn finish(self) -> Kept {
        let answers = self.standing.finish();
        let (ledger, moment) = self.load.finish().await;
        Kept { pods: self.pods, ledger, moment: moment + 1, answers }
    }
}
