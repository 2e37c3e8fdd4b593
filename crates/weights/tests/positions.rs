//! Interpolated embeddings of positions against torchvision's (`parity/positions.py`).

use std::fs::File;

use engraft_graph::{TensorKind, TensorSpec};
use engraft_tensor::{StateDict, Tensor};
use engraft_weights::interpolate_positions;
use flate2::read::GzDecoder;
use serde_json::Value;

const NAME: &str = "encoder.pos_embedding";

fn spec(name: &str, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.into(), shape: shape.into(), kind: TensorKind::Parameter }
}

fn dict(name: &str, tensor: Tensor) -> StateDict {
    let mut dict = StateDict::new();
    dict.insert(name, tensor);
    dict
}

fn tensor(value: &Value) -> Tensor {
    let [shape, values] = ["shape", "values"].map(|key| value[key].clone());
    let shape: Vec<usize> = serde_json::from_value(shape).unwrap();
    Tensor::f32(shape, serde_json::from_value(values).unwrap())
}

#[test]
fn embeddings_are_interpolated_as_by_torchvision() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/fixtures/positions.json.gz");
    let cases: Value = serde_json::from_reader(GzDecoder::new(File::open(path).unwrap())).unwrap();
    for case in cases.as_array().unwrap() {
        let (from, to) = (tensor(&case["from"]), tensor(&case["to"]));
        let context = format!("{:?} to {:?}", from.shape, to.shape);
        let mut dict = dict(NAME, from.clone());
        let note =
            interpolate_positions(&mut dict, &[spec("class_token", &[1, 1, 2]), spec(NAME, &to.shape)]);
        assert_eq!(note.is_some(), from.shape != to.shape, "{context}");
        let ours = dict.get(NAME).unwrap();
        assert_eq!(ours.shape, to.shape, "{context}");
        for (ours, theirs) in ours.as_f32().unwrap().iter().zip(to.as_f32().unwrap()) {
            assert!((ours - theirs).abs() <= 1e-6, "{context}: {ours}, not {theirs}");
        }
    }
}

#[test]
fn what_was_done_is_said() {
    let mut dict = dict(NAME, Tensor::f32([1, 197, 2], vec![0.5; 394]));
    let note = interpolate_positions(&mut dict, &[spec(NAME, &[1, 577, 2])]).unwrap();
    assert_eq!(note, "the position embeddings were interpolated from 14x14 to 24x24 patches");
    let values = dict.get(NAME).and_then(Tensor::as_f32).unwrap();
    assert!(values.iter().all(|value| (value - 0.5).abs() < 1e-6), "weights that do not sum to one");
}

#[test]
fn what_cannot_be_interpolated_stays() {
    let tensor = |shape: &[usize]| Tensor::f32(shape, vec![0.5; shape.iter().product()]);
    let cases: [(Tensor, &[usize]); 8] = [
        (tensor(&[1, 17, 4]), &[1, 26, 3]),
        (tensor(&[1, 16, 4]), &[1, 26, 4]),
        (tensor(&[1, 17, 4]), &[1, 25, 4]),
        (tensor(&[17, 4]), &[1, 26, 4]),
        (tensor(&[2, 17, 4]), &[1, 26, 4]),
        (tensor(&[1, 0, 4]), &[1, 26, 4]),
        (tensor(&[1, 1, 4]), &[1, 26, 4]),
        (Tensor { shape: vec![1, 2, 1], data: engraft_tensor::TensorData::I64(vec![1, 2]) }, &[1, 5, 1]),
    ];
    for (tensor, needed) in cases {
        let mut found = dict(NAME, tensor.clone());
        assert_eq!(interpolate_positions(&mut found, &[spec(NAME, needed)]), None, "{:?}", tensor.shape);
        assert_eq!(found, dict(NAME, tensor));
    }
    let mut other = dict("fc.weight", tensor(&[1, 17, 4]));
    assert_eq!(interpolate_positions(&mut other, &[spec(NAME, &[1, 26, 4])]), None);
    assert_eq!(interpolate_positions(&mut other, &[spec("fc.weight", &[1, 26, 4])]), None);
}
