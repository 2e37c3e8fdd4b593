//! What a policy trains: how it is said, and which parameters it means.

use engraft_graph::Activation::ReLU;
use engraft_graph::{
    BatchNorm2d, Builder, Conv2d, Graft, Graph, GraphError, HeadSpec, Linear, Op, Part, Policy, TensorKind,
};

/// A feature extractor of three blocks, one of them residual, then a norm; a head.
fn network() -> Graph {
    let (mut b, x) = Builder::new("Net", 3, 8);
    let x = b.sequential("features", |b| {
        let x = b.layer("0", Conv2d::new(3, 4, 3).padding(1).no_bias(), x);
        let x = b.layer("1", BatchNorm2d::new(4), x);
        let input = b.layer("2", ReLU, x);
        let x = b.module("3", "Block", |b| {
            let x = b.layer("conv1", Conv2d::new(4, 4, 3).padding(1), input);
            let x = b.layer("bn1", BatchNorm2d::new(4), x);
            let x = b.layer("conv2", Conv2d::new(4, 4, 3).padding(1), x);
            b.function(Op::Add, &[x, input])
        });
        let x = b.layer("4", Conv2d::new(4, 6, 1), x);
        b.layer("5", BatchNorm2d::new(6), x)
    });
    let x = b.layer("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.layer("fc", Linear::new(6, 10), x);
    b.finish(x)
}

fn graft(cut: Option<&str>) -> Graft {
    network().graft(&HeadSpec { hidden_units: Vec::new(), classes: 2, dropout: 0.0 }, cut).unwrap()
}

fn modules(part: &str) -> Vec<String> {
    let policy: Policy = part.parse().unwrap();
    graft(None).trained(&policy.part).unwrap().modules
}

#[test]
fn words_say_what_trains() {
    for (text, head_first, part) in [
        ("head", false, Part::Head),
        ("last:12", false, Part::Last(12)),
        ("from:layer4.0", false, Part::From("layer4.0".into())),
        ("norm", false, Part::Norm),
        ("all", false, Part::All),
        ("head+all", true, Part::All),
        ("head+last:1", true, Part::Last(1)),
    ] {
        let policy: Policy = text.parse().unwrap();
        assert_eq!(policy, Policy { head_first, part });
        assert_eq!(policy.to_string(), text);
    }
}

#[test]
fn other_words_are_refused_with_those_that_would_do() {
    for (text, words) in [
        ("", "head, last:N, from:PATH, norm or all"),
        ("backbone", "head, last:N, from:PATH, norm or all"),
        ("Head", "head, last:N"),
        ("all:2", "head, last:N"),
        ("last", "head, last:N"),
        ("last:0", "no block would train"),
        ("last:-1", "a number of blocks is needed, as in last:1"),
        ("last:", "a number of blocks is needed"),
        ("last:99999999999999999999", "a number of blocks is needed"),
        ("from:", "the path of a module is needed, as in from:layer4"),
        ("head+head", "what trains after the head, as in head+last:1"),
        ("head+", "head, last:N"),
        ("last:1+head", "a number of blocks"),
    ] {
        let error = text.parse::<Policy>().unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{text}` does not say what to train: ")), "{error}");
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_part_is_named_by_the_modules_that_train_as_a_whole() {
    for (part, expected) in [
        ("head", &["fc"][..]),
        ("last:1", &["features.4", "features.5", "fc"]),
        ("last:2", &["features.3", "features.4", "features.5", "fc"]),
        ("last:3", &["features", "fc"]),
        ("all", &["features", "fc"]),
        ("from:features.5", &["features.5", "fc"]),
        ("from:features.3.bn1", &["features.3.bn1", "features.3.conv2", "features.4", "features.5", "fc"]),
        ("from:features.2", &["features.3", "features.4", "features.5", "fc"]),
        ("from:features", &["features", "fc"]),
        ("from:avgpool", &["fc"]),
        ("from:fc", &["fc"]),
        ("norm", &["features.1", "features.3.bn1", "features.5", "fc"]),
    ] {
        assert_eq!(modules(part), expected, "{part}");
    }
}

#[test]
fn parameters_are_counted_and_nothing_else() {
    let graft = graft(None);
    let of = |part| graft.trained(&part).unwrap();
    // 27*4, 2*4, 2*(9*4*4+4) with 2*4 between, 4*6+6, 2*6, and 6*2+2.
    assert_eq!(of(Part::All).to_string(), "the whole network: 476 parameters");
    assert_eq!(of(Part::Last(1)).to_string(), "features.4, features.5, fc: 56 of 476 parameters");
    assert_eq!(of(Part::Norm).parameters, 8 + 8 + 12 + 14);
    let trained = of(Part::Norm);
    for tensor in graft.graph.state() {
        let is_norm =
            ["features.1.", "features.3.bn1.", "features.5."].iter().any(|m| tensor.name.starts_with(m));
        let expected = (is_norm || tensor.name.starts_with("fc.")) && tensor.kind == TensorKind::Parameter;
        assert_eq!(trained.contains(&tensor.name), expected, "{}", tensor.name);
    }
}

#[test]
fn a_cut_leaves_the_blocks_before_it() {
    let graft = graft(Some("features.3"));
    let of = |part| graft.trained(&part).map(|trained| trained.modules);
    assert_eq!(of(Part::Last(1)).unwrap(), ["features"]);
    assert_eq!(of(Part::Last(2)), Err(GraphError::TooFewBlocks { asked: 2, blocks: 1 }));
}

#[test]
fn what_is_not_there_cannot_train() {
    let graft = graft(None);
    let error = |part| graft.trained(&part).unwrap_err().to_string();
    assert!(
        error(Part::Last(99))
            .starts_with("the last 99 blocks before the head cannot be trained, as there are 3")
    );
    assert!(error(Part::From("feature.4".into())).contains("the nearest name is `features.4`"));
}
