//! The test suite that every engine passes.
//!
//! Each function takes an engine, checks one property of it and panics with what is wrong. Values are compared with those of
//! torch, which `parity/engine.py` wrote; so the suite runs within Engraft's repository only. An engine's own tests
//! are one line for running networks, and one for training them, which make a `#[test]` of every function:
//!
//! ```text
//! engraft_engine::test_running!(BurnEngine::cpu());
//! engraft_engine::test_training!(BurnEngine::cpu());
//! ```

mod auxiliary;
mod bad_input;
mod dropout;
pub mod fixture;
pub mod formula;
mod freezing;
mod gradients;
mod networks;
mod operations;
mod snapshots;
mod steps;
mod targets;
mod torchvision;
mod training;
mod updates;
mod zoo_gradients;

pub use auxiliary::*;
pub use bad_input::*;
pub use dropout::*;
pub use freezing::*;
pub use gradients::*;
pub use operations::*;
pub use snapshots::*;
pub use steps::*;
pub use targets::*;
pub use torchvision::*;
pub use training::*;
pub use updates::*;
pub use zoo_gradients::*;

/// Makes a `#[test]` of every function of the [suite](crate::suite) that runs networks, for the engine that the expression gives.
#[macro_export]
macro_rules! test_running {
    ($engine:expr) => {
        $crate::test_functions! { $engine =>
            operations_give_torchs_values
            a_network_cut_at_its_frontier_computes_the_same
            networks_refuse_states_that_do_not_fit
            networks_refuse_inputs_that_do_not_fit
        }
    };
}

/// Makes a `#[test]` of every function of the [suite](crate::suite) that trains networks, for the engine that the expression gives.
#[macro_export]
macro_rules! test_training {
    ($engine:expr) => {
        $crate::test_functions! { $engine =>
            operations_pass_gradients_on
            gradients_of_networks_are_torchs
            gradients_of_networks_are_the_slopes_of_their_loss
            a_head_trains_as_in_torch
            a_convolutional_network_trains_as_in_torch
            a_transformer_trains_as_in_torch
            the_state_begins_as_given
            a_trained_network_can_be_handed_over
            frozen_parameters_keep_their_bits
            a_frozen_batch_norm_keeps_its_statistics
            nothing_to_train_is_refused
            a_branch_beside_the_output_stays_as_it_is
            auxiliary_heads_add_their_loss
            a_trunk_cut_off_trains_the_same_head
            updates_are_torchs
            five_steps_of_networks_are_torchs
            averages_are_those_of_a_loop
            gradients_can_be_changed
            batches_add_up_to_one
            norms_are_live_whether_their_weights_change_or_not
            losses_of_soft_targets_are_torchs
            a_snapshot_goes_on_to_the_same_bits
            snapshots_of_other_trainings_are_refused
            dropout_applies_its_mask
            dropout_stops_the_gradients_of_what_it_drops
            dropout_is_off_in_evaluation
            dropout_of_nothing_is_none
            stochastic_depth_drops_whole_samples
            draws_decide_every_bit
            trainers_refuse_states_that_do_not_fit
            trainers_refuse_inputs_that_do_not_fit
            targets_that_do_not_fit_are_refused
            rules_out_of_range_are_refused
            updates_that_cannot_be_are_refused
            large_gradients_are_finite
            a_live_norm_of_single_values_is_refused
            a_refused_step_changes_nothing
        }
    };
}

/// Makes a `#[test]` of each of some functions.
#[doc(hidden)]
#[macro_export]
macro_rules! test_functions {
    ($engine:expr => $($function:ident)*) => {
        $(
            #[test]
            fn $function() {
                $crate::suite::$function(&$engine);
            }
        )*
    };
}
