//! Every architecture of the zoo, on weights that follow from a formula, against torchvision (`parity/networks.py`).
//!
//! An engine's own tests are again one line: `engraft_engine::test_networks!(BurnEngine::cpu());`

use std::sync::Mutex;
use std::time::Instant;

use engraft_graph::{Graft, Graph, HeadSpec, NodeId};
use engraft_tensor::{StateDict, Tensor, TensorData};
use engraft_weights::interpolate_positions;
use engraft_zoo::{
    IMAGENET, TRANSFORM_INPUT, architecture, architecture_of_size, architectures, has_transform_input,
};
use serde::Deserialize;

use super::fixture::{self, relative_difference};
use super::formula;
use crate::Engine;

/// Relative to the largest logit or feature. Burn is within 1e-5, and within 4e-6 at the networks' own sizes; torch's own f32 likewise.
const TOLERANCE: f32 = 3e-5;

#[derive(Deserialize)]
struct Fixture {
    norm: f32,
    input: Vec<usize>,
    logits: Vec<f32>,
    features: Features,
    other_size: Option<OtherSize>,
    /// Whether torchvision's network normalises its input anew, which for us belongs to the transform of an image.
    #[serde(default)]
    transform_input: bool,
    /// Of a network that can do so: the logits of the same weights when it does not.
    without_transform_input: Option<Vec<f32>>,
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

/// Networks that take more than two seconds for an image. Their test is ignored: `cargo test --release -- --ignored` runs it.
const SLOW: &[&str] = &["regnet_y_128gf", "vit_l_16", "vit_h_14"];

/// Compares the networks whose names begin with `prefix`, which are so many.
pub fn family_is_torchvisions(engine: &dyn Engine, prefix: &str, members: usize) {
    let _alone = ONE_AT_A_TIME.lock();
    let names: Vec<&str> = architectures().filter(|name| name.starts_with(prefix)).collect();
    assert_eq!(names.len(), members, "{names:?}");
    for name in names.into_iter().filter(|name| !SLOW.contains(name)) {
        compare(engine, name);
    }
}

/// Compares the slow ones.
pub fn slow_networks_are_torchvisions(engine: &dyn Engine) {
    let _alone = ONE_AT_A_TIME.lock();
    SLOW.iter().for_each(|name| compare(engine, name));
}

/// How many architectures there are.
pub fn architecture_count() -> usize {
    architectures().count()
}

fn compare(engine: &dyn Engine, name: &str) {
    let fixture: Fixture = fixture::read(&format!("networks/{name}"));
    let graph = architecture(name).unwrap();
    let mut state = formula::state(&graph, fixture.norm);
    compare_logits(engine, name, &graph, &state, &fixture.batch(&fixture.input), &fixture.logits);
    assert_eq!(fixture.without_transform_input.is_some(), has_transform_input(name), "{name}");
    if let Some(logits) = &fixture.without_transform_input {
        compare_logits(engine, name, &graph, &state, &formula::inputs("input", &fixture.input), logits);
    }
    compare_features(engine, name, &graph, &state, &fixture);
    if let Some(OtherSize { input, logits }) = &fixture.other_size {
        let graph = match input[..] {
            [_, _, height, width] if height == width => architecture_of_size(name, height).unwrap(),
            _ => graph.for_input(&input[1..]).unwrap(),
        };
        let note = interpolate_positions(&mut state, &graph.state());
        assert_eq!(note.is_some(), name.starts_with("vit"), "{name}");
        compare_logits(engine, name, &graph, &state, &fixture.batch(input), logits);
    }
}

impl Fixture {
    /// The input of this shape as our network takes it.
    fn batch(&self, shape: &[usize]) -> Tensor {
        let batch = formula::inputs("input", shape);
        if self.transform_input { with_transform_input(batch) } else { batch }
    }
}

/// Images normalised by ImageNet's mean, as torchvision's `transform_input` normalises them anew.
pub(super) fn with_transform_input(mut batch: Tensor) -> Tensor {
    let plane = batch.shape[2] * batch.shape[3];
    if let TensorData::F32(values) = &mut batch.data {
        for (index, value) in values.iter_mut().enumerate() {
            let channel = index / plane % 3;
            let colour = *value * IMAGENET.std[channel] + IMAGENET.mean[channel];
            *value = (colour - TRANSFORM_INPUT.mean[channel]) / TRANSFORM_INPUT.std[channel];
        }
    }
    batch
}

fn compare_logits(
    engine: &dyn Engine,
    name: &str,
    graph: &Graph,
    state: &StateDict,
    batch: &Tensor,
    expected: &[f32],
) {
    let start = Instant::now();
    let logits = forward(engine, graph, state, batch);
    let seconds = start.elapsed().as_secs_f32();
    assert_eq!(logits.shape, [1, 1000], "{name}");
    let difference = relative_difference(logits.as_f32().unwrap(), expected);
    let input = &batch.shape;
    println!("{name}: logits for {input:?} off by {difference:.1e}, {seconds:.1} s");
    assert!(difference <= TOLERANCE, "{name}: logits for {input:?} off by {difference:e}");
}

fn compare_features(engine: &dyn Engine, name: &str, graph: &Graph, state: &StateDict, fixture: &Fixture) {
    let spec = HeadSpec { hidden_units: vec![], classes: 2, dropout: 0.0 };
    let head = graph.head().unwrap().layer_path;
    let graft = graph.graft(&spec, head.split('.').next()).unwrap();
    let features = forward(engine, &graft.graph.until(graft.features), state, &fixture.batch(&fixture.input));
    assert_same_bits_as_before(engine, name, graph, &graft, state, fixture);
    let expected = &fixture.features;
    let maps = if expected.shape.len() == 4 { 2 } else { expected.shape.len() };
    assert_eq!(features.shape, expected.shape[..maps], "{name}");
    let kept: Vec<f32> = features.as_f32().unwrap().iter().step_by(expected.stride).copied().collect();
    let difference = relative_difference(&kept, &expected.values);
    assert!(difference <= TOLERANCE, "{name}: features off by {difference:e}");
}

/// What the head sees of a grafted network is, to the bit, what the network itself computes there.
fn assert_same_bits_as_before(
    engine: &dyn Engine,
    name: &str,
    graph: &Graph,
    graft: &Graft,
    state: &StateDict,
    fixture: &Fixture,
) {
    // Where the network itself does not give a vector, the graft had to add a pool and a flatten.
    let added = if graft.report.pooled.is_some() { 2 } else { 0 };
    let entry = NodeId(graft.features.0 - added);
    let batch = fixture.batch(&fixture.input);
    let after = forward(engine, &graft.graph.until(entry), state, &batch);
    let before = forward(engine, &graph.without_aux().until(entry), state, &batch);
    assert!(after == before, "{name}: the graft changed the features");
}

fn forward(engine: &dyn Engine, graph: &Graph, state: &StateDict, batch: &Tensor) -> Tensor {
    let mut network = engine.network(graph, state.clone()).unwrap();
    network.forward(batch).unwrap()
}

/// Makes a `#[test]` of every family of networks, for the engine that the expression gives.
#[macro_export]
macro_rules! test_networks {
    ($engine:expr) => {
        $crate::test_networks! { $engine =>
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
    };
    ($engine:expr => $($family:ident $prefix:literal $members:literal)*) => {
        $(
            #[test]
            fn $family() {
                $crate::suite::family_is_torchvisions(&$engine, $prefix, $members);
            }
        )*

        #[test]
        #[ignore = "takes minutes"]
        fn slow_networks() {
            $crate::suite::slow_networks_are_torchvisions(&$engine);
        }

        #[test]
        fn no_architecture_is_left_out() {
            assert_eq!($crate::suite::architecture_count(), 0 $(+ $members)*);
        }
    };
}
