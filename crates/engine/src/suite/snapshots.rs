//! Snapshots: a training goes on from one as if nothing had been.

use engraft_graph::{BatchNorm2d, Builder, Conv2d, Graph, Linear, Op};
use engraft_tensor::{StateDict, Tensor};

use super::bad_input::refused;
use super::updates::layer;
use super::{formula, networks};
use crate::{Engine, Rate, Rule, Snapshot, Targets, Trainer, Training};

const RULES: [Rule; 4] = [Rule::SGD, Rule::Sgd { momentum: 0.9, nesterov: true }, Rule::ADAM, Rule::ADAM_W];

/// With dropout, stochastic depth and a batch norm.
fn network() -> Graph {
    let (mut b, x) = Builder::new("Net", 3, 8);
    let x = b.layer("conv", Conv2d::new(3, 6, 3).padding(1), x);
    let x = b.layer("bn", BatchNorm2d::new(6), x);
    let y = b.layer("depth", Op::StochasticDepth { p: 0.3 }, x);
    let x = b.function(Op::Add, &[x, y]);
    let x = b.layer("pool", Op::global_average_pool(), x);
    let x = b.layer("flatten", Op::Flatten { start: 1 }, x);
    let x = b.layer("drop", Op::dropout(0.4), x);
    let x = b.layer("fc", Linear::new(6, 3), x);
    b.finish(x)
}

fn start(engine: &dyn Engine, rule: Rule) -> Box<dyn Trainer> {
    let graph = network();
    let group = |name: &str| (name != "conv.bias").then(|| usize::from(name.starts_with("fc.")));
    let training = Training { group: &group, live_norms: &|_| true, rule };
    engine.trainer(&graph, formula::state(&graph, formula::NORM), &training).unwrap()
}

/// The updates of the numbers given, each with its own batch; the losses.
fn go_on(trainer: &mut dyn Trainer, updates: std::ops::Range<u64>) -> Vec<f32> {
    let rates = [0.01, 0.05].map(|learning_rate| Rate { learning_rate, weight_decay: 0.1 });
    let mut losses = Vec::new();
    for number in updates {
        let batch = formula::inputs(&format!("batch {number}"), &[5, 3, 8, 8]);
        let targets = Targets::labels(&networks::labels(5));
        losses.push(trainer.accumulate(&batch, &targets, 1.0, number).unwrap().loss);
        // The average begins in the middle.
        trainer.update(&rates, Some(1.0), (number > 2).then_some(0.9)).unwrap();
    }
    losses
}

/// By every rule, before and after averages begin, in the same trainer and in a new one, by way of a file's state dict: losses and all that
/// a snapshot holds are the same to the bit.
pub fn a_snapshot_goes_on_to_the_same_bits(engine: &dyn Engine) {
    for rule in RULES {
        for middle in [0, 2, 5] {
            let mut trainer = start(engine, rule);
            go_on(&mut *trainer, 0..middle);
            let snapshot = trainer.save();
            assert_eq!(snapshot.updates, middle);
            let losses = go_on(&mut *trainer, middle..8);
            let end = trainer.save();
            assert_ne!(end, snapshot);

            let through_a_file =
                Snapshot::from_state_dict(snapshot.clone().into_state_dict().without_order());
            // What was accumulated before is forgotten.
            let batch = formula::inputs("other", &[5, 3, 8, 8]);
            trainer.accumulate(&batch, &Targets::labels(&networks::labels(5)), 1.0, 99).unwrap();
            for (mut trainer, snapshot) in
                [(trainer, snapshot), (start(engine, rule), through_a_file.unwrap())]
            {
                trainer.restore(snapshot.clone()).unwrap();
                assert_eq!(trainer.save(), snapshot);
                trainer.gradients(&mut |name, _| panic!("{name} has a gradient"));
                assert_eq!(go_on(&mut *trainer, middle..8), losses, "{rule:?} from {middle}");
                assert_eq!(trainer.save(), end, "{rule:?} from {middle}");
                assert!(trainer.state(false).names().eq(network().state().iter().map(|spec| &spec.name)));
            }
        }
    }
}

/// A snapshot by another rule, of other parameters or of another network is refused, and the trainer stays as it is.
pub fn snapshots_of_other_trainings_are_refused(engine: &dyn Engine) {
    let mut trainer = start(engine, Rule::ADAM);
    go_on(&mut *trainer, 0..4);
    let before = trainer.save();
    let mut of_other_rule = start(engine, Rule::Sgd { momentum: 0.5, nesterov: false });
    go_on(&mut *of_other_rule, 0..4);
    let other_network = layer(6);
    let training = Training { group: &|_| Some(0), live_norms: &|_| true, rule: Rule::ADAM };
    let of_network =
        engine.trainer(&other_network, formula::state(&other_network, formula::NORM), &training).unwrap();
    let change = |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = before.clone();
        change(&mut snapshot);
        snapshot
    };
    let other = || Tensor::f32([1], vec![0.0]);
    let bad: [(Snapshot, &[&str]); 8] = [
        (of_other_rule.save(), &["optimiser", "exp_avg"]),
        (of_network.save(), &["conv.weight"]),
        (change(&|snapshot| snapshot.moments = StateDict::new()), &["optimiser", "exp_avg.conv.weight"]),
        (
            change(&|s| drop(s.moments.insert("exp_avg.conv.bias", other()))),
            &["optimiser", "exp_avg.conv.bias"],
        ),
        (change(&|s| drop(s.average.remove("bn.running_var"))), &["average", "bn.running_var"]),
        (change(&|s| drop(s.average.insert("fc.bias", other()))), &["average", "fc.bias", "[3]"]),
        (change(&|s| drop(s.state.insert("fc.bias", other()))), &["fc.bias", "[3]"]),
        (change(&|s| drop(s.state.insert("other.bias", other()))), &["other.bias"]),
    ];
    for (snapshot, words) in bad {
        refused(trainer.restore(snapshot), words);
        assert_eq!(trainer.save(), before);
    }
}
