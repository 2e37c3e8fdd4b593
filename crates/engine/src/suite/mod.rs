//! The test suite that every engine passes.
//!
//! Each function takes an engine, checks one property of it and panics with what is wrong. Values are compared with those of
//! torch, which `parity/engine.py` wrote; so the suite runs within Engraft's repository only. An engine's own tests
//! are one line, which makes a `#[test]` of every function:
//!
//! ```text
//! engraft_engine::test_engine!(BurnEngine::cpu());
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
mod torchvision;
mod training;

pub use auxiliary::*;
pub use bad_input::*;
pub use dropout::*;
pub use freezing::*;
pub use gradients::*;
pub use operations::*;
pub use torchvision::*;
pub use training::*;

/// Makes a `#[test]` of every function of the [suite](crate::suite), for the engine that the expression gives.
#[macro_export]
macro_rules! test_engine {
    ($engine:expr) => {
        $crate::test_engine! { $engine =>
            operations_give_torchs_values
            operations_pass_gradients_on
            a_head_trains_as_in_torch
            a_convolutional_network_trains_as_in_torch
            a_transformer_trains_as_in_torch
            the_first_step_goes_against_torchs_gradients
            the_state_begins_as_given
            a_trained_network_can_be_handed_over
            frozen_parameters_keep_their_bits
            a_frozen_batch_norm_keeps_its_statistics
            nothing_trainable_changes_nothing
            a_branch_beside_the_output_stays_as_it_is
            auxiliary_heads_add_their_loss
            a_network_cut_at_its_frontier_computes_the_same
            a_trunk_cut_off_trains_the_same_head
            dropout_applies_its_mask
            dropout_stops_the_gradients_of_what_it_drops
            dropout_is_off_in_evaluation
            stochastic_depth_drops_whole_samples
            a_seed_decides_every_bit
            an_incomplete_state_is_refused
            tensors_of_other_shapes_are_refused
            inputs_of_other_shapes_are_refused
            labels_that_do_not_fit_are_refused
            a_refused_step_changes_nothing
        }
    };
    ($engine:expr => $($function:ident)*) => {
        $(
            #[test]
            fn $function() {
                $crate::suite::$function(&$engine);
            }
        )*
    };
}
