//! What the fixtures of `parity/` say.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs::File;
use std::path::{Path, PathBuf};

use engraft_graph::{TensorKind, TensorSpec};
use engraft_tensor::{StateDict, Tensor, TensorData};
use flate2::read::GzDecoder;
use serde_json::Value;

/// A weights file that `parity/state_dicts.py` wrote.
pub fn file(name: &str) -> PathBuf {
    fixtures().join("state_dicts").join(name)
}

/// What torch reads from the files: `[name, shape, values]` of each tensor in order, by file.
pub fn expected() -> Value {
    json("state_dicts/expected.json.gz")
}

fn fixtures() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/fixtures")).to_path_buf()
}

fn json(name: &str) -> Value {
    serde_json::from_reader(GzDecoder::new(File::open(fixtures().join(name)).unwrap())).unwrap()
}

/// The tensors of torchvision's network of this name.
pub fn torchvision(architecture: &str) -> Vec<TensorSpec> {
    let network = json(&format!("networks/{architecture}.json.gz"));
    specs(&network["state_dict"])
}

/// The specs that a list of `[name, shape, ...]` describes.
pub fn specs(list: &Value) -> Vec<TensorSpec> {
    let spec = |entry: &Value| {
        let name = entry[0].as_str().unwrap().to_string();
        let kind = match name.rsplit('.').next().unwrap() {
            "num_batches_tracked" => TensorKind::Counter,
            "relative_position_index" => TensorKind::Index,
            "running_mean" | "running_var" => TensorKind::Buffer,
            _ => TensorKind::Parameter,
        };
        TensorSpec { name, shape: sizes(&entry[1]), kind }
    };
    list.as_array().unwrap().iter().map(spec).collect()
}

/// A state dict as `specs` describe it. Every value of the tensor number `i` is `i`, so that one can be told
/// from another.
pub fn numbered(specs: &[TensorSpec]) -> StateDict {
    let tensor = |(i, spec): (usize, &TensorSpec)| {
        let data = match spec.kind {
            TensorKind::Counter | TensorKind::Index => TensorData::I64(vec![i as i64; spec.len()]),
            _ => TensorData::F32(vec![i as f32; spec.len()]),
        };
        (spec.name.clone(), Tensor { shape: spec.shape.clone(), data })
    };
    specs.iter().enumerate().map(tensor).collect()
}

/// Asserts that a state dict holds, in order, what a list of `[name, shape, values]` says, to the bit.
pub fn assert_holds(dict: &StateDict, list: &Value, what: &str) {
    let list = list.as_array().unwrap();
    assert_eq!(dict.len(), list.len(), "{what}");
    for ((name, tensor), expected) in dict.iter().zip(list) {
        assert_eq!(name, expected[0].as_str().unwrap(), "{what}");
        assert_eq!(tensor.shape, sizes(&expected[1]), "{what}: {name}");
        let values = expected[2].as_array().unwrap().iter();
        match &tensor.data {
            TensorData::F32(found) => assert!(
                found.iter().eq(values.map(|v| v.as_f64().unwrap() as f32).collect::<Vec<_>>().iter()),
                "{what}: {name}"
            ),
            TensorData::I64(found) => {
                assert!(found.iter().copied().eq(values.map(|v| v.as_i64().unwrap())), "{what}: {name}")
            }
        }
    }
}

fn sizes(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|size| size.as_u64().unwrap() as usize).collect()
}
