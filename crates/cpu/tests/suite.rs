//! The suite that every engine which runs networks passes.

use engraft_cpu::CpuEngine;
use engraft_engine::suite::formula;
use engraft_engine::{Engine, EngineError, Rule, Training};
use engraft_graph::{Builder, Linear};

engraft_engine::test_running!(CpuEngine::new(2));

/// An engine that does not train says so when a training is set up.
#[test]
fn training_is_refused() {
    let (mut b, x) = Builder::with_input("Net", &[3]);
    let x = b.layer("fc", Linear::new(3, 2), x);
    let graph = b.finish(x);
    let training = Training { group: &|_| Some(0), live_norms: &|_| true, rule: Rule::SGD };
    let refused = CpuEngine::new(1).trainer(&graph, formula::state(&graph, formula::NORM), &training).err();
    assert_eq!(refused, Some(EngineError::DoesNotTrain { device: "cpu".into() }));
}
