//! Where the part that trains begins, and the two parts of a network that is cut there.

use engraft_graph::Activation::ReLU;
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Graph, HeadSpec, Linear, NodeId, Op};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const CHANNELS: usize = 4;

/// A convolution, a residual block, a pool and a linear layer.
fn residual() -> Graph {
    let (mut b, x) = Builder::new("Net", 3, 8);
    let x = b.layer("conv1", Conv2d::new(3, CHANNELS, 3).padding(1).no_bias(), x);
    let input = b.layer("bn1", BatchNorm2d::new(CHANNELS), x);
    let x = b.module("block", "Block", |b| {
        let x = b.layer("conv1", Conv2d::new(CHANNELS, CHANNELS, 3).padding(1), input);
        let x = b.layer("relu", ReLU, x);
        let x = b.layer("conv2", Conv2d::new(CHANNELS, CHANNELS, 3).padding(1), x);
        let x = b.function(Op::Add, &[x, input]);
        b.layer("relu", ReLU, x)
    });
    let x = b.layer("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.layer("fc", Linear::new(CHANNELS, 10), x);
    b.finish(x)
}

/// Module and operation of the node before which nothing trains, if what trains begins with `trainable`.
fn frontier(graph: &Graph, trainable: &str) -> String {
    let frontier = graph.frontier(|name| name.starts_with(trainable));
    graph.nodes()[frontier.0].describe()
}

fn names(graph: &Graph) -> Vec<String> {
    graph.state().into_iter().map(|tensor| tensor.name).collect()
}

#[test]
fn the_frontier_is_the_last_node_that_everything_passes() {
    let graph = residual();
    let cases = [
        ("fc.", "Flatten"),
        ("fc.bias", "Flatten"),
        // Within the block two ways lead on: the frontier is before it.
        ("block.conv2.", "bn1 (BatchNorm2d)"),
        ("block.conv1.", "bn1 (BatchNorm2d)"),
        ("bn1.weight", "conv1 (Conv2d)"),
        ("conv1.", "Input"),
        ("", "Input"),
        ("nothing", "fc (Linear)"),
    ];
    for (trainable, expected) in cases {
        assert_eq!(frontier(&graph, trainable), expected, "{trainable}");
    }
}

/// Running statistics are no parameters: who names the norm's module by them trains nothing.
#[test]
fn buffers_do_not_train() {
    assert_eq!(frontier(&residual(), "bn1.running_mean"), "fc (Linear)");
}

#[test]
fn of_a_graft_with_a_frozen_backbone_it_is_the_features() {
    let spec = HeadSpec { hidden_units: vec![6], classes: 2, dropout: 0.5 };
    for cut in [None, Some("block"), Some("block.conv2"), Some("avgpool")] {
        let graft = residual().graft(&spec, cut).unwrap();
        assert_eq!(graft.graph.frontier(|name| graft.is_of_head(name)), graft.features, "{cut:?}");
        let (trunk, rest) = graft.graph.split(graft.features).unwrap();
        let (head, backbone): (Vec<_>, Vec<_>) =
            names(&graft.graph).into_iter().partition(|name| graft.is_of_head(name));
        assert_eq!(names(&trunk), backbone, "{cut:?}");
        assert_eq!(names(&rest), head, "{cut:?}");
        assert_eq!(rest.input(), trunk.output_shape().unwrap(), "{cut:?}");
    }
}

#[test]
fn the_two_parts_keep_paths_and_text() {
    let graph = residual();
    let (trunk, rest) = graph.split(graph.frontier(|name| name.starts_with("block."))).unwrap();
    assert_eq!(rest.input(), [CHANNELS, 8, 8]);
    assert_eq!(
        trunk.to_string(),
        "Net(\n  \
           (conv1): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)\n  \
           (bn1): BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)\n)"
    );
    assert_eq!(
        rest.to_string(),
        "Net(\n  \
           (block): Block(\n    \
             (conv1): Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))\n    \
             (relu): ReLU()\n    \
             (conv2): Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))\n  \
           )\n  \
           (avgpool): AdaptiveAvgPool2d(output_size=(1, 1))\n  \
           (fc): Linear(in_features=4, out_features=10, bias=True)\n)"
    );
}

#[test]
fn a_cut_at_the_input_or_the_output_leaves_one_part_empty() {
    let graph = residual();
    let (trunk, rest) = graph.split(NodeId(0)).unwrap();
    assert_eq!((trunk.nodes().len(), trunk.input(), &rest), (1, graph.input(), &graph));
    let (trunk, rest) = graph.split(graph.output()).unwrap();
    assert_eq!((rest.nodes().len(), rest.input(), &trunk), (1, &[10][..], &graph));
}

#[test]
fn a_cut_within_a_residual_block_is_refused() {
    let graph = residual();
    let within = graph.module_output("block.conv1").unwrap();
    assert_eq!(
        graph.split(within).unwrap_err().to_string(),
        "the network cannot be cut in two at block.conv1 (Conv2d): what comes behind it also reads from before it"
    );
}

/// A network of layers that keep the shape `[batch, 4, 6, 6]`, each reading any node before it.
#[derive(Debug, Clone)]
struct RandomNet {
    /// Kind of the operation and places of its inputs.
    nodes: Vec<(u8, prop::sample::Index, prop::sample::Index)>,
    /// The layers that train, by the number of their node.
    trainable: Vec<bool>,
}

fn random_net() -> impl Strategy<Value = RandomNet> {
    let node = || (0u8..5, any::<prop::sample::Index>(), any::<prop::sample::Index>());
    (1usize..12)
        .prop_flat_map(move |len| {
            (prop::collection::vec(node(), len), prop::collection::vec(prop::bool::weighted(0.2), len + 1))
        })
        .prop_map(|(nodes, trainable)| RandomNet { nodes, trainable })
}

impl RandomNet {
    fn graph(&self) -> Graph {
        let (mut b, input) = Builder::new("Net", CHANNELS, 6);
        let mut nodes = vec![input];
        for (number, (kind, first, second)) in self.nodes.iter().enumerate() {
            let name = format!("layer{}", number + 1);
            // Mostly from the last node, so that there is something to cut.
            let first = if first.index(3) > 0 { nodes[nodes.len() - 1] } else { *first.get(&nodes) };
            nodes.push(match kind {
                0 | 1 => b.layer(&name, Conv2d::new(CHANNELS, CHANNELS, 3).padding(1), first),
                2 => b.layer(&name, BatchNorm2d::new(CHANNELS), first),
                3 => b.function(ReLU, &[first]),
                _ => b.function(Op::Add, &[first, *second.get(&nodes)]),
            });
        }
        b.finish(nodes[nodes.len() - 1])
    }

    fn trains(&self, tensor: &str) -> bool {
        let number = tensor.trim_start_matches("layer").split('.').next().unwrap();
        self.trainable[number.parse::<usize>().unwrap()]
    }
}

/// The nodes from which the output can be reached without passing `without`.
fn reach_output(graph: &Graph, without: Option<NodeId>) -> Vec<NodeId> {
    let mut reached = Vec::new();
    let mut open = vec![graph.output()];
    while let Some(id) = open.pop() {
        if Some(id) != without && !reached.contains(&id) {
            reached.push(id);
            open.extend(&graph.nodes()[id.0].inputs);
        }
    }
    reached
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(0), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_random_networks_the_frontier_is_right(net in random_net()) {
        let graph = net.graph();
        let is_frozen = |id: NodeId| graph.until(id).nodes().iter().all(|node| {
            node.tensors().iter().all(|tensor| !net.trains(&tensor.name))
        });
        let everything_passes = |id: NodeId| !reach_output(&graph, Some(id)).contains(&NodeId(0));
        let used = reach_output(&graph, None);
        let naive = used.into_iter().filter(|id| *id == NodeId(0) || (is_frozen(*id) && everything_passes(*id))).max();
        prop_assert_eq!(Some(graph.frontier(|name| net.trains(name))), naive);
    }

    #[test]
    fn of_random_networks_the_two_parts_make_the_whole(net in random_net()) {
        let graph = net.graph();
        let (trunk, rest) = graph.split(graph.frontier(|name| net.trains(name))).unwrap();
        let whole = graph.until(graph.output());
        prop_assert_eq!(trunk.nodes().len() + rest.nodes().len(), whole.nodes().len() + 1);
        prop_assert!(names(&trunk).iter().all(|name| !net.trains(name)));

        let mut both = [names(&trunk), names(&rest)].concat();
        let mut all = names(&whole);
        both.sort();
        all.sort();
        prop_assert_eq!(both, all);

        let input = [2, CHANNELS, 6, 6];
        let features = trunk.shapes(&input).unwrap()[trunk.output().0].clone();
        prop_assert_eq!(&features[1..], rest.input());
        let output = rest.shapes(&features).unwrap()[rest.output().0].clone();
        prop_assert_eq!(output, graph.shapes(&input).unwrap()[graph.output().0].clone());
    }
}
