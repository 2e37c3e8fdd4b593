//! A training within less memory than it would take: in parts, or with a part of the forward pass computed twice.

use std::collections::BTreeMap;

use engraft_cpu::{CpuEngine, CpuTrainer};
use engraft_engine::suite::fixture::relative_difference;
use engraft_engine::suite::formula;
use engraft_engine::{
    Accumulated, ClassTarget, EngineError, MemoryPlan, Rate, Rule, Targets, Trainer, Training,
};
use engraft_graph::{Builder, Conv2d, Graph, Linear, Op};
use engraft_tensor::StateDict;
use engraft_zoo::architecture_of_size;

const BATCH: usize = 6;

fn trainer(graph: &Graph, live: bool, memory: Option<u64>) -> Result<CpuTrainer, EngineError> {
    let engine = CpuEngine::new(2);
    let engine = memory.map_or_else(|| engine.clone(), |bytes| engine.clone().with_memory(bytes));
    let training = Training { group: &|_| Some(0), live_norms: &|_| live, rule: Rule::ADAM };
    engine.train(graph, formula::state(graph, formula::NORM), &training)
}

/// Mixed targets, smoothed, with class weights.
fn targets(graph: &Graph, batch: usize) -> Targets {
    let classes = graph.output_shape().unwrap()[0];
    let target = |example: usize| {
        let pair = [7 * example % classes, (3 * example + 1) % classes];
        ClassTarget::mixture(pair, 0.3 + 0.1 * (example % 5) as f32).smoothed(0.1)
    };
    let weights = (0..classes).map(|class| 0.5 + (class % 3) as f32).collect();
    Targets::Classes { examples: (0..batch).map(target).collect(), class_weights: Some(weights) }
}

struct Ran {
    plan: MemoryPlan,
    accumulated: Accumulated,
    gradients: BTreeMap<String, Vec<f32>>,
    /// After an update.
    state: StateDict,
}

/// Two batches, of which the second is added to the first, and an update.
fn run(graph: &Graph, live: bool, batch: usize, memory: Option<u64>) -> Result<Ran, EngineError> {
    let mut trainer = trainer(graph, live, memory)?;
    let shape = [&[batch], graph.input()].concat();
    let plan = trainer.memory(&shape)?.unwrap();
    let targets = targets(graph, batch);
    trainer.accumulate(&formula::inputs("first", &shape), &targets, 0.25, 3)?;
    let accumulated = trainer.accumulate(&formula::inputs("second", &shape), &targets, 0.75, 4)?;
    let taken = trainer.memory_bytes() as u64;
    assert!(memory.is_none_or(|limit| taken <= limit), "{taken} bytes of {memory:?}: {plan:?}");
    let mut gradients = BTreeMap::new();
    trainer.gradients(&mut |name, values| drop(gradients.insert(name.to_string(), values.to_vec())));
    trainer.update(&[Rate { learning_rate: 1e-3, weight_decay: 0.0 }], None, None)?;
    Ok(Ran { plan, accumulated, gradients, state: trainer.state(false) })
}

fn network(name: &str) -> Graph {
    let size = if name.starts_with("googlenet") { 96 } else { 64 };
    architecture_of_size(name, size).unwrap()
}

/// Small steps down from what a network takes, until it takes no less; what is run at each is `check`ed.
fn down(graph: &Graph, live: bool, size: usize, mut check: impl FnMut(&Ran, &Ran)) -> usize {
    let whole = run(graph, live, size, None).unwrap();
    assert!(whole.plan.is_plain() && whole.plan.note().is_none());
    let mut plans = vec![whole.plan];
    loop {
        let last = plans[plans.len() - 1];
        match run(graph, live, size, Some(last.bytes - 1)) {
            Ok(less) => {
                assert!(less.plan.bytes < last.bytes, "{:?}", less.plan);
                assert!(!less.plan.is_plain() && less.plan.note().is_some());
                check(&whole, &less);
                plans.push(less.plan);
            }
            Err(EngineError::Memory { batch, needed, limit }) => {
                assert_eq!((batch, needed, limit), (size, last.bytes, last.bytes - 1));
                return plans.len() - 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Live norms, dropout, concatenations, auxiliary heads, squeeze and excitation; attention, of a single image, as a batch of more is taken
/// apart.
#[test]
fn what_is_computed_twice_gives_the_same_bits() {
    let live = ["resnet18", "densenet121", "googlenet", "efficientnet_b0", "shufflenet_v2_x0_5"];
    let cases = live.map(|name| (name, BATCH)).into_iter().chain([("swin_t", 1)]);
    for (name, batch) in cases {
        let graph = network(name);
        let fewer = down(&graph, batch > 1, batch, |whole, less| {
            assert_eq!((less.plan.images, less.plan.segments > 1), (batch, true));
            assert_eq!(less.accumulated, whole.accumulated, "{name}: {:?}", less.plan);
            assert!(less.gradients == whole.gradients, "{name}: {:?}", less.plan);
            assert!(less.state == whole.state, "{name}: {:?}", less.plan);
        });
        assert!(fewer > 0, "{name} never takes less");
    }
}

/// Dropout and stochastic depth draw for an example what they draw for it in the whole batch.
#[test]
fn parts_of_a_batch_add_up_to_it() {
    for name in ["squeezenet1_1", "efficientnet_b0", "convnext_tiny", "vit_b_32", "swin_v2_t", "googlenet"] {
        let graph = network(name);
        let mut images = Vec::new();
        down(&graph, false, BATCH, |whole, less| {
            images.push(less.plan.images);
            let name = format!("{name}: {:?}", less.plan);
            close_to(whole, less, &name);
        });
        assert!(images[0] < BATCH, "{name}: {images:?}");
    }
}

fn close_to(whole: &Ran, less: &Ran, name: &str) {
    let [loss, expected] = [less, whole].map(|ran| ran.accumulated.loss);
    assert!((loss - expected).abs() <= 1e-5 * expected.abs(), "{name}: loss {loss}, not {expected}");
    let [outputs, expected] = [less, whole].map(|ran| ran.accumulated.outputs.as_f32().unwrap());
    assert_eq!(less.accumulated.outputs.shape, whole.accumulated.outputs.shape);
    assert!(relative_difference(outputs, expected) < 1e-5, "{name}: outputs");
    assert!(less.gradients.keys().eq(whole.gradients.keys()), "{name}");
    let all = |ran: &Ran| ran.gradients.values().flatten().copied().collect::<Vec<f32>>();
    let off = relative_difference(&all(less), &all(whole));
    assert!(off < 1e-5, "{name}: gradients are off by {off:e} of the largest");
}

/// A dropout right behind the input: the gradient of the first weight is zero exactly where the mask is.
#[test]
fn masks_are_those_of_the_whole_batch() {
    let (mut b, x) = Builder::new("Net", 4, 8);
    let x = b.layer("drop", Op::dropout(0.5), x);
    let x = b.layer("depth", Op::StochasticDepth { p: 0.4 }, x);
    let x = b.layer("conv", Conv2d::new(4, 64, 3).padding(1), x);
    let x = b.layer("flatten", Op::Flatten { start: 1 }, x);
    let x = b.layer("fc", Linear::new(64 * 64, 3), x);
    let graph = b.finish(x);
    let parts = down(&graph, false, BATCH, |whole, less| close_to(whole, less, &format!("{:?}", less.plan)));
    assert!(parts >= 2, "{parts}");
}

/// Batches whose examples are mixed go through at once.
#[test]
fn examples_that_are_mixed_are_not_taken_apart() {
    let (mut b, x) = Builder::new("Net", 4, 8);
    let x = b.layer("conv", Conv2d::new(4, 64, 3).padding(1), x);
    let x = b.function(Op::Mean { axes: vec![2, 3] }, &[x]);
    let mean = b.function(Op::Mean { axes: vec![0] }, &[x]);
    let x = b.function(Op::Add, &[x, mean]);
    let x = b.layer("fc", Linear::new(64, 3), x);
    let graph = b.finish(x);
    down(&graph, false, BATCH, |whole, less| {
        assert_eq!(less.plan.images, BATCH);
        assert!(less.gradients == whole.gradients);
    });
}

/// A batch, what remains of an epoch, an evaluation, and the batch again.
#[test]
fn batches_of_several_sizes_stay_within_the_limit() {
    let graph = network("squeezenet1_1");
    let whole = run(&graph, false, 8, None).unwrap().plan;
    let half = run(&graph, false, 8, Some(whole.bytes - 1)).unwrap().plan;
    assert_eq!(half.images, 4);
    let limit = half.bytes;
    let mut trainer = trainer(&graph, false, Some(limit)).unwrap();
    for (draw, batch) in [8, 5, 3, 7, 8, 1].into_iter().enumerate() {
        let input = formula::inputs("x", &[&[batch], graph.input()].concat());
        trainer.accumulate(&input, &targets(&graph, batch), 1.0, draw as u64).unwrap();
        assert!(
            trainer.memory_bytes() as u64 <= limit,
            "batch {batch}: {} of {limit}",
            trainer.memory_bytes()
        );
        trainer.evaluate(&input, false).unwrap();
    }
}
