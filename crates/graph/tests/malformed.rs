//! A network that is read from somewhere is checked before anything walks over it.

use engraft_graph::{
    Activation, Attention, BatchNorm2d, Builder, Conv2d, Graph, Linear, Op, Pool, PositionBias,
    ProjectionNames, Resize, ResizeMode, ResizeTo, Scores,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

/// One of each operation whose attributes can contradict each other.
fn network() -> Graph {
    let (mut b, x) = Builder::new("Net", 3, 16);
    let x = b.layer("conv", Conv2d::new(3, 4, 3).stride(2).padding(1), x);
    let x = b.layer("relu", Activation::ReLU, x);
    let x = b.layer("pool", Op::MaxPool2d(Pool::new(2, 2)), x);
    let to = ResizeTo::Scale([2.0, 1.5]);
    let x = b.layer("resize", Resize { to, square: false, mode: ResizeMode::Nearest }, x);
    let x = b.function(Op::Permute { axes: vec![0, 2, 3, 1] }, &[x]);
    let attention = Attention {
        dim: 4,
        heads: 2,
        names: ProjectionNames::Swin,
        scores: Scores::Product { scale: 0.5 },
        position: PositionBias::Table { window: 2, matrix: false },
        windows: Some(engraft_graph::Windows { side: 2, shift: 1 }),
    };
    let x = b.attention("attention", "ShiftedWindowAttention", attention, x);
    let x = b.function(Op::PadToMultiple { axes: vec![1, 2], of: 8 }, &[x]);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.layer("fc", Linear::new(8 * 8 * 4, 2), x);
    b.finish(x)
}

fn read(graph: Value) -> Result<Graph, String> {
    serde_json::from_value(graph).map_err(|error| error.to_string())
}

#[test]
fn a_network_is_read_as_it_was_written() {
    let written = serde_json::to_value(network()).unwrap();
    assert_eq!(read(written), Ok(network()));
}

#[test]
fn what_is_no_network_is_refused_with_the_reason() {
    let cases = [
        ("/nodes/1/inputs", json!([1]), "node 1, conv (Conv2d), reads from node 1, which is not before it"),
        ("/nodes/2/inputs", json!([99]), "node 2, relu (ReLU), reads from node 99"),
        ("/output", json!(10), "its output is node 10, of 10 nodes"),
        ("/aux", json!([100]), "its output is node 100, of 10 nodes"),
        ("/nodes", json!([]), "its output is node 9, of 0 nodes"),
        (
            "/nodes/1/op/Conv2d/groups",
            json!(0),
            "the attributes of conv (Conv2d) do not agree: groups divide",
        ),
        ("/root/children/0/op/Conv2d/groups", json!(0), "the attributes of conv (Conv2d) do not agree"),
        ("/nodes/1/op/Conv2d/stride", json!([0, 1]), "stride and dilation are at least 1"),
        ("/nodes/4/op/Resize/to/Scale", json!([0.0, 1.0]), "scale factors more than 0"),
        ("/nodes/3/op/MaxPool2d/padding", json!(2), "the padding is at most half the window"),
        ("/nodes/6/op/Attention/position/Table/window", json!(0), "biases are for such a window"),
        ("/nodes/9/op/Linear/out_features", json!(u64::MAX >> 1), "no memory holds its tensors"),
        ("/nodes/9/op/Linear/in_features", json!(7), "fc (Linear) needs an input [.., 7], but gets [1, 256]"),
        ("/input", json!([3, 1_u64 << 40, 1_u64 << 40]), "no memory holds that many values"),
        (
            "/root/children/4/tensors/0/shape",
            json!([1_u64 << 40, 1_u64 << 40]),
            "no memory holds the tensors of attention",
        ),
        ("/input", json!([]), "conv (Conv2d) needs an input [batch, channels, height, width]"),
    ];
    for (place, value, reason) in cases {
        let mut graph = serde_json::to_value(network()).unwrap();
        *graph.pointer_mut(place).unwrap_or_else(|| panic!("there is no {place}")) = value;
        let error = read(graph).unwrap_err();
        assert!(error.contains(reason), "{place}: {error}");
    }
}

/// What an engine would compute in another way than the next one, or divide by.
#[test]
fn operations_that_mean_nothing_are_refused() {
    let shapes = |op: Op, inputs: usize| {
        let (mut b, x) = Builder::new("Net", 4, 6);
        let x = b.function(op, &vec![x; inputs]);
        b.finish(x).shapes(&[2, 4, 6, 6]).map(|_| ()).map_err(|error| error.to_string())
    };
    let norm = BatchNorm2d { eps: -1.0, ..BatchNorm2d::new(4) };
    let adaptive = Op::AdaptiveAvgPool2d { output: [0, 1], square: false };
    let resize = |to| Op::Resize(Resize { to, square: false, mode: ResizeMode::Nearest });
    let network = Attention {
        dim: 6,
        heads: 2,
        names: ProjectionNames::Swin,
        scores: Scores::Cosine,
        position: PositionBias::Network { window: 1 },
        windows: Some(engraft_graph::Windows { side: 1, shift: 0 }),
    };
    let cases = [
        (Op::Mean { axes: vec![2, 2] }, 1, "axes are ascending"),
        (Op::Roll { shifts: vec![1, 1], axes: vec![2, 2] }, 1, "each axis is rolled once"),
        (Op::Roll { shifts: vec![1], axes: vec![2, 3] }, 1, "by its own shift"),
        (adaptive, 1, "at least 1 pixel"),
        (resize(ResizeTo::Size([0, 3])), 1, "sizes are at least 1"),
        (resize(ResizeTo::Scale([0.0, 2.0])), 1, "scale factors more than 0"),
        (resize(ResizeTo::Scale([2.0, f64::INFINITY])), 1, "scale factors more than 0"),
        (resize(ResizeTo::Like), 1, "Upsample takes 2 as its number of inputs, not 1"),
        (resize(ResizeTo::Size([2, 2])), 2, "Upsample takes 1 as its number of inputs, not 2"),
        (Conv2d::new(4, 0, 1).into(), 1, "channels, kernel, stride and dilation are at least 1"),
        (Linear::new(6, 0).into(), 1, "at least one feature"),
        (Op::Parameter { name: "p".into(), shape: vec![0, 2] }, 0, "its sizes are at least 1"),
        (Op::dropout(1.0), 1, "less than 1"),
        (Op::StochasticDepth { p: f64::NAN }, 1, "less than 1"),
        (norm.into(), 1, "eps is not negative"),
        (network.into(), 1, "do not agree"),
        (Activation::ReLU.into(), 2, "ReLU takes 1 as its number of inputs, not 2"),
        (Activation::ReLU.into(), 0, "not 0"),
        (Op::Add, 3, "Add takes 2 as its number of inputs, not 3"),
        (Op::Concat { axis: 1 }, 0, "not 0"),
        (Op::Input, 0, "several"),
    ];
    for (op, inputs, reason) in cases {
        let name = format!("{op:?}");
        let error = shapes(op, inputs).unwrap_err();
        assert!(error.contains(reason), "{name}: {error}");
    }
}

/// All numbers of a value, by their places.
fn numbers(value: &Value, place: String, found: &mut Vec<String>) {
    match value {
        Value::Number(_) => found.push(place),
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, item)| numbers(item, format!("{place}/{index}"), found));
        }
        Value::Object(items) => {
            items.iter().for_each(|(key, item)| numbers(item, format!("{place}/{key}"), found));
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, rng_seed: RngSeed::Fixed(9), ..ProptestConfig::default() })]

    /// With any numbers changed a network is refused, or all walks over it end without a panic.
    #[test]
    fn no_number_makes_a_walk_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![0..20_u64, any::<u64>()]), 1..3)
    ) {
        let mut graph = serde_json::to_value(network()).unwrap();
        let mut places = Vec::new();
        numbers(&graph, String::new(), &mut places);
        for (place, number) in changes {
            *graph.pointer_mut(&places[place.index(places.len())]).unwrap() = number.into();
        }
        if let Ok(graph) = read(graph) {
            let input = [&[1], graph.input()].concat();
            let _ = graph.module_costs(&input, |_| true);
            let _ = graph.head();
            let _ = graph.split(graph.frontier(|name| name.starts_with("fc.")));
            prop_assert!(!graph.to_string().is_empty());
            prop_assert!(graph.state().iter().all(|tensor| !tensor.name.is_empty()));
        }
    }
}
