//! Every architecture of the zoo, on weights that follow from a formula, against torchvision (`parity/networks.py`).

use std::sync::Mutex;

use engraft_burn::BurnEngine;
use engraft_engine::Engine;
use engraft_engine::suite::fixture::{self, relative_difference};
use engraft_engine::suite::formula;
use engraft_graph::HeadSpec;
use engraft_zoo::{architecture, architectures};
use serde::Deserialize;

/// Relative to the largest logit or feature. Burn is within 2e-6, torch's own f32 within 3e-6.
const TOLERANCE: f32 = 1e-5;

#[derive(Deserialize)]
struct Fixture {
    norm: f32,
    input: Vec<usize>,
    logits: Vec<f32>,
    features: Features,
}

/// What enters the classifier.
#[derive(Deserialize)]
struct Features {
    shape: Vec<usize>,
    /// `values` is every so many-th value of the mean over height and width.
    stride: usize,
    values: Vec<f32>,
}

/// The largest networks have 575 MB of weights: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn compare_family(prefix: &str, members: usize) {
    let _alone = ONE_AT_A_TIME.lock();
    let names: Vec<&str> = architectures().filter(|name| name.starts_with(prefix)).collect();
    assert_eq!(names.len(), members, "{names:?}");
    for name in names {
        compare(name);
    }
}

fn compare(name: &str) {
    let fixture: Fixture = fixture::read(&format!("networks/{name}"));
    let graph = architecture(name).unwrap();
    let state = formula::state(&graph, fixture.norm);
    let input = formula::inputs("input", &fixture.input);
    let engine = BurnEngine::cpu();
    let run = |graph| engine.network(graph, &state).and_then(|network| network.forward(&input)).unwrap();

    let logits = run(&graph);
    assert_eq!(logits.shape, [1, 1000], "{name}");
    let difference = relative_difference(logits.as_f32().unwrap(), &fixture.logits);
    assert!(difference <= TOLERANCE, "{name}: logits off by {difference:e}");

    let spec = HeadSpec { hidden_units: vec![], classes: 2, dropout: 0.0 };
    let graft = graph.graft(&spec, None).unwrap();
    let features = run(&graft.graph.until(graft.features));
    let expected = &fixture.features;
    let maps = if expected.shape.len() == 4 { 2 } else { expected.shape.len() };
    assert_eq!(features.shape, expected.shape[..maps], "{name}");
    let kept: Vec<f32> = features.as_f32().unwrap().iter().step_by(expected.stride).copied().collect();
    let difference = relative_difference(&kept, &expected.values);
    assert!(difference <= TOLERANCE, "{name}: features off by {difference:e}");
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
    densenet "densenet" 4
    mobilenet_v2 "mobilenet_v2" 1
    resnet "resnet" 5
    shufflenet_v2 "shufflenet_v2" 4
    squeezenet "squeezenet" 2
    vgg "vgg" 8
}
