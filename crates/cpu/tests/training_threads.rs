//! The number of threads changes no bit of a training.

use engraft_cpu::CpuEngine;
use engraft_engine::suite::formula;
use engraft_engine::{Engine, Rate, Rule, Targets, Training};
use engraft_zoo::{architecture, architecture_of_size};

/// The hash of everything after some updates of a network by so many threads.
fn train(arch: &str, size: usize, threads: usize) -> [u8; 32] {
    let graph = architecture_of_size(arch, size).unwrap_or_else(|_| architecture(arch).unwrap());
    let training = Training { group: &|_| Some(0), live_norms: &|_| true, rule: Rule::ADAM };
    let state = formula::state(&graph, formula::NORM);
    let mut trainer = CpuEngine::new(threads).trainer(&graph, state, &training).unwrap();
    for draw in 0..2 {
        let batch = formula::inputs(&format!("x{draw}"), &[5, 3, size, size]);
        trainer.accumulate(&batch, &Targets::labels(&[1, 2, 3, 5, 8]), 1.0, draw).unwrap();
        let rate = Rate { learning_rate: 1e-3, weight_decay: 1e-4 };
        trainer.update(&[rate], Some(0.5), Some(0.9)).unwrap();
    }
    trainer.save().into_state_dict().hash()
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // Convolutions of all kinds, squeeze and excitation; linear layers large enough to be divided; attention in windows.
    for (arch, size) in [("resnet18", 64), ("efficientnet_b0", 64), ("vit_b_32", 64), ("swin_t", 64)] {
        let one = train(arch, size, 1);
        for threads in [2, 3] {
            assert!(train(arch, size, threads) == one, "{arch} by {threads} threads");
        }
    }
}
