//! Frozen parts on the CPU engine: the same bits for a photo whatever it is computed with, and what counts as frozen at all.

mod common;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use common::CACHE_SIZE;
use engraft_cpu::CpuEngine;
use engraft_data::Transform;
use engraft_engine::{Engine, SplitMix64, initial_state};
use engraft_graph::{Graph, HeadSpec};
use engraft_train::{Extraction, FeatureStore, Frozen, Index, StoreKey, frozen_frontier};
use engraft_zoo::architecture;

fn trunk(arch: &str) -> Graph {
    let graph = architecture(arch).unwrap();
    let graft = graph.graft(&HeadSpec { hidden_units: vec![], classes: 2, dropout: 0.0 }, None).unwrap();
    let frontier = frozen_frontier(&graft.graph, |name| graft.is_of_head(name)).unwrap();
    graft.graph.until(frontier)
}

fn frozen(graph: &Graph) -> Frozen {
    let engine = CpuEngine::new(2);
    Frozen::new(graph, engine.network(graph, initial_state(&graph.state(), 1)).unwrap()).unwrap()
}

/// Noise photos, `[3, height, width]` each.
fn images(graph: &Graph, count: usize) -> Vec<Vec<f32>> {
    let mut random = SplitMix64::new(3);
    let values: usize = graph.input().iter().product();
    (0..count).map(|_| (0..values).map(|_| 4.0 * random.uniform() as f32 - 2.0).collect()).collect()
}

/// Of each image alone, by a network that begins with it; and among others, in all places, by networks that begin with full batches and with a rest.
fn check_bits(arch: &str) {
    let graph = trunk(arch);
    let batch = frozen(&graph).batch();
    let images = images(&graph, batch);
    let expected: Vec<Vec<f32>> =
        (0..batch.min(3)).map(|i| frozen(&graph).features(images[i].clone()).unwrap()).collect();
    let width = expected[0].len();
    assert!(expected[0].iter().any(|value| *value != 0.0));
    let together = frozen(&graph);
    let full: Vec<f32> = together.features(images.concat()).unwrap();
    let turned: Vec<Vec<f32>> = (0..batch).map(|i| images[(i + batch / 2 + 1) % batch].clone()).collect();
    let turned: Vec<f32> = together.features(turned.concat()).unwrap();
    let rest: Vec<f32> = together.features(images[..batch.div_ceil(2)].concat()).unwrap();
    for (i, expected) in expected.iter().enumerate() {
        let place = (i + batch - (batch / 2 + 1) % batch) % batch;
        assert!(full[i * width..][..width] == expected[..], "{arch}: image {i} of a full batch");
        assert!(turned[place * width..][..width] == expected[..], "{arch}: image {i} in place {place}");
        if i < batch.div_ceil(2) {
            assert!(rest[i * width..][..width] == expected[..], "{arch}: image {i} of a rest");
        }
    }
}

#[test]
fn small_networks_give_the_same_bits_alone_and_among_others() {
    for arch in ["squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5"] {
        check_bits(arch);
    }
}

#[test]
fn larger_networks_give_the_same_bits_alone_and_among_others() {
    for arch in
        ["resnet18", "efficientnet_b0", "densenet121", "regnet_y_400mf", "googlenet", "swin_t", "vit_b_16"]
    {
        check_bits(arch);
    }
}

/// Features from an empty store, and from one that an interrupted run, or one on some of the photos, has left.
#[test]
fn what_was_cached_does_not_change_the_bits() {
    let graph = trunk("squeezenet1_1");
    let folder = tempfile::tempdir().unwrap();
    let mut random = SplitMix64::new(1);
    let photo = |i: usize| {
        let path = folder.path().join(format!("{i}.ppm"));
        let pixels: Vec<u8> = (0..3 * 32 * 32).map(|_| random.next_u64() as u8).collect();
        std::fs::write(&path, [b"P6 32 32 255\n", &pixels[..]].concat()).unwrap();
        path
    };
    let paths: Vec<PathBuf> = (0..37).map(photo).collect();
    let transform = Transform::imagenet();
    let state = initial_state(&graph.state(), 1);
    let features = |root: &str, parts: &[&[PathBuf]]| {
        let root = folder.path().join(root);
        let mut values = Vec::new();
        for paths in parts {
            let key = StoreKey { frozen: &graph, state: &state, transform: &transform, numerics: "cpu" };
            let mut store = FeatureStore::open(&root, &key, CACHE_SIZE).unwrap();
            let frozen = frozen(&graph);
            let mut index = Index::open(&root);
            let frozen = Some((&frozen, &mut store));
            let extraction = Extraction { paths, transform: &transform, index: &mut index, frozen };
            let photos = extraction.run(&AtomicBool::new(false), &mut |_| ()).unwrap();
            values = vec![0.0; paths.len() * store.rows().width()];
            store.rows().read(&photos.rows, &mut values).unwrap();
        }
        values
    };
    let expected = features("empty", &[&paths]);
    assert!(features("half", &[&paths[5..6], &paths[20..33], &paths]) == expected);
    assert!(features("one by one", &[&paths[..1], &paths[..2], &paths[..3], &paths]) == expected);
}

#[test]
fn batches_are_of_less_than_a_second() {
    // 0.35, 4.1, 15.5 and 61 GMAC a photo, without the head.
    for (arch, batch) in [("squeezenet1_1", 16), ("resnet50", 4), ("vgg16", 2), ("vit_b_16", 1)] {
        let graph = trunk(arch);
        let frozen = Frozen::new(&graph, Box::new(common::Flatten::default())).unwrap();
        assert_eq!(frozen.batch(), batch, "{arch}");
    }
}

#[test]
fn parts_before_which_nothing_is_learnt_are_not_frozen_parts() {
    for arch in ["googlenet", "inception_v3", "resnet18", "vit_b_16"] {
        let graph = architecture(arch).unwrap();
        assert_eq!(frozen_frontier(&graph, |_| true), None, "{arch}");
        assert!(
            frozen_frontier(&graph, |name| name.starts_with("fc") || name.starts_with("heads")).is_some(),
            "{arch}"
        );
    }
}

#[test]
fn early_cuts_of_vgg_are_not_worth_keeping() {
    let graph = architecture("vgg16").unwrap();
    for (path, is_worth) in
        [("features.1", false), ("features.3", false), ("features.8", true), ("features", true)]
    {
        let part = graph.until(graph.module_output(path).unwrap());
        let frozen = Frozen::new(&part, Box::new(common::Flatten::default())).unwrap();
        assert_eq!(frozen.is_worth_keeping(), is_worth, "{path}: {} bytes", frozen.row_bytes());
    }
}
