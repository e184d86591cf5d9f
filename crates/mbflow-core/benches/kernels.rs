//! One group a kernel, sizes named; `cargo bench -p mbflow-core`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mbflow_core::{Directions, Exec, HashGraph, Matrix, Projection, Seed, Simd};

/// Rows of `clusters` normal clouds.
fn mixture(rows: u64, width: u64, clusters: u64) -> Vec<f32> {
    let row = |row| {
        let cluster = Seed(0).u64_at(100, row) % clusters;
        (0..width).map(move |column| {
            Seed(0).normal(101, cluster * width + column) + 0.5 * Seed(0).normal(102, row * width + column)
        })
    };
    (0..rows).flat_map(row).collect()
}

fn seed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seed");
    group.throughput(Throughput::Elements(1 << 16));
    let exec = Exec::serial();
    group.bench_function("fill_u64/65536", |bencher| {
        let mut draws = vec![0; 1 << 16];
        bencher.iter(|| Seed(1).fill_u64(&exec, 9, 0, black_box(&mut draws)));
    });
    group.bench_function("fill_normal/65536", |bencher| {
        let mut draws = vec![0.0; 1 << 16];
        bencher.iter(|| Seed(1).fill_normal(&exec, 9, 0, black_box(&mut draws)));
    });
    group.bench_function("permutation/65536", |bencher| {
        bencher.iter(|| Seed(1).permutation(&exec, 9, black_box(1 << 16)));
    });
    group.finish();
}

fn projection(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("projection");
    let (rows, width, count) = (10_000_u16, 64_u16, 32_u16);
    let values = mixture(rows.into(), width.into(), 10);
    let matrix = Matrix::new(&values, rows.into(), width.into()).expect("the sizes fit");
    group.throughput(Throughput::Elements(u64::from(rows) * u64::from(width) * u64::from(count)));
    for simd in Simd::available() {
        let projection = Projection::new(Directions::Gaussian, count.into(), width.into(), Seed(1));
        let projection = projection.expect("the count fits").with_simd(simd);
        group.bench_function(BenchmarkId::new("10000x64 on 32", simd.name()), |bencher| {
            bencher.iter(|| projection.project(&Exec::serial(), black_box(&matrix)));
        });
    }
    group.finish();
}

fn hash_graph(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash_graph");
    group.sample_size(10);
    let exec = Exec::new().expect("threads can be started");
    for (rows, width, clusters) in [(20_000_u32, 16_u16, 26), (100_000, 20, 50)] {
        let values = mixture(rows.into(), width.into(), clusters);
        let matrix = Matrix::new(&values, rows as usize, width.into()).expect("the sizes fit");
        group.throughput(Throughput::Elements(rows.into()));
        for simd in Simd::available() {
            let settings = HashGraph { simd, ..HashGraph::new(10) };
            group.bench_function(BenchmarkId::new(format!("{rows}x{width} k10"), simd.name()), |bencher| {
                bencher.iter(|| settings.build(&exec, black_box(&matrix)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, seed, projection, hash_graph);
criterion_main!(benches);
