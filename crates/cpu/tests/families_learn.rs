//! A network of each family, with everything trained from its initial values: the loss falls, and everything stays finite.

use engraft_cpu::CpuEngine;
use engraft_engine::suite::formula;
use engraft_engine::{Engine, Rate, Rule, Targets, Training, initial_state};
use engraft_tensor::Tensor;
use engraft_zoo::architecture_of_size;

const BATCHES: usize = 4;
const BATCH: usize = 4;
const PASSES: usize = 3;

fn learns(arch: &str, size: usize) {
    let graph = architecture_of_size(arch, size).unwrap();
    // Auxiliary heads may need larger images.
    let graph = if graph.shapes(&[1, 3, size, size]).is_ok() { graph } else { graph.without_aux() };
    let training = Training { group: &|_| Some(0), live_norms: &|_| true, rule: Rule::ADAM_W };
    let mut trainer = CpuEngine::new(2).trainer(&graph, initial_state(&graph.state(), 1), &training).unwrap();
    let rate = Rate { learning_rate: 1e-4, weight_decay: 1e-2 };
    let mut losses = Vec::new();
    for _ in 0..PASSES {
        let mut sum = 0.0;
        for number in 0..BATCHES {
            let input = formula::inputs(&format!("batch {number}"), &[BATCH, 3, size, size]);
            let labels: Vec<usize> = (0..BATCH).map(|image| (number + image) % 3).collect();
            // The same draw for the same batch, so that passes can be compared.
            let given = trainer.accumulate(&input, &Targets::labels(&labels), 1.0, number as u64);
            sum += given.unwrap_or_else(|error| panic!("{arch}: {error}")).loss;
            trainer.update(&[rate], Some(1.0), None).unwrap_or_else(|error| panic!("{arch}: {error}"));
        }
        losses.push(sum / BATCHES as f32);
    }
    assert!(losses[PASSES - 1] < losses[0], "{arch}: the losses of the passes are {losses:?}");
    let state = trainer.state(false);
    let finite = |tensor: &Tensor| tensor.as_f32().is_none_or(|values| values.iter().all(|v| v.is_finite()));
    let not = state.iter().find(|(_, tensor)| !finite(tensor));
    assert!(not.is_none(), "{arch}: {} is not finite", not.unwrap().0);
}

macro_rules! families {
    ($($arch:ident $size:literal)*) => {
        $(
            #[test]
            fn $arch() {
                learns(stringify!($arch), $size);
            }
        )*
    };
}

families! {
    alexnet 64
    convnext_tiny 64
    densenet121 64
    efficientnet_b0 64
    efficientnet_v2_s 64
    googlenet 64
    inception_v3 96
    maxvit_t 224
    mnasnet0_5 64
    mobilenet_v2 64
    mobilenet_v3_small 64
    regnet_x_400mf 64
    regnet_y_400mf 64
    resnet18 64
    resnext50_32x4d 64
    shufflenet_v2_x0_5 64
    squeezenet1_1 64
    swin_t 64
    swin_v2_t 64
    vgg11_bn 32
    vit_b_32 64
    wide_resnet50_2 64
}
