//! What a large mesh and its updates cost. The example of the same name prints memory and shares of a core, too.
//! `just scale`

#![allow(missing_docs, reason = "criterion's macros make functions without any")]

#[path = "xds_scale/mesh.rs"]
mod mesh;

use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use eastgate::table::Table;
use mesh::Mesh;

const MESH: Mesh = Mesh { clusters: 10_000, endpoints: 20, listen: 15443, pods: 8000 };

fn arrival(c: &mut Criterion) {
    let pushes = MESH.pushes();
    let mut group = c.benchmark_group("mesh of 10000 clusters");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(10));
    group.bench_function("from bytes to table", |bencher| {
        bencher.iter_batched(
            || pushes.clone(),
            |pushes| {
                let mut client = mesh::connected();
                pushes.into_iter().for_each(|push| mesh::receive(&mut client, push, Duration::ZERO));
                let table = mesh::publish(&client, &Table::default());
                (client, table)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn updates(c: &mut Criterion) {
    let mut client = mesh::connected();
    MESH.pushes().into_iter().for_each(|push| mesh::receive(&mut client, push, Duration::ZERO));
    let mut table = mesh::publish(&client, &Table::default());
    let mut turn = 0;
    let mut group = c.benchmark_group("EDS update");
    group.bench_function("to snapshot", |bencher| {
        bencher.iter_batched(
            || {
                turn += 1;
                MESH.update(turn * 7 % MESH.clusters, turn)
            },
            |update| mesh::receive(&mut client, update, Duration::ZERO),
            BatchSize::SmallInput,
        );
    });
    // As many as a window of 100 ms gathers at 1,000 updates a second. Only the publishing is timed, but making and
    // taking the updates takes its time, so that few samples have to do.
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(3));
    group.bench_function("hundred of them from snapshot to table", |bencher| {
        bencher.iter_custom(|times| {
            let mut total = Duration::ZERO;
            for _ in 0..times {
                for _ in 0..100 {
                    turn += 1;
                    mesh::receive(&mut client, MESH.update(turn * 7 % MESH.clusters, turn), Duration::ZERO);
                }
                let began = Instant::now();
                table = mesh::publish(&client, &table);
                total += began.elapsed();
            }
            total
        });
    });
    group.finish();
}

criterion_group!(benches, arrival, updates);
criterion_main!(benches);
