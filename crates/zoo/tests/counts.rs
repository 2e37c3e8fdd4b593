//! Multiply-adds against what torchvision documents, shapes of modules against what torch sees.

use std::fs::File;

use engraft_graph::{Op, Shape};
use engraft_zoo::{WEIGHTS, architecture, architecture_of_size, architectures};
use flate2::read::GzDecoder;
use serde_json::Value;

/// `weights.meta["_ops"]`, which torchvision gives with three digits, counts what torch executes.
#[test]
fn multiply_adds_are_those_that_torchvision_documents() {
    for entry in WEIGHTS {
        let crop = entry.crop as usize;
        let network = architecture_of_size(entry.architecture, crop).unwrap();
        let costs = network.costs(&[1, 3, crop, crop]).unwrap();
        let gmac = costs.iter().map(|cost| cost.multiply_adds).sum::<u64>() as f64 / 1e9;
        assert!((gmac - entry.gmac).abs() < 0.000_501, "{entry:?}: {gmac}");
    }
}

/// `parity/module_shapes.py`
#[test]
fn modules_give_the_shapes_that_torchs_hooks_see() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/fixtures/module_shapes.json.gz");
    let torch: Value = serde_json::from_reader(GzDecoder::new(File::open(path).unwrap())).unwrap();
    for name in architectures() {
        let input: Shape = serde_json::from_value(torch[name]["input"].clone()).unwrap();
        let theirs: Vec<(String, String, Option<Shape>)> =
            serde_json::from_value(torch[name]["modules"].clone()).unwrap();
        let network = architecture(name).unwrap();
        let attentions: Vec<String> = network
            .nodes()
            .iter()
            .filter(|node| matches!(node.op, Op::Attention(_)))
            .map(|node| format!("{}.", node.module))
            .collect();
        let ours = network.module_costs(&input, |_| true).unwrap();
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (ours, (path, class, shape)) in ours.iter().zip(theirs) {
            assert_eq!((&ours.path, &ours.class), (&path, &class), "{name}");
            match class.as_str() {
                // An attention is one operation: its parts have no outputs of their own.
                _ if attentions.iter().any(|attention| path.starts_with(attention)) => {
                    assert_eq!(ours.output, None, "{name} {path}");
                }
                // PyTorch cannot call a list; it stands for the last of its modules.
                "ModuleList" => assert!(ours.output.is_some(), "{name} {path}"),
                _ => assert_eq!(ours.output, shape, "{name} {path}"),
            }
        }
    }
}
