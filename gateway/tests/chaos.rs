//! Faults under load: what breaks around a gateway breaks while connections are made without a pause, and each of them is
//! accounted for. A loss that docs/reliability.md promises not to happen fails the test.
//!
//! `just chaos` runs all of it; it makes its own networks, and touches nothing outside of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "chaos/fate.rs"]
mod fate;
#[path = "chaos/files.rs"]
mod files;
#[path = "support/lab.rs"]
mod lab;
#[path = "chaos/load.rs"]
mod load;
#[path = "chaos/network.rs"]
mod network;
#[path = "chaos/planes.rs"]
mod planes;
#[path = "support/program.rs"]
mod program;
#[path = "chaos/scene.rs"]
mod scene;
mod support;

use eastgate_loadtest::ca::Ca;
use network::Pod;
use scene::Kept;

/// Connections for which a fault lasts; CHAOS_CONNECTIONS says how many. CHAOS_SCENE leaves all but one scene out.
const CONNECTIONS: usize = 40;

#[tokio::test]
#[ignore = "takes a minute or more; .ci/run and `just chaos` run it"]
async fn no_connection_is_lost_that_a_promise_covers() {
    if lab::missing(&lab::programs()).is_none() {
        // Built here, where there is a network for what it is made of.
        program::built("control-plane").await;
    }
    lab::walked();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes networks; no_connection_is_lost_that_a_promise_covers runs it where they are its own"]
async fn inside() {
    let links = std::process::Command::new("ip").args(["-o", "link"]).output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&links).lines().count(), 1, "this is somebody's network");
    network::sh("ip link set lo up");
    let count = std::env::var("CHAOS_CONNECTIONS").map_or(CONNECTIONS, |count| count.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let ca_dir = directory.path().join("ca");
    let ca = Ca::load_or_create(&ca_dir).unwrap();
    let [_, program] = lab::programs();
    let pods = (0..3).map(|number| Pod::new(number, &program, &ca_dir)).collect();
    let kept = Kept { pods, ledger: fate::Ledger::default(), moment: 0, answers: 0 };
    let wanted = |scene: &str| std::env::var("CHAOS_SCENE").map_or(true, |only| only == scene);
    let kept = match wanted("files") {
        true => files::all(kept, &ca, directory.path(), count).await,
        false => kept,
    };
    let kept = match program::built("control-plane").await.filter(|_| wanted("planes")) {
        Some(program) => planes::all(kept, &ca, &program, directory.path(), count).await,
        None => kept,
    };
    println!("{}", kept.ledger);
    println!("{} requests over tunnels that stood open from one fault to the next", kept.answers);
    assert_eq!(kept.ledger.covered(), 0, "losses that a promise covers");
}
