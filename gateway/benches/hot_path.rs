//! What a connection's own code costs between two system calls: the ClientHello, the name, the endpoint.
//! `just bench`

#![allow(missing_docs, reason = "criterion's macros make functions without any")]

#[path = "hot_path/way.rs"]
mod way;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use eastgate_config::cluster::{HashFunction, Policy, RingHash};

fn hello(c: &mut Criterion) {
    let flight = way::flight(7);
    let mut group = c.benchmark_group("ClientHello");
    group.measurement_time(Duration::from_secs(2));
    group.bench_function("in one piece", |bencher| bencher.iter(|| way::inspect(black_box(&flight))));
    let hellos = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hellos/");
    for file in ["browser_chrome150.bin", "go_default_pq.bin"] {
        let flight = std::fs::read(format!("{hellos}{file}")).unwrap_or_default();
        group.bench_function(file, |bencher| bencher.iter(|| way::inspect(black_box(&flight))));
    }
    group.finish();
}

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("name to endpoint");
    group.measurement_time(Duration::from_secs(2));
    for services in [10, 1_000, 100_000] {
        let table = way::table(services, Policy::LeastRequest, 2);
        let hellos: Vec<_> =
            (0..1_000).filter_map(|number| way::inspect(&way::flight(number % services))).collect();
        let mut turn = 0;
        group.bench_function(BenchmarkId::from_parameter(services), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % hellos.len();
                way::route(&table, &hellos[turn])
            });
        });
    }
    group.finish();
}

fn balancers(c: &mut Criterion) {
    let mut group = c.benchmark_group("endpoint of 100");
    group.measurement_time(Duration::from_secs(2));
    let policies = [
        ("least request", Policy::LeastRequest),
        ("random", Policy::Random),
        ("round robin", Policy::RoundRobin),
        (
            "ring hash",
            Policy::RingHash(RingHash {
                minimum_size: 1_024,
                maximum_size: 1 << 20,
                function: HashFunction::XxHash,
            }),
        ),
        ("maglev", Policy::Maglev { table_size: 65_537 }),
    ];
    for (name, policy) in policies {
        let table = way::table(1, policy, 100);
        let Some(cluster) = table.clusters().next() else { continue };
        group.bench_function(name, |bencher| {
            let now = Instant::now();
            let pick = || {
                cluster
                    .balancer()
                    .pick(&[], Some(fastrand::u64(..)), now, |below| fastrand::u64(..below))
                    .map(|e| e.address)
            };
            bencher.iter(pick);
        });
    }
    group.finish();
}

criterion_group!(benches, hello, route, balancers);
criterion_main!(benches);
