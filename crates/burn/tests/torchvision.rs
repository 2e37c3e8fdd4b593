//! Every architecture of the zoo, on weights that follow from a formula, against torchvision (`parity/networks.py`).

use std::sync::Mutex;
use std::time::Instant;

use engraft_burn::BurnEngine;
use engraft_engine::Engine;
use engraft_engine::suite::fixture::{self, relative_difference};
use engraft_engine::suite::formula;
use engraft_graph::{Graft, Graph, HeadSpec, NodeId};
use engraft_weights::{StateDict, Tensor, interpolate_positions};
use engraft_zoo::{architecture, architecture_of_size, architectures};
use serde::Deserialize;

/// Relative to the largest logit or feature. Burn is within 1e-5, and within 4e-6 at the networks' own sizes; torch's own f32 likewise.
const TOLERANCE: f32 = 3e-5;

#[derive(Deserialize)]
struct Fixture {
    norm: f32,
    input: Vec<usize>,
    logits: Vec<f32>,
    features: Features,
    other_size: Option<OtherSize>,
}

/// For a network that takes images of another size.
#[derive(Deserialize)]
struct OtherSize {
    input: Vec<usize>,
    logits: Vec<f32>,
}

/// What enters the classifier.
#[derive(Deserialize)]
struct Features {
    shape: Vec<usize>,
    /// `values` is every so many-th value of the mean over height and width.
    stride: usize,
    values: Vec<f32>,
}

/// The largest networks have 2.5 GB of weights: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Networks that take more than two seconds for an image; `cargo test --release -p engraft-burn --test torchvision -- --ignored`
/// compares them.
const SLOW: &[&str] = &["regnet_y_128gf", "vit_l_16", "vit_h_14"];

fn compare_family(prefix: &str, members: usize) {
    let _alone = ONE_AT_A_TIME.lock();
    let names: Vec<&str> = architectures().filter(|name| name.starts_with(prefix)).collect();
    assert_eq!(names.len(), members, "{names:?}");
    for name in names.into_iter().filter(|name| !SLOW.contains(name)) {
        compare(name);
    }
}

#[test]
#[ignore = "takes minutes"]
fn slow_networks() {
    let _alone = ONE_AT_A_TIME.lock();
    SLOW.iter().for_each(|name| compare(name));
}

fn compare(name: &str) {
    let fixture: Fixture = fixture::read(&format!("networks/{name}"));
    let graph = architecture(name).unwrap();
    let mut state = formula::state(&graph, fixture.norm);
    compare_logits(name, &graph, &state, &fixture.input, &fixture.logits);
    compare_features(name, &graph, &state, &fixture);
    if let Some(OtherSize { input, logits }) = &fixture.other_size {
        let graph = match input[..] {
            [_, _, height, width] if height == width => architecture_of_size(name, height).unwrap(),
            _ => graph.for_input(&input[1..]).unwrap(),
        };
        let note = interpolate_positions(&mut state, &graph.state());
        assert_eq!(note.is_some(), name.starts_with("vit"), "{name}");
        compare_logits(name, &graph, &state, input, logits);
    }
}

fn compare_logits(name: &str, graph: &Graph, state: &StateDict, input: &[usize], expected: &[f32]) {
    let start = Instant::now();
    let logits = forward(graph, state, input);
    let seconds = start.elapsed().as_secs_f32();
    assert_eq!(logits.shape, [1, 1000], "{name}");
    let difference = relative_difference(logits.as_f32().unwrap(), expected);
    println!("{name}: logits for {input:?} off by {difference:.1e}, {seconds:.1} s");
    assert!(difference <= TOLERANCE, "{name}: logits for {input:?} off by {difference:e}");
}

fn compare_features(name: &str, graph: &Graph, state: &StateDict, fixture: &Fixture) {
    let spec = HeadSpec { hidden_units: vec![], classes: 2, dropout: 0.0 };
    let head = graph.head().unwrap().layer_path;
    let graft = graph.graft(&spec, head.split('.').next()).unwrap();
    let features = forward(&graft.graph.until(graft.features), state, &fixture.input);
    assert_same_bits_as_before(name, graph, &graft, state, fixture);
    let expected = &fixture.features;
    let maps = if expected.shape.len() == 4 { 2 } else { expected.shape.len() };
    assert_eq!(features.shape, expected.shape[..maps], "{name}");
    let kept: Vec<f32> = features.as_f32().unwrap().iter().step_by(expected.stride).copied().collect();
    let difference = relative_difference(&kept, &expected.values);
    assert!(difference <= TOLERANCE, "{name}: features off by {difference:e}");
}

/// What the head sees of a grafted network is, to the bit, what the network itself computes there.
fn assert_same_bits_as_before(
    name: &str,
    graph: &Graph,
    graft: &Graft,
    state: &StateDict,
    fixture: &Fixture,
) {
    // Where the network itself does not give a vector, the graft had to add a pool and a flatten.
    let added = if graft.report.pooled.is_some() { 2 } else { 0 };
    let entry = NodeId(graft.features.0 - added);
    let after = forward(&graft.graph.until(entry), state, &fixture.input);
    let before = forward(&graph.without_aux().until(entry), state, &fixture.input);
    assert!(after == before, "{name}: the graft changed the features");
}

fn forward(graph: &Graph, state: &StateDict, input: &[usize]) -> Tensor {
    let network = BurnEngine::cpu().network(graph, state.clone()).unwrap();
    network.forward(&formula::inputs("input", input)).unwrap()
}

macro_rules! families {
    ($($family:ident $prefix:literal $members:literal)*) => {
        $(
            #[test]
            fn $family() {
                compare_family($prefix, $members);
            }
        )*

        #[test]
        fn no_architecture_is_left_out() {
            assert_eq!(architectures().count(), 0 $(+ $members)*);
        }
    };
}

families! {
    alexnet "alexnet" 1
    convnext "convnext" 4
    densenet "densenet" 4
    efficientnet "efficientnet" 11
    googlenet "googlenet" 1
    inception_v3 "inception_v3" 1
    maxvit "maxvit" 1
    mnasnet "mnasnet" 4
    mobilenet_v2 "mobilenet_v2" 1
    mobilenet_v3 "mobilenet_v3" 2
    regnet "regnet" 15
    resnet "resnet" 5
    resnext "resnext" 3
    shufflenet_v2 "shufflenet_v2" 4
    squeezenet "squeezenet" 2
    swin "swin" 6
    vgg "vgg" 8
    vit "vit" 5
    wide_resnet "wide_resnet" 2
}
