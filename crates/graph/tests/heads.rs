//! Where the head of a network is, for the ways in which torchvision and others write it down.

use engraft_graph::Activation::{GELU, ReLU, Tanh};
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Graph, GraphError, HeadSpec, Linear, NodeId, Op};

const WIDTH: usize = 16;

/// A network of one convolution, `features`, and what `head` makes of its output `[batch, 16, 8, 8]`.
fn network(head: impl FnOnce(&mut Builder, NodeId) -> NodeId) -> Graph {
    let (mut b, x) = Builder::new("Net", 3, 8);
    let x = b.sequential("features", |b| {
        let x = b.layer("0", Conv2d::new(3, WIDTH, 3).padding(1), x);
        b.layer("1", ReLU, x)
    });
    let output = head(&mut b, x);
    b.finish(output)
}

fn pool(b: &mut Builder, x: NodeId) -> NodeId {
    let x = b.layer("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x);
    b.function(Op::Flatten { start: 1 }, &[x])
}

/// Paths of the classifier and of its last layer.
fn head(graph: &Graph) -> [String; 2] {
    let head = graph.head().unwrap();
    assert_eq!(graph.nodes()[head.layer.0].module, head.layer_path);
    [head.path, head.layer_path]
}

#[test]
fn of_a_resnet_it_is_a_layer() {
    let graph = network(|b, x| {
        let x = pool(b, x);
        b.layer("fc", Linear::new(WIDTH, 1000), x)
    });
    assert_eq!(head(&graph), ["fc", "fc"]);
}

#[test]
fn of_a_vgg_it_is_the_module_of_all_its_linear_layers() {
    let graph = network(|b, x| {
        let x = pool(b, x);
        b.sequential("classifier", |b| {
            let x = b.layer("0", Linear::new(WIDTH, 32), x);
            let x = b.layer("1", ReLU, x);
            let x = b.layer("2", Op::dropout(0.5), x);
            b.layer("3", Linear::new(32, 1000), x)
        })
    });
    assert_eq!(head(&graph), ["classifier", "classifier.3"]);
}

#[test]
fn of_a_mobilenet_it_is_the_module_that_begins_with_dropout() {
    let graph = network(|b, x| {
        let x = pool(b, x);
        b.sequential("classifier", |b| {
            let x = b.layer("0", Op::dropout(0.2), x);
            b.layer("1", Linear::new(WIDTH, 1000), x)
        })
    });
    assert_eq!(head(&graph), ["classifier", "classifier.1"]);
}

#[test]
fn of_a_squeezenet_it_is_a_convolution_before_the_pool() {
    let graph = network(|b, x| {
        let x = b.sequential("classifier", |b| {
            let x = b.layer("0", Op::dropout(0.5), x);
            let x = b.layer("1", Conv2d::new(WIDTH, 1000, 1), x);
            let x = b.layer("2", ReLU, x);
            b.layer("3", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x)
        });
        b.function(Op::Flatten { start: 1 }, &[x])
    });
    assert_eq!(head(&graph), ["classifier", "classifier.1"]);
}

#[test]
fn of_a_convnext_it_leaves_the_norm_in_the_classifier() {
    let graph = network(|b, x| {
        let x = b.layer("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x);
        b.sequential("classifier", |b| {
            let x = b.module("0", "LayerNorm2d", |b| {
                let x = b.function(Op::Permute { axes: vec![0, 2, 3, 1] }, &[x]);
                let x = b.layer("norm", Op::LayerNorm { features: WIDTH, eps: 1e-6 }, x);
                b.function(Op::Permute { axes: vec![0, 3, 1, 2] }, &[x])
            });
            let x = b.layer("1", Op::Flatten { start: 1 }, x);
            b.layer("2", Linear::new(WIDTH, 1000), x)
        })
    });
    assert_eq!(head(&graph), ["classifier.2", "classifier.2"]);
}

#[test]
fn of_a_maxvit_it_begins_in_the_middle_of_the_classifier() {
    let graph = network(|b, x| {
        b.sequential("classifier", |b| {
            let x = b.layer("0", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x);
            let x = b.layer("1", Op::Flatten { start: 1 }, x);
            let x = b.layer("2", Op::LayerNorm { features: WIDTH, eps: 1e-5 }, x);
            let x = b.layer("3", Linear::new(WIDTH, WIDTH), x);
            let x = b.layer("4", Tanh, x);
            b.layer("5", Linear { bias: false, ..Linear::new(WIDTH, 1000) }, x)
        })
    });
    assert_eq!(head(&graph), ["classifier.3", "classifier.5"]);
    let spec = HeadSpec { hidden_units: vec![], classes: 2, dropout: 0.0 };
    let report = graph.graft(&spec, None).unwrap().report.to_string();
    assert_eq!(report, "classifier.3 and all behind it: Linear 16->16 ... 16->1000 replaced by 16->2");
}

/// The hidden layer of the head exists where a representation size is given.
#[test]
fn of_a_vision_transformer_it_is_all_of_heads() {
    let tokens = |b: &mut Builder, x| {
        let x = b.function(Op::Flatten { start: 2 }, &[x]);
        let x = b.function(Op::Permute { axes: vec![0, 2, 1] }, &[x]);
        let x = b
            .module("encoder", "Encoder", |b| b.layer("ln", Op::LayerNorm { features: WIDTH, eps: 1e-6 }, x));
        b.function(Op::Mean { axes: vec![1] }, &[x])
    };
    let graph = network(|b, x| {
        let x = tokens(b, x);
        b.sequential("heads", |b| b.layer("head", Linear::new(WIDTH, 1000), x))
    });
    assert_eq!(head(&graph), ["heads", "heads.head"]);
    let graph = network(|b, x| {
        let x = tokens(b, x);
        b.sequential("heads", |b| {
            let x = b.layer("pre_logits", Linear::new(WIDTH, 32), x);
            let x = b.layer("act", Tanh, x);
            b.layer("head", Linear::new(32, 1000), x)
        })
    });
    assert_eq!(head(&graph), ["heads", "heads.head"]);
}

#[test]
fn of_a_googlenet_it_leaves_the_dropout_beside_it() {
    let graph = network(|b, x| {
        let x = pool(b, x);
        let x = b.layer("dropout", Op::dropout(0.2), x);
        b.layer("fc", Linear::new(WIDTH, 1000), x)
    });
    assert_eq!(head(&graph), ["fc", "fc"]);
}

/// As timm writes it: a module that also pools.
#[test]
fn a_dropout_within_the_module_of_the_head_is_not_the_head() {
    let graph = network(|b, x| {
        b.module("head", "ClassifierHead", |b| {
            let x = pool(b, x);
            let x = b.layer("drop", Op::dropout(0.2), x);
            b.layer("fc", Linear::new(WIDTH, 1000), x)
        })
    });
    assert_eq!(head(&graph), ["head.fc", "head.fc"]);
}

/// What a network is wrapped in changes nothing but the paths.
#[test]
fn in_a_wrapper_the_head_is_the_same() {
    let wrapped = |head: &dyn Fn(&mut Builder, NodeId) -> NodeId| {
        let (mut b, x) = Builder::new("Wrapper", 3, 8);
        let x = b.module("model", "Net", |b| {
            let x = b.layer("conv1", Conv2d::new(3, WIDTH, 3).padding(1), x);
            let x = b.layer("bn1", BatchNorm2d::new(WIDTH), x);
            let x = pool(b, x);
            head(b, x)
        });
        b.finish(x)
    };
    let resnet = wrapped(&|b, x| b.layer("fc", Linear::new(WIDTH, 1000), x));
    assert_eq!(head(&resnet), ["model.fc", "model.fc"]);
    let googlenet = wrapped(&|b, x| {
        let x = b.layer("dropout", Op::dropout(0.2), x);
        b.layer("fc", Linear::new(WIDTH, 1000), x)
    });
    assert_eq!(head(&googlenet), ["model.fc", "model.fc"]);
    let vgg = wrapped(&|b, x| {
        b.sequential("classifier", |b| {
            let x = b.layer("0", Linear::new(WIDTH, 32), x);
            let x = b.layer("1", ReLU, x);
            b.layer("2", Linear::new(32, 1000), x)
        })
    });
    assert_eq!(head(&vgg), ["model.classifier", "model.classifier.2"]);
    let lenet = wrapped(&|b, x| {
        let x = b.layer("fc1", Linear::new(WIDTH, 32), x);
        let x = b.function(ReLU, &[x]);
        b.layer("fc2", Linear::new(32, 10), x)
    });
    assert_eq!(head(&lenet), ["model.fc2", "model.fc2"]);
}

/// Layers that are children of the network itself are a body, of which the last is the head.
#[test]
fn of_a_plain_perceptron_it_is_the_last_layer() {
    let (mut b, x) = Builder::with_input("Sequential", &[20]);
    let x = b.layer("0", Linear::new(20, 32), x);
    let x = b.layer("1", GELU, x);
    let x = b.layer("2", Linear::new(32, 5), x);
    assert_eq!(head(&b.finish(x)), ["2", "2"]);
}

#[test]
fn an_activation_alone_before_the_layer_belongs_to_the_body() {
    let graph = network(|b, x| {
        let x = pool(b, x);
        b.sequential("classifier", |b| {
            let x = b.layer("0", ReLU, x);
            b.layer("1", Linear::new(WIDTH, 1000), x)
        })
    });
    assert_eq!(head(&graph), ["classifier.1", "classifier.1"]);
}

#[test]
fn a_sum_has_no_head() {
    let graph = network(|b, x| {
        let x = pool(b, x);
        let [one, two] = ["one", "two"].map(|name| b.layer(name, Linear::new(WIDTH, 10), x));
        b.function(Op::Add, &[one, two])
    });
    let error = graph.head().unwrap_err();
    assert_eq!(error, GraphError::NoHead { node: "Add".into() });
    assert_eq!(
        error.to_string(),
        "no classification layer was found: walking back from the output, Add comes before any linear or convolutional \
         layer; name the module that the new head shall replace"
    );
}

#[test]
fn a_network_without_layers_has_no_head() {
    let (mut b, x) = Builder::with_input("Net", &[4]);
    let x = b.layer("relu", ReLU, x);
    assert_eq!(b.finish(x).head(), Err(GraphError::NoHead { node: "Input".into() }));
}
