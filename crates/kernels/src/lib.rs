//! SIMD kernels on plain slices: matrix product, convolution, pooling, normalisation, attention, and their backward passes.
//!
//! Feature maps are channels last ([`Maps`]); weights are packed once for an instruction set ([`Level`]) and used by every
//! thread of a [`Pool`]. What is computed does not depend on the number of threads, bit for bit. This crate knows no networks.
//!
//! ```
//! use engraft_kernels::{Activation, Epilogue, Level, Matrix, PackedMatrix, Pool, Prologue, gemm};
//!
//! let pool = Pool::new(2);
//! // The weights [k, n] = [2, 3]: 0 1 2 / 3 4 5.
//! let weights = PackedMatrix::new(Level::detect(), 2, 3, |row, column| (3 * row + column) as f32);
//! let x = [1.0, 2.0, -1.0, 0.0];
//! let mut y = [0.0; 6];
//! let epilogue = Epilogue { activation: Activation::ReLU, ..Epilogue::default() };
//! gemm(&pool, 2, Matrix { values: &x, stride: 2 }, Prologue::None, &weights, epilogue, &mut y, 3);
//! assert_eq!(y, [6.0, 9.0, 12.0, 0.0, 0.0, 0.0]);
//! ```

mod activation;
mod attention;
mod backward;
mod blocks;
mod bounds;
mod conv;
mod depthwise;
mod elementwise;
mod fours;
mod gemm;
mod grouped;
mod layout;
mod maps;
mod math;
mod matrix;
mod norm;
mod peak;
mod pool;
mod pooling;
mod prologue;
mod scratch;
mod shares;
mod simd;
mod taps;
mod tile;
mod windows;
mod winograd;

/// Changes when the same input gives other bits than before.
pub const VERSION: u32 = 2;

pub use activation::Activation;
pub use attention::{AttentionShape, Scores, Similarity, TokenRows, Windows, attention};
pub use backward::{
    Adam, AttentionGradients, BatchNorm, ConvGradientWeights, FoldedNorm, GradientEpilogue, Sgd,
    activation_backward, adam, adaptive_avg_pool_backward, add_rows, attention_backward, average,
    avg_pool_backward, batch_norm_affine, batch_norm_backward, batch_statistics, column_products,
    column_sums, conv_input_gradient, conv_weight_gradient, cross_entropy, depthwise_input_gradient,
    depthwise_weight_gradient, folded_norm_backward, layer_norm_backward, max_pool_backward, normalise,
    product_input_gradient, product_weight_gradient, scale, scale_images, sgd, softmax_backward,
    sum_of_squares,
};
pub use conv::{ConvGeometry, ConvWeights, conv};
pub use depthwise::{DepthwiseWeights, ExpandWeights, depthwise, expand_depthwise};
pub use elementwise::{Function, elementwise};
pub use gemm::{Epilogue, Matrix, PackedMatrix, aliases, gemm};
pub use layout::{strided_copy, to_channels_last};
pub use maps::{Maps, MapsMut, MapsShape};
pub use matrix::MatrixMut;
pub use norm::{LayerNorm, layer_norm, softmax};
pub use peak::peak_flops;
pub use pool::Pool;
pub use pooling::{PoolGeometry, adaptive_avg_pool, avg_pool, max_pool};
pub use prologue::Prologue;
pub use simd::Level;
pub use winograd::{WinogradTile, WinogradWeights, winograd, winograd_weight_gradient};
