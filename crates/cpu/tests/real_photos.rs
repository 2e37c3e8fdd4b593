//! Real weights on real photos, from the file to the ImageNet classes, by both engines, against torchvision in f64
//! (`parity/real_photos.py`).
//!
//! Weights and photos are not part of the repository; where they are not beside it, the test prints so.

use std::collections::BTreeMap;
use std::path::Path;

use engraft_burn::BurnEngine;
use engraft_cpu::CpuEngine;
use engraft_data::{Image, Transform};
use engraft_engine::Engine;
use engraft_engine::suite::fixture;
use engraft_graph::HeadSpec;
use engraft_tensor::{StateDict, Tensor};
use engraft_zoo::architecture;
use serde::Deserialize;

/// What torchvision gives for one photo and one network.
#[derive(Deserialize)]
struct Expected {
    /// Classes, the likeliest first.
    top5: Vec<usize>,
    /// The first of what enters the classifier.
    features: Vec<f32>,
    /// The largest magnitude of all of them.
    largest: f32,
}

#[test]
fn features_and_classes_are_torchvisions() {
    check("Burn", &BurnEngine::cpu());
    check("the CPU engine", &CpuEngine::new(2));
}

fn check(name: &str, engine: &impl Engine) {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    if !shared.join("weights").is_dir() || !shared.join("data").is_dir() {
        println!("skipped: there are no weights and photos in {}", shared.display());
        return;
    }
    let photos: BTreeMap<String, BTreeMap<String, Expected>> = fixture::read("networks/real_photos");
    let batch = batch(&shared.join("data"), photos.keys());
    for arch in photos.values().next().expect("there are photos").keys() {
        let state = StateDict::read_safetensors(&shared.join(format!("weights/{arch}.safetensors"))).unwrap();
        let graph = architecture(arch).unwrap();
        let graft = graph.graft(&HeadSpec { hidden_units: vec![], classes: 2, dropout: 0.0 }, None).unwrap();
        let trunk = graft.graph.until(graft.features);
        let run = |graph| {
            engine.network(graph, state.clone()).and_then(|mut network| network.forward(&batch)).unwrap()
        };
        let (features, logits) = (rows(run(&trunk)), rows(run(&graph)));
        for (number, (photo, expected)) in photos.iter().enumerate() {
            let expected = &expected[arch];
            for (value, expected_value) in features[number].iter().zip(&expected.features) {
                let difference = (value - expected_value).abs() / expected.largest;
                assert!(difference <= 1e-4, "{name}, {arch}, {photo}: {value}, not {expected_value}");
            }
            assert_eq!(top5(&logits[number]), expected.top5, "{name}, {arch}, {photo}");
        }
    }
}

/// The photos, `[batch, 3, 224, 224]`.
fn batch<'a>(folder: &Path, photos: impl ExactSizeIterator<Item = &'a String>) -> Tensor {
    let count = photos.len();
    let open = |photo| Image::open(folder.join(photo)).unwrap();
    let values = photos.flat_map(|photo| Transform::imagenet().apply(&open(photo)));
    Tensor::f32([count, 3, 224, 224], values.collect())
}

fn rows(tensor: Tensor) -> Vec<Vec<f32>> {
    tensor.as_f32().unwrap().chunks(tensor.shape[1]).map(<[f32]>::to_vec).collect()
}

fn top5(logits: &[f32]) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..logits.len()).collect();
    classes.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    classes[..5].to_vec()
}
