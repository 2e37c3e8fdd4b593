//! Transforming the weights again: after every update of training, by all threads, in f32.

use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};
use std::ops::Range;

use super::{WinogradTile, WinogradWeights};
use crate::bounds::check_weight;
use crate::gemm::{Panel, panels};
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::winograd::lines::Lines;
use crate::{Level, Pool};

impl WinogradWeights {
    /// Weights of zeros, to be packed.
    pub fn zeros(
        level: Level,
        tile: WinogradTile,
        out_channels: usize,
        in_channels: usize,
    ) -> WinogradWeights {
        let width: usize = panels(level, out_channels).map(|panel| panel.width).sum();
        let values = Lines::new(width * in_channels * tile.points());
        WinogradWeights { values, zeros: vec![0.0; in_channels], level, tile, out_channels, in_channels }
    }

    /// Packs `weight[out_channels, in_channels, 3, 3]` in place of what is packed; the transform is computed in f32.
    ///
    /// # Panics
    /// When `weight` has another length.
    pub fn pack(&mut self, pool: &Pool, weight: &[f32]) {
        check_weight(weight, [self.out_channels, self.in_channels, 3, 3]);
        self.transform(pool, weight, [9 * self.in_channels, 9], false);
    }

    /// Packs the weight of the input's gradient, in place of what is packed: `weight` is that of the convolution,
    /// `[in_channels, out_channels, 3, 3]` in the names of these weights, whose input is the convolution's output.
    ///
    /// The gradient of the input of a convolution with padding `p`, at most 2, is the [`winograd`](crate::winograd) of `dy` with
    /// these weights and padding `2 - p`.
    ///
    /// # Panics
    /// When `weight` has another length.
    pub fn pack_rotated(&mut self, pool: &Pool, weight: &[f32]) {
        check_weight(weight, [self.in_channels, self.out_channels, 3, 3]);
        self.transform(pool, weight, [9, 9 * self.out_channels], true);
    }

    /// `strides` are the values between output channels and between input channels.
    fn transform(&mut self, pool: &Pool, weight: &[f32], strides: [usize; 2], rotated: bool) {
        let WinogradWeights { level, tile, out_channels, in_channels, .. } = *self;
        let to = Shares::new(self.values.values_mut());
        let parts = in_channels.div_ceil(CHANNELS);
        pool.run(panels(level, out_channels).count() * parts, |task| {
            let first = task % parts * CHANNELS;
            let channels = first..(first + CHANNELS).min(in_channels);
            for panel in panels(level, out_channels).skip(task / parts).take(1) {
                let channels = channels.clone();
                level.run(PackTask { tile, in_channels, weight, strides, rotated, panel, channels, to: &to });
            }
        });
    }
}

/// Input channels of a task.
const CHANNELS: usize = 32;

/// The weights of output channels that do not exist.
static ZEROS: [f32; 9] = [0.0; 9];

/// A task: some input channels of a panel.
struct PackTask<'a> {
    tile: WinogradTile,
    in_channels: usize,
    weight: &'a [f32],
    strides: [usize; 2],
    rotated: bool,
    panel: Panel,
    channels: Range<usize>,
    to: &'a Shares<'a>,
}

impl Kernel for PackTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // The narrower vectors, which are no longer than a kernel.
        // SAFETY: the machine has the instruction set.
        unsafe { self.pack::<S::Half>() }
    }
}

impl PackTask<'_> {
    /// # Safety
    /// The machine has the instruction set.
    #[inline(always)]
    unsafe fn pack<S: Simd>(&self) {
        const { assert!(S::LANES <= 9) };
        let Panel { first, columns, width } = self.panel;
        let [of_output, of_input] = self.strides;
        let points = self.tile.points();
        let mut pointers = [ZEROS.as_ptr(); 16];
        let mut taps = [0.0_f32; 9 * 16];
        for channel in self.channels.clone() {
            for column in (0..width).step_by(S::LANES) {
                for (lane, pointer) in pointers.iter_mut().enumerate().take(S::LANES) {
                    *pointer = if column + lane < columns {
                        let at = (first + column + lane) * of_output + channel * of_input;
                        self.weight[at..at + 9].as_ptr()
                    } else {
                        ZEROS.as_ptr()
                    };
                }
                // SAFETY: the pointers are to nine values; the last vectors of taps overlap those before. The panel's values have room for
                // every point and channel, and no other task has these.
                unsafe {
                    let mut tap = 0;
                    while tap < 9 {
                        let from = tap.min(9 - S::LANES);
                        let to = taps.as_mut_ptr().add(from * S::LANES);
                        S::transpose(pointers.as_ptr(), from, to, S::LANES);
                        tap += S::LANES;
                    }
                    let mut kernel = [[S::zero(); 3]; 3];
                    for (tap, value) in kernel.as_flattened_mut().iter_mut().enumerate() {
                        let tap = if self.rotated { 8 - tap } else { tap };
                        *value = S::load(taps.as_ptr().add(tap * S::LANES));
                    }
                    let start = first * self.in_channels * points + channel * width + column;
                    let (to, apart) = (self.to.at(start), self.in_channels * width);
                    match self.tile {
                        WinogradTile::F2 => points_of::<S, 4>(kernel, f2::<S>, to, apart),
                        WinogradTile::F4 => points_of::<S, 6>(kernel, f4::<S>, to, apart),
                    }
                }
            }
        }
    }
}

/// # Safety
/// The machine has the instruction set, and `to` is valid for a vector at every point.
#[inline(always)]
unsafe fn points_of<S: Simd, const IN: usize>(
    kernel: [[S::V; 3]; 3],
    transform: impl Fn([S::V; 3]) -> [S::V; IN],
    to: *mut f32,
    apart: usize,
) {
    let [first, second, third] = kernel.map(&transform);
    for (x, ((a, b), c)) in first.into_iter().zip(second).zip(third).enumerate() {
        for (y, value) in transform([a, b, c]).into_iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { S::store(to.add((y * IN + x) * apart), value) };
        }
    }
}

/// Three taps at the points of [`F2`](super::transform::F2).
#[inline(always)]
fn f2<S: Simd>([a, b, c]: [S::V; 3]) -> [S::V; 4] {
    // SAFETY: whoever has a vector has the instruction set.
    unsafe {
        let half = S::splat(0.5);
        let even = S::mul(half, S::add(a, c));
        [a, S::mul_add(half, b, even), S::sub(even, S::mul(half, b)), c]
    }
}

/// Three taps at the points of [`F4`](super::transform::F4).
#[inline(always)]
fn f4<S: Simd>([a, b, c]: [S::V; 3]) -> [S::V; 6] {
    // SAFETY: whoever has a vector has the instruction set.
    unsafe {
        let even = S::mul(S::mul_add(S::splat(0.5), c, a), S::splat(-1.0 / 1.5));
        let odd = S::mul(b, S::splat((FRAC_1_SQRT_2 / -1.5) as f32));
        let even_2 = S::mul(S::mul_add(S::splat(2.0), c, a), S::splat(1.0 / 6.0));
        let odd_2 = S::mul(b, S::splat((SQRT_2 / 6.0) as f32));
        [a, S::add(even, odd), S::sub(even, odd), S::add(even_2, odd_2), S::sub(even_2, odd_2), c]
    }
}
