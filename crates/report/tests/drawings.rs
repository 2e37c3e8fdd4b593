//! What is drawn as a block, and that no picture is a tangle: whatever the network, blocks lie apart and lines pass beside them.

use engraft_graph::{Activation, BatchNorm2d, Builder, Conv2d, Graph, Linear, NodeId, Op, Pool};
use engraft_report::{Drawing, Part};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use roxmltree::{Document, Node};

/// Blocks of three stages, of which the last two are drawn as one, and a head in a module with other layers.
fn staged() -> Graph {
    let (mut b, x) = Builder::new("Net", 3, 32);
    let x = b.sequential("features", |b| {
        let x = b.layer("0", Conv2d::new(3, 8, 3).stride(2).padding(1), x);
        let x = b.layer("1", BatchNorm2d::new(8), x);
        let x = b.layer("2", Activation::ReLU, x);
        let x = b.layer("3", Op::MaxPool2d(Pool::new(2, 2)), x);
        let x = residual(b, "4", 2, x);
        residual(b, "5", 1, x)
    });
    let x = b.sequential("classifier", |b| {
        let x = b.layer("0", Op::global_average_pool(), x);
        let x = b.layer("1", Op::Flatten { start: 1 }, x);
        b.layer("2", Linear::new(8, 10), x)
    });
    b.finish(x)
}

fn residual(b: &mut Builder, name: &str, stride: usize, input: NodeId) -> NodeId {
    b.module(name, "Block", |b| {
        let x = b.layer("conv", Conv2d::new(8, 8, 3).stride(stride).padding(1), input);
        let shortcut = b.layer("shortcut", Conv2d::new(8, 8, 1).stride(stride), input);
        b.function(Op::Add, &[x, shortcut])
    })
}

fn titles(drawing: &Drawing) -> Vec<String> {
    drawing.blocks.iter().map(|block| block.title()).collect()
}

#[test]
fn stages_are_blocks() {
    let part = |path: &str| if path == "classifier.2" { Part::Head } else { Part::Frozen };
    let drawing = Drawing::of(&staged(), &[1, 3, 32, 32], None, part).unwrap();
    assert_eq!(
        titles(&drawing),
        ["Input", "features.0 – 2", "features.3", "features.4 – 5", "classifier.0 – 1", "classifier.2"]
    );
    let contents: Vec<String> = drawing.blocks.iter().map(|block| block.subtitle()).collect();
    let expected = [
        "",
        "Conv2d 3×3 /2, BatchNorm2d, ReLU",
        "MaxPool2d",
        "2 × Block",
        "AdaptiveAvgPool2d, Flatten",
        "Linear",
    ];
    assert_eq!(contents, expected);
    assert_eq!(drawing.blocks[3].parameters, 2 * (8 * 8 * 9 + 8 + 8 * 8 + 8));
    assert_eq!(drawing.blocks[3].output, [1, 8, 4, 4]);
    let ends: Vec<(usize, usize)> = drawing.edges.iter().map(|edge| (edge.from, edge.to)).collect();
    assert_eq!(ends, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]);
    assert_eq!(drawing.edges[1].shape, [1, 8, 16, 16]);
    let heads: Vec<bool> = drawing.blocks.iter().map(|block| block.part == Part::Head).collect();
    assert_eq!(heads, [false, false, false, false, false, true]);
}

#[test]
fn a_depth_says_what_is_a_block() {
    let drawing = |depth| Drawing::of(&staged(), &[1, 3, 32, 32], Some(depth), |_| Part::Body).unwrap();
    assert_eq!(titles(&drawing(1)), ["Input", "features", "classifier"]);
    let deep = drawing(3);
    assert_eq!(
        titles(&deep)[3..9],
        ["features.4.conv", "features.4.shortcut", "Add", "features.5.conv", "features.5.shortcut", "Add"]
    );
    let into_add: Vec<usize> = deep.edges.iter().filter(|edge| edge.to == 5).map(|edge| edge.from).collect();
    assert_eq!(into_add, [3, 4]);
}

/// A module whose layers are called before and after another one is no block with itself as its own input.
#[test]
fn no_block_depends_on_itself() {
    let (mut b, x) = Builder::new("Net", 3, 8);
    let x = b.module("a", "A", |b| b.layer("first", Conv2d::new(3, 3, 1), x));
    let x = b.layer("between", Conv2d::new(3, 3, 1), x);
    let mut graph = serde_json::to_value(b.finish(x)).unwrap();
    // The builder opens a module once; a network from elsewhere may return to it.
    graph["nodes"][2]["module"] = "between".into();
    let again = serde_json::json!({ "op": graph["nodes"][1]["op"], "inputs": [2], "module": "a.first" });
    graph["nodes"].as_array_mut().unwrap().push(again);
    graph["output"] = 3.into();
    let graph: Graph = serde_json::from_value(graph).unwrap();
    let drawing = Drawing::of(&graph, &[1, 3, 8, 8], Some(1), |_| Part::Body).unwrap();
    assert_eq!(titles(&drawing), ["Input", "a", "between", "a"]);
}

#[test]
fn graphviz_gets_every_block_and_edge() {
    let dot = Drawing::of(&staged(), &[1, 3, 32, 32], None, |_| Part::Body).unwrap().to_dot();
    assert!(dot.starts_with("digraph network {\n") && dot.ends_with("}\n"), "{dot}");
    assert!(
        dot.contains(r#"b3 [label="features.4 – 5\n2 × Block\n1.31 k parameters · 20.5 k MAC""#),
        "{dot}"
    );
    assert!(dot.contains(r#"b4 -> b5 [label=" 8"];"#), "{dot}");
}

/// A network that adds and joins the outputs of any earlier layers.
fn tangle(choices: &[(u8, usize, usize)]) -> Graph {
    let (mut b, x) = Builder::new("Tangle", 4, 8);
    let mut values = vec![x];
    for (name, (kind, first, second)) in choices.iter().enumerate() {
        let [first, second] = [first, second].map(|choice| values[choice % values.len()]);
        let name = name.to_string();
        values.push(match kind % 4 {
            0 => b.layer(&name, Conv2d::new(4, 4, 1), first),
            1 => b.layer(&name, Activation::ReLU, first),
            2 => b.function(Op::Add, &[first, second]),
            _ => b.module(&name, "Block", |b| b.function(Op::Mul, &[first, second])),
        });
    }
    b.finish(values[values.len() - 1])
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn blocks_lie_apart_and_lines_pass_beside_them(
        choices in prop::collection::vec((any::<u8>(), any::<usize>(), any::<usize>()), 1..25),
        depth in prop::option::of(1..3usize),
    ) {
        let drawing = Drawing::of(&tangle(&choices), &[1, 4, 8, 8], depth, |_| Part::Body).unwrap();
        let svg = drawing.to_svg();
        let document = Document::parse(&svg).unwrap();
        let boxes: Vec<[f64; 4]> = document.descendants().filter_map(block).collect();
        prop_assert_eq!(boxes.len(), drawing.blocks.len());
        let lines: Vec<Vec<[f64; 2]>> = document.descendants().filter_map(line).collect();
        prop_assert!(lines.len() >= drawing.edges.len());
        for (number, one) in boxes.iter().enumerate() {
            prop_assert!(boxes[number + 1..].iter().all(|other| !overlap(one, other)), "{}", svg);
            for ends in lines.iter().flat_map(|line| line.windows(2)) {
                // A line may touch the block from which, or to which, it goes.
                let [left, top, right, bottom] = *one;
                let inside = [left + 1.0, top + 1.0, right - 1.0, bottom - 1.0];
                prop_assert!(!overlap(&inside, &around(ends[0], ends[1])), "{}", svg);
            }
        }
        // Going down, two lines share a lane only if they come from one block or end in one.
        for (number, one) in lines.iter().enumerate() {
            for other in &lines[number + 1..] {
                if one.first() != other.first() && one.last() != other.last() {
                    prop_assert!(!runs(one).any(|a| runs(other).any(|b| overlap(&a, &b))), "{}", svg);
                }
            }
        }
    }
}

fn number(node: Node, name: &str) -> Option<f64> {
    node.attribute(name)?.parse().ok()
}

/// Left, top, right and bottom of a block; the legend and the background are none.
fn block(node: Node) -> Option<[f64; 4]> {
    let is_block = node.has_tag_name("rect") && node.has_attribute("stroke-width");
    let (x, y) = (number(node, "x")?, number(node, "y")?);
    is_block.then_some([x, y, x + number(node, "width")?, y + number(node, "height")?])
}

/// The points of a line with a tip.
fn line(node: Node) -> Option<Vec<[f64; 2]>> {
    node.attribute("marker-end")?;
    let numbers = node.attribute("d")?.split(['M', 'L', 'Q', ' ']).filter(|text| !text.is_empty());
    let numbers: Vec<f64> = numbers.map(|text| text.parse().unwrap()).collect();
    Some(numbers.chunks(2).map(|point| [point[0], point[1]]).collect())
}

/// The vertical pieces of a line, a pixel wide.
fn runs(line: &[[f64; 2]]) -> impl Iterator<Item = [f64; 4]> {
    let vertical = line.windows(2).filter(|ends| ends[0][0] == ends[1][0]);
    vertical.map(|ends| [ends[0][0], ends[0][1], ends[0][0] + 1.0, ends[1][1]])
}

fn around(a: [f64; 2], b: [f64; 2]) -> [f64; 4] {
    [a[0].min(b[0]), a[1].min(b[1]), a[0].max(b[0]), a[1].max(b[1])]
}

fn overlap(a: &[f64; 4], b: &[f64; 4]) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}
