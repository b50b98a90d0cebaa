//! What a large mesh and its updates cost. The example of the same name prints memory and shares of a core, too.
//! `just scale`

#![allow(missing_docs, reason = "criterion's macros make functions without any")]

#[path = "xds_scale/mesh.rs"]
mod mesh;

use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use eastgate::table::Table;
use mesh::Mesh;

const MESH: Mesh = Mesh { clusters: 10_000, endpoints: 20 };

fn arrival(c: &mut Criterion) {
    let pushes = MESH.pushes();
    let mut group = c.benchmark_group("mesh of 10000 clusters");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
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
    group.bench_function("snapshot to table", |bencher| {
        bencher.iter(|| table = mesh::publish(&client, &table));
    });
    group.finish();
}

criterion_group!(benches, arrival, updates);
criterion_main!(benches);
