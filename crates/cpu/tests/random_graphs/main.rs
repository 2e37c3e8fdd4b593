//! Random networks on the CPU engine and on Burn.
//!
//! Each network follows from a number, its seed. Every run takes the seeds `0..6000`, 200 to 400 a second; the test that is ignored
//! takes 100,000. `ENGRAFT_GRAPH_SEEDS=FROM..TO` names others for both:
//!
//! ```text
//! ENGRAFT_GRAPH_SEEDS=123..124 cargo test --release --workspace --test random_graphs
//! ```
//!
//! A network that fails is made as small as it can be while it fails in the same way, and printed as the Rust text that builds it. What
//! was found so is kept in `found.rs`.

mod case;
mod found;
mod generate;
mod judge;
mod shrink;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Instant;

use judge::{Judge, Kind, Verdict};

/// Of every run.
const SEEDS: Range<u64> = 0..6_000;

/// Of a long run.
const MANY_SEEDS: Range<u64> = 0..100_000;

/// After so many failures, of which panics are at different places, a run ends.
const MOST_FAILURES: usize = 10;

#[test]
fn random_networks_compute_what_burn_computes() {
    run(seeds().unwrap_or(SEEDS));
}

#[test]
#[ignore = "takes five minutes"]
fn many_random_networks_compute_what_burn_computes() {
    run(seeds().unwrap_or(MANY_SEEDS));
}

/// So that no operation is left out unnoticed.
#[test]
fn every_operation_occurs() {
    let mut names = BTreeSet::new();
    for seed in 0..2_000 {
        names.extend(generate::case(seed).steps.iter().map(|step| step.op.name()));
    }
    let all = [
        "AdaptiveAvgPool2d",
        "Add",
        "Attention",
        "AvgPool2d",
        "BatchNorm2d",
        "ChannelAffine",
        "Chunk",
        "Concat",
        "Conv2d",
        "Dropout",
        "ExpandBatch",
        "Flatten",
        "GELU",
        "Hardsigmoid",
        "Hardswish",
        "Identity",
        "LayerNorm",
        "LayerNorm2d",
        "LeakyReLU",
        "Linear",
        "MatMul",
        "MaxPool2d",
        "Mean",
        "Mul",
        "PadToMultiple",
        "Parameter",
        "Permute",
        "ReLU",
        "ReLU6",
        "Reshape",
        "Roll",
        "Select",
        "SiLU",
        "Sigmoid",
        "Softmax",
        "StochasticDepth",
        "Tanh",
        "Upsample",
    ];
    assert_eq!(names, BTreeSet::from(all));
}

fn seeds() -> Option<Range<u64>> {
    let text = std::env::var("ENGRAFT_GRAPH_SEEDS").ok()?;
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    Some(range.unwrap_or_else(|| panic!("ENGRAFT_GRAPH_SEEDS is no range of numbers, as 0..1000: {text}")))
}

fn run(seeds: Range<u64>) {
    let start = Instant::now();
    let mut judge = Judge::new();
    let [mut networks, mut unstable, mut failed] = [0; 3];
    let mut failures = Vec::new();
    let mut panics = BTreeSet::new();
    for seed in seeds {
        let case = generate::case(seed);
        networks += 1;
        match judge.verdict(&case) {
            Verdict::Agrees => continue,
            Verdict::Unstable => unstable += 1,
            Verdict::BurnFails(error) => {
                failures.push(format!("seed {seed}: the graph is valid, but Burn fails: {error}\n{case}"));
            }
            Verdict::Fails(failure) => {
                failed += 1;
                // One for each place is enough to look at.
                if matches!(&failure.kind, Kind::Panic(place) if !panics.insert(place.clone())) {
                    continue;
                }
                let mut text = failure.text;
                let smallest = shrink::shrink(case, |case| match judge.verdict(case) {
                    Verdict::Fails(other) if other.kind == failure.kind => {
                        text = other.text;
                        true
                    }
                    _ => false,
                });
                failures.push(format!("seed {seed}: {text}\n{smallest}"));
            }
        }
        if failures.len() == MOST_FAILURES {
            break;
        }
    }
    println!("{networks} networks in {:.1} s", start.elapsed().as_secs_f64());
    let all = failures.join("\n\n");
    assert!(failures.is_empty(), "{failed} of {networks} networks fail, in these ways:\n\n{all}");
    assert!(unstable * 100 <= networks, "{unstable} of {networks} networks cannot be compared");
}
