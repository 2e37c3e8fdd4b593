//! Grafts that only networks of unusual form show; those of torchvision's are in `engraft-zoo`.

use engraft_graph::Activation::ReLU;
use engraft_graph::{Builder, Conv2d, Dim, Graft, Graph, HeadSpec, Linear, Op};

fn head(hidden_units: &[usize], classes: usize, dropout: f64) -> HeadSpec {
    HeadSpec { hidden_units: hidden_units.into(), classes, dropout }
}

/// Two branches that a module of two inputs joins, a module that nothing leads to, and one beside the way to the output.
fn branches() -> Graph {
    let (mut b, x) = Builder::new("Net", 3, 8);
    let [one, two] = ["one", "two"].map(|name| b.layer(name, Conv2d::new(3, 4, 1), x));
    let x = b.module("join", "Join", |b| {
        let x = b.function(Op::Add, &[one, two]);
        b.layer("relu", ReLU, x)
    });
    b.module("aux", "Auxiliary", |b| {
        let x = b.function(Op::Flatten { start: 1 }, &[x]);
        b.layer("fc", Linear::new(4 * 64, 10), x)
    });
    b.module("spare", "Spare", |_| ());
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.layer("fc", Linear::new(4 * 64, 10), x);
    b.finish(x)
}

fn names(graph: &Graph) -> Vec<String> {
    graph.state().into_iter().map(|tensor| tensor.name).collect()
}

#[test]
fn the_head_takes_the_place_and_the_rest_stays() {
    let Graft { graph, features, report, .. } = branches().graft(&head(&[20], 3, 0.1), None).unwrap();
    assert_eq!(report.to_string(), "fc: Linear 256->10 replaced by 256->20->3, dropout 0.1");
    assert_eq!(
        names(&graph),
        [
            "one.weight",
            "one.bias",
            "two.weight",
            "two.bias",
            "fc.0.weight",
            "fc.0.bias",
            "fc.3.weight",
            "fc.3.bias"
        ]
    );
    assert_eq!(graph.nodes()[features.0].op, Op::Flatten { start: 1 });
    assert_eq!(graph.shapes(&[5, 3, 8, 8]).unwrap()[graph.output().0], [5, 3]);
    assert_eq!(
        graph.to_string(),
        "Net(\n  \
           (one): Conv2d(3, 4, kernel_size=(1, 1), stride=(1, 1))\n  \
           (two): Conv2d(3, 4, kernel_size=(1, 1), stride=(1, 1))\n  \
           (join): Join(\n    \
             (relu): ReLU()\n  \
           )\n  \
           (spare): Spare()\n  \
           (fc): Sequential(\n    \
             (0): Linear(in_features=256, out_features=20, bias=True)\n    \
             (1): ReLU()\n    \
             (2): Dropout(p=0.1, inplace=False)\n    \
             (3): Linear(in_features=20, out_features=3, bias=True)\n  \
           )\n)"
    );
}

#[test]
fn without_hidden_layers_the_head_is_one_linear_layer() {
    let Graft { graph, report, .. } = branches().graft(&head(&[], 3, 0.1), None).unwrap();
    assert_eq!(report.to_string(), "fc: Linear 256->10 replaced by 256->3");
    assert_eq!(names(&graph)[4..], ["fc.weight", "fc.bias"]);
    assert!(graph.to_string().ends_with("(fc): Linear(in_features=256, out_features=3, bias=True)\n)"));
}

#[test]
fn without_dropout_there_is_no_dropout_layer() {
    let Graft { graph, report, .. } = branches().graft(&head(&[20, 6], 3, 0.0), None).unwrap();
    assert_eq!(report.to_string(), "fc: Linear 256->10 replaced by 256->20->6->3, dropout 0");
    assert_eq!(
        names(&graph)[4..].iter().step_by(2).collect::<Vec<_>>(),
        ["fc.0.weight", "fc.2.weight", "fc.4.weight"]
    );
}

#[test]
fn after_a_cut_in_the_middle_maps_are_pooled() {
    let Graft { graph, features, report, .. } =
        branches().graft(&head(&[], 3, 0.0), Some("join.relu")).unwrap();
    assert_eq!(
        report.to_string(),
        "join.relu and all behind it: Linear 256->10 replaced by 4->3, after global average pooling"
    );
    assert_eq!(names(&graph)[4..], ["join.relu.weight", "join.relu.bias"]);
    assert_eq!(graph.shapes(&[5, 3, 8, 8]).unwrap()[features.0], [5, 4]);
}

#[test]
fn after_a_cut_in_the_middle_tokens_are_averaged() {
    let (mut b, x) = Builder::new("Net", 3, 8);
    let x = b.layer("patches", Conv2d::new(3, 6, 4).stride(4), x);
    let x = b.function(Op::Flatten { start: 2 }, &[x]);
    let x = b.function(Op::Permute { axes: vec![0, 2, 1] }, &[x]);
    let x = b.layer("mlp", Linear::new(6, 6), x);
    let x = b.function(Op::Mean { axes: vec![1] }, &[x]);
    let x = b.layer("head", Linear::new(6, 10), x);
    let Graft { graph, features, report, .. } = b.finish(x).graft(&head(&[], 3, 0.0), Some("mlp")).unwrap();
    assert_eq!(
        report.to_string(),
        "mlp and all behind it: Linear 6->6 ... 6->10 replaced by 6->3, after the mean over tokens"
    );
    assert_eq!(graph.nodes()[features.0].op, Op::Mean { axes: vec![1] });
    assert_eq!(graph.output_shape(), Ok(vec![3]));
}

/// A network that moves its channels to the end, gathers tokens as MaxViT does, and moves the channels back.
fn channels_last() -> Graph {
    let (mut b, x) = Builder::new("Net", 3, 8);
    let x = b.layer("conv", Conv2d::new(3, 6, 1), x);
    let x = b.layer("last", Op::Permute { axes: vec![0, 2, 3, 1] }, x);
    let x = b.layer("relu1", ReLU, x);
    let x = b.layer("norm", Op::LayerNorm { features: 6, eps: 1e-5 }, x);
    let y = b.layer("drop", Op::StochasticDepth { p: 0.1 }, x);
    let x = b.function(Op::Add, &[x, y]);
    let x = b.layer("first", Op::Permute { axes: vec![0, 3, 1, 2] }, x);
    let x = b.layer("relu2", ReLU, x);
    let squares = [Dim::Keep(0), Dim::Keep(1)].into_iter().chain([4, 2, 4, 2].map(Dim::Fixed)).collect();
    let x = b.function(Op::Reshape { shape: squares }, &[x]);
    let x = b.function(Op::Permute { axes: vec![0, 2, 4, 3, 5, 1] }, &[x]);
    let groups = vec![Dim::Keep(0), Dim::Fixed(16), Dim::Infer, Dim::Keep(5)];
    let x = b.function(Op::Reshape { shape: groups }, &[x]);
    let x = b.layer("swap", Op::Permute { axes: vec![0, 2, 1, 3] }, x);
    let x = b.layer("relu3", ReLU, x);
    let x = b.function(Op::Mean { axes: vec![1, 2] }, &[x]);
    let x = b.layer("head", Linear::new(6, 10), x);
    b.finish(x)
}

#[test]
fn after_a_cut_in_the_middle_the_axis_of_the_channels_stays() {
    let cases =
        [("relu1", true), ("norm", true), ("first", true), ("relu2", false), ("swap", true), ("relu3", true)];
    for (cut, channels_are_last) in cases {
        let Graft { graph, features, report, .. } =
            channels_last().graft(&head(&[], 3, 0.0), Some(cut)).unwrap();
        assert_eq!(report.widths, [6, 3], "{cut}");
        assert_eq!(report.pooled, Some("global average pooling"), "{cut}");
        let pooling =
            if channels_are_last { Op::Mean { axes: vec![1, 2] } } else { Op::Flatten { start: 1 } };
        assert_eq!(graph.nodes()[features.0].op, pooling, "{cut}");
        assert_eq!(graph.output_shape(), Ok(vec![3]), "{cut}");
    }
}

#[test]
fn a_cut_behind_the_last_layer_replaces_nothing_with_weights() {
    let (mut b, x) = Builder::with_input("Net", &[6]);
    let x = b.layer("fc", Linear::new(6, 10), x);
    let x = b.layer("softmax", Op::Softmax { axis: 1 }, x);
    let graft = b.finish(x).graft(&head(&[], 3, 0.0), Some("softmax")).unwrap();
    assert_eq!(graft.report.to_string(), "softmax: nothing with weights replaced by 10->3");
}

#[test]
fn heads_that_cannot_be_are_refused() {
    let probability = |p: &str| format!("the dropout {p} is not a probability from 0 to below 1");
    let cases = [
        (head(&[], 0, 0.2), "a head needs at least one class".to_string()),
        (
            head(&[64, 0], 2, 0.2),
            "a hidden layer needs at least one unit; for a head without hidden layers leave the hidden units away".into(),
        ),
        (head(&[64, 65_537], 2, 0.2), "a hidden layer has at most 65536 units, not 65537".into()),
        (head(&[64], 65_537, 0.2), "a head has at most 65536 classes, not 65537".into()),
        (head(&[1; 65], 2, 0.2), "a head has at most 64 hidden layers, not 65".into()),
        (head(&[64], 2, 1.0), probability("1")),
        (head(&[64], 2, 1.5), probability("1.5")),
        (head(&[64], 2, -0.1), probability("-0.1")),
        (head(&[64], 2, f64::NAN), probability("NaN")),
        (head(&[64], 2, f64::INFINITY), probability("inf")),
    ];
    for (spec, message) in cases {
        assert_eq!(branches().graft(&spec, None).unwrap_err().to_string(), message);
    }
}

#[test]
fn cuts_that_cannot_be_are_refused() {
    let cases = [
        (
            "join",
            "`join` cannot be replaced by a head: it takes its input from 2 places; cut at a module that takes it from one",
        ),
        ("aux", "the module `aux` takes no part in computing the output"),
        ("aux.fc", "the module `aux.fc` takes no part in computing the output"),
        ("spare", "the module `spare` takes no part in computing the output"),
        ("one", "a cut at `one` leaves no layer of the network to take features from; cut at a later module"),
        ("join.rellu", "the network has no module `join.rellu`; the nearest name is `join.relu`"),
    ];
    for (cut, message) in cases {
        assert_eq!(branches().graft(&head(&[], 2, 0.0), Some(cut)).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_head_can_be_grafted_on_a_grafted_network() {
    let first = branches().graft(&head(&[20], 3, 0.1), None).unwrap();
    let second = first.graph.graft(&head(&[], 5, 0.0), None).unwrap();
    assert_eq!(second.report.to_string(), "fc: Linear 256->20 ... 20->3 replaced by 256->5");
    assert_eq!(second.graph, branches().graft(&head(&[], 5, 0.0), None).unwrap().graph);
    let last = first.graph.graft(&head(&[], 5, 0.0), Some("fc.3")).unwrap();
    assert_eq!(last.report.to_string(), "fc.3: Linear 20->3 replaced by 20->5");
}
