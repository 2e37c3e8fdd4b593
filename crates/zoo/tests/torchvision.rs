//! Every architecture against torchvision's own text, state dict and parameter count (`parity/networks.py`).

use std::fs::File;

use engraft_graph::{Graph, TensorKind, TensorSpec};
use engraft_zoo::{architecture, architectures};
use flate2::read::GzDecoder;
use serde_json::Value;

fn fixture(name: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/fixtures/networks");
    let path = format!("{folder}/{name}.json.gz");
    let file = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_reader(GzDecoder::new(file)).expect("the fixture is JSON")
}

fn networks() -> impl Iterator<Item = (&'static str, Graph, Value)> {
    architectures().map(|name| (name, architecture(name).expect("it is listed"), fixture(name)))
}

#[test]
fn prints_as_torchvision_does() {
    for (name, graph, torchvision) in networks() {
        let (ours, theirs) = (graph.to_string(), torchvision["print"].as_str().unwrap());
        for (line, (ours, theirs)) in ours.lines().zip(theirs.lines()).enumerate() {
            assert_eq!(ours, theirs, "{name}, line {line}");
        }
        assert!(ours == theirs, "{name}: one text is longer");
    }
}

#[test]
fn state_dicts_have_torchvisions_names_shapes_and_order() {
    for (name, graph, torchvision) in networks() {
        let expected: Vec<TensorSpec> =
            torchvision["state_dict"].as_array().unwrap().iter().map(tensor_spec).collect();
        assert_eq!(graph.state(), expected, "{name}");
    }
}

fn tensor_spec(entry: &Value) -> TensorSpec {
    let shape: Vec<usize> = serde_json::from_value(entry[1].clone()).unwrap();
    let name = entry[0].as_str().unwrap().to_string();
    let kind = match (entry[2].as_str(), entry[3].as_str()) {
        (Some("int64"), Some("buffer")) if name.ends_with("relative_position_index") => TensorKind::Index,
        (Some("int64"), Some("buffer")) => TensorKind::Counter,
        (Some("float32"), Some("buffer")) => TensorKind::Buffer,
        (Some("float32"), Some("parameter")) => TensorKind::Parameter,
        other => panic!("{other:?}"),
    };
    TensorSpec { name, shape, kind }
}

#[test]
fn nodes_and_modules_name_the_same_tensors() {
    for (name, graph, _) in networks() {
        let mut of_modules: Vec<String> = graph.state().into_iter().map(|tensor| tensor.name).collect();
        let mut of_nodes: Vec<String> =
            graph.nodes().iter().flat_map(|node| node.tensors()).map(|tensor| tensor.name).collect();
        of_modules.sort();
        of_nodes.sort();
        of_nodes.dedup();
        assert_eq!(of_nodes, of_modules, "{name}");
    }
}

#[test]
fn parameters_are_counted_as_torchvision_counts_them() {
    for (name, graph, torchvision) in networks() {
        let state = graph.state();
        let parameters = state.iter().filter(|tensor| tensor.kind == TensorKind::Parameter);
        let count: usize = parameters.map(TensorSpec::len).sum();
        assert_eq!(count as u64, torchvision["num_params"].as_u64().unwrap(), "{name}");
    }
}

#[test]
fn heads_are_found_where_torchvision_has_them() {
    for (name, graph, torchvision) in networks() {
        let head = graph.head().unwrap();
        assert_eq!(head.layer_path, torchvision["head"].as_str().unwrap(), "{name}");
        let path = match name {
            // Their classifiers pool, flatten or normalise first.
            "maxvit_t" => "classifier.3",
            _ if name.starts_with("convnext") => "classifier.2",
            _ => head.layer_path.split('.').next().unwrap(),
        };
        assert_eq!(head.path, path, "{name}");
    }
}

#[test]
fn auxiliary_heads_are_torchvisions() {
    for (name, graph, torchvision) in networks() {
        let ours: Vec<&str> = graph.aux().iter().map(|id| graph.nodes()[id.0].module.as_str()).collect();
        let theirs: Vec<&str> =
            torchvision["aux"].as_array().into_iter().flatten().flat_map(Value::as_str).collect();
        assert_eq!(ours, theirs, "{name}");
        let mut plain = graph.state();
        plain.retain(|tensor| !ours.iter().any(|path| is_beside(&tensor.name, path)));
        assert_eq!(graph.without_aux().state(), plain, "{name}");
    }
}

/// Whether a tensor belongs to the child of the network that a layer belongs to.
fn is_beside(tensor: &str, layer: &str) -> bool {
    tensor.split('.').next() == layer.split('.').next()
}

#[test]
fn an_unknown_name_suggests_the_nearest() {
    let message = architecture("resnet5O").unwrap_err().to_string();
    assert!(message.contains("no architecture `resnet5O`; the nearest name is `resnet50`"), "{message}");
}
