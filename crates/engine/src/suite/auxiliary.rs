//! Auxiliary heads train along.

use engraft_graph::{Activation, Builder, Linear};

use super::freezing::cross_entropy;
use super::training::{step, trainer};
use super::{formula, networks};
use crate::{AUX_WEIGHT, Engine};

/// The loss is that of the output and a part of that of each auxiliary head, whose layers train as well; evaluation gives the output
/// alone, and a label that an auxiliary head has no place for is refused.
pub fn auxiliary_heads_add_their_loss(engine: &dyn Engine) {
    let network = |aux_classes: usize| {
        let (mut b, x) = Builder::with_input("Net", &[12]);
        let x = b.layer("body", Linear::new(12, 8), x);
        let aux = b.layer("aux", Linear::new(8, aux_classes), x);
        b.auxiliary(aux);
        let x = b.layer("relu", Activation::ReLU, x);
        let x = b.layer("fc", Linear::new(8, 3), x);
        b.finish(x)
    };
    let (graph, batch, labels) = (network(3), formula::inputs("x", &[6, 12]), networks::labels(6));
    let before = formula::state(&graph, formula::NORM);
    let loss_of = |part| {
        let output = engine.network(part, before.clone()).and_then(|mut network| network.forward(&batch));
        cross_entropy(&output.unwrap(), &labels)
    };
    let expected = loss_of(&graph) + AUX_WEIGHT * loss_of(&graph.until(graph.aux()[0]));

    let mut trained = trainer(engine, &graph, &before, &|_| true);
    assert_eq!(trained.evaluate(&batch, false).unwrap().shape, [6, 3]);
    let loss = f64::from(step(&mut *trained, &batch, &labels, 0).unwrap());
    assert!((loss - expected).abs() < 1e-5 * expected, "loss {loss}, not {expected}");
    let after = trained.state(false);
    assert!(after.iter().all(|(name, tensor)| before.get(name) != Some(tensor)), "not all layers train");

    let graph = network(2);
    let mut refusing = trainer(engine, &graph, &formula::state(&graph, formula::NORM), &|_| true);
    let refused = step(&mut *refusing, &batch, &labels, 0).unwrap_err().to_string();
    assert!(refused.contains("a label 2, but only 2 classes"), "{refused}");
}
