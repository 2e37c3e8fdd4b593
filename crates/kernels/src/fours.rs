//! Convolution in groups of four channels, where it is read: a vector holds several groups.

use std::ops::Range;

use crate::Epilogue;
use crate::activation::activate_rows;
use crate::gemm::PanelEnd;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::tile::{Rows, finish};

/// Channels of a group.
const FOUR: usize = 4;

/// Pixels whose sums are in registers: with the weights of a tap, as many as AVX2's sixteen registers allow.
const PIXELS: usize = 6;

/// Whether a convolution is of the kind that this file is about.
pub(crate) fn in_fours(groups: usize, inputs: usize, outputs: usize) -> bool {
    groups > 1 && inputs == FOUR && outputs == FOUR
}

/// A task: some pixels of the output by some vectors of channels.
pub(crate) struct Fours<'a> {
    pub(crate) rows: Range<usize>,
    /// Its `run` is a group's and of no meaning here.
    pub(crate) reads: Rows,
    pub(crate) weights: &'a [f32],
    pub(crate) panels: Range<usize>,
    pub(crate) channels: usize,
    pub(crate) epilogue: Epilogue<'a>,
    pub(crate) to: &'a Shares<'a>,
    pub(crate) to_stride: usize,
}

impl Kernel for Fours<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for vector in self.panels.clone() {
            let first = vector * S::LANES;
            let weights = self.weights[first * FOUR * self.reads.taps..].as_ptr();
            let reads = Rows { offset: first, ..self.reads };
            let columns = S::LANES.min(self.channels - first);
            let end = PanelEnd::new(&self.epilogue, self.rows.start, first);
            let count = self.rows.len();
            // SAFETY: `conv` has checked the slices; tasks have different pixels or channels.
            unsafe {
                let to = self.to.at(self.rows.start * self.to_stride + first);
                let mut done = 0;
                while done + PIXELS <= count {
                    pixels::<S, PIXELS>(reads, done, weights, columns, end, to, self.to_stride);
                    done += PIXELS;
                }
                while done < count {
                    pixels::<S, 1>(reads, done, weights, columns, end, to, self.to_stride);
                    done += 1;
                }
            }
        }
    }
}

/// `COUNT` pixels from pixel `first` of the task on, in all channels of a vector.
#[inline(always)]
unsafe fn pixels<S: Simd, const COUNT: usize>(
    reads: Rows,
    first: usize,
    weights: *const f32,
    columns: usize,
    end: PanelEnd,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let reads = Rows { pointers: reads.pointers.add(first), ..reads };
        let sums = if columns == S::LANES {
            sums::<S, COUNT, true>(reads, weights, columns)
        } else {
            sums::<S, COUNT, false>(reads, weights, columns)
        };
        let (tile_end, clamped) = end.of_tile(first);
        let to = to.add(first * to_stride);
        finish::<S, COUNT, 1, false>(sums, columns, tile_end, to, to_stride);
        if !clamped {
            activate_rows::<S>(end.activation, to, COUNT, columns, to_stride);
        }
    }
}

#[inline(always)]
unsafe fn sums<S: Simd, const COUNT: usize, const FULL: bool>(
    reads: Rows,
    weights: *const f32,
    columns: usize,
) -> [[S::V; 1]; COUNT] {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[S::zero(); 1]; COUNT];
        let mut weights = weights;
        for tap in 0..reads.taps {
            let pointers = reads.pointers.add(tap * reads.stride);
            let w: [S::V; FOUR] = [0, 1, 2, 3].map(|input| S::load(weights.add(input * S::LANES)));
            for (p, [sum]) in sums.iter_mut().enumerate() {
                let from = (*pointers.add(p)).add(reads.offset);
                let x = if FULL { S::load(from) } else { S::load_first(from, columns) };
                *sum = S::mul_add(S::broadcast_in_fours::<0>(x), w[0], *sum);
                *sum = S::mul_add(S::broadcast_in_fours::<1>(x), w[1], *sum);
                *sum = S::mul_add(S::broadcast_in_fours::<2>(x), w[2], *sum);
                *sum = S::mul_add(S::broadcast_in_fours::<3>(x), w[3], *sum);
            }
            weights = weights.add(FOUR * S::LANES);
        }
        sums
    }
}
