//! Reads a ClientHello and finds its endpoint so many times, for `.ci/instructions`, which has callgrind count what one
//! time costs.

#[path = "../benches/hot_path/way.rs"]
mod way;

use eastgate_config::cluster::Policy;

fn main() {
    let times = std::env::args().nth(1).and_then(|times| times.parse().ok()).unwrap_or(0_usize);
    let table = way::table(1_000, Policy::LeastRequest, 2);
    let flights: Vec<_> = (0..1_000).map(way::flight).collect();
    let found = flights
        .iter()
        .cycle()
        .take(times)
        .filter(|flight| way::inspect(flight).and_then(|hello| way::route(&table, &hello)).is_some());
    assert_eq!(found.count(), times, "a name was not found");
}
