//! Resizing as Pillow does it, byte for byte.
//!
//! Pillow 13's `src/libImaging/Resample.c`: two passes, one along the rows and one along the columns. Each
//! output sample is a weighted sum of the input samples under a filter that is stretched by the scale when
//! the image shrinks (so it is antialiased). The weights are normalised as f64 and rounded to integers of 22
//! fractional bits; each pass rounds to 8 bits.

use std::ops::Range;

use multiversion::multiversion;
use serde::{Deserialize, Serialize};

use crate::decode::Image;

/// How pixels are interpolated: torchvision's `InterpolationMode`, of which its classification presets use
/// these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// A triangle, 2 source pixels wide before stretching.
    Bilinear,
    /// Keys' cubic with a = -0.5, 4 source pixels wide before stretching.
    Bicubic,
}

impl Interpolation {
    fn radius(self) -> f64 {
        match self {
            Interpolation::Bilinear => 1.0,
            Interpolation::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Interpolation::Bilinear if x < 1.0 => 1.0 - x,
            Interpolation::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Interpolation::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// A part of a picture, in pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

/// Resizes to `width` x `height` pixels: the bytes of Pillow's `Image.resize((width, height), filter)`.
///
/// A size of 0 gives an empty picture; an empty picture becomes a black one.
pub fn resize(image: &Image, width: u32, height: u32, interpolation: Interpolation) -> Image {
    let (left, top) = (0, 0);
    resize_window(image, (width, height), Window { left, top, width, height }, interpolation)
}

/// `window` of the picture resized to `size`. Nothing outside the window is computed, so its cost does not
/// depend on `size`.
pub(crate) fn resize_window(
    image: &Image,
    size: (u32, u32),
    window: Window,
    interpolation: Interpolation,
) -> Image {
    if image.pixels.is_empty() {
        let pixels = vec![0; 3 * window.width as usize * window.height as usize];
        return Image { width: window.width, height: window.height, pixels };
    }
    let columns = window.left..window.left + window.width;
    let rows = window.top..window.top + window.height;
    let along_rows = taps(image.width, size.0, columns, interpolation);
    let along_columns = taps(image.height, size.1, rows, interpolation);

    let (stride, target) = (3 * image.width as usize, 3 * window.width as usize);
    let pixels = if columns_first((image.width, image.height), size) {
        let low = resize_columns(&image.pixels, stride, 0, &along_columns);
        resize_rows(&low, stride, &along_rows)
    } else {
        let rows = needed(&along_columns);
        let source = &image.pixels[rows.start * stride..rows.end * stride];
        let narrow = resize_rows(source, stride, &along_rows);
        resize_columns(&narrow, target, rows.start, &along_columns)
    };
    Image { width: window.width, height: window.height, pixels }
}

/// The order of the passes changes the rounding. Since version 13 Pillow resizes the columns first where the
/// height shrinks by more than twice as many pixels as the width; before, it always began with the rows.
fn columns_first(from: (u32, u32), to: (u32, u32)) -> bool {
    let lost = |from, to| i64::from(from) - i64::from(to);
    let (across, down) = (lost(from.0, to.0), lost(from.1, to.1));
    down > 0 && down > 2 * across
}

/// Fractional bits of a weight. A sample has 8 bits, a sum may overshoot by two more.
const PRECISION: u32 = 32 - 8 - 2;

/// Added before the fractional bits are cut off.
const HALF: i32 = 1 << (PRECISION - 1);

/// What one output position of one axis is made of: source positions from `first` on, and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Taps {
    fn new(first: usize, weights: &[f64]) -> Taps {
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| {
            let scaled = weight / sum * f64::from(1 << PRECISION);
            (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
        };
        let weights: Vec<i32> = weights.iter().map(fixed).collect();
        let used = |weight: &i32| *weight != 0;
        let start = weights.iter().position(used).unwrap_or(0);
        let end = weights.iter().rposition(used).map_or(0, |last| last + 1);
        Taps { first: first + start, weights: weights[start..end.max(start)].to_vec() }
    }

    fn end(&self) -> usize {
        self.first + self.weights.len()
    }
}

/// The taps of `outputs`, when `source` positions become `target`.
fn taps(source: u32, target: u32, outputs: Range<u32>, interpolation: Interpolation) -> Vec<Taps> {
    let scale = f64::from(source) / f64::from(target);
    let stretch = scale.max(1.0);
    let support = interpolation.radius() * stretch;
    outputs
        .map(|position| {
            let centre = (f64::from(position) + 0.5) * scale;
            // The casts cut off and stop at 0, as Pillow's casts and clamps do.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(source as usize);
            let weight = |x: usize| interpolation.weight((x as f64 - centre + 0.5) * (1.0 / stretch));
            Taps::new(first, &(first..end).map(weight).collect::<Vec<f64>>())
        })
        .collect()
}

/// The source positions that any of the outputs needs.
fn needed(taps: &[Taps]) -> Range<usize> {
    let first = taps.iter().map(|taps| taps.first).min().unwrap_or(0);
    let end = taps.iter().map(Taps::end).max().unwrap_or(0);
    first..end.max(first)
}

/// Rows that are resized together: their pixels are laid side by side, so that the sums run over
/// 3 * BAND neighbouring samples with the same weight, which the compiler turns into vector instructions.
const BAND: usize = 8;

/// One column of a band: RGB of each row.
type Column = [u8; 3 * BAND];

/// Resizes each row. `source`: rows of `stride` bytes; result: rows of `3 * taps.len()` bytes.
fn resize_rows(source: &[u8], stride: usize, taps: &[Taps]) -> Vec<u8> {
    let target = 3 * taps.len();
    let mut output = vec![0; source.len() / stride * target];
    if target == 0 {
        return output;
    }
    let columns = needed(taps);
    let mut band: Vec<Column> = vec![[0; 3 * BAND]; columns.len()];
    for (rows, output) in source.chunks(BAND * stride).zip(output.chunks_mut(BAND * target)) {
        for (i, row) in rows.chunks_exact(stride).enumerate() {
            let pixels = row[3 * columns.start..].as_chunks::<3>().0;
            for (column, pixel) in band.iter_mut().zip(pixels) {
                column[3 * i..3 * i + 3].copy_from_slice(pixel);
            }
        }
        resize_band(&band, columns.start, taps, output);
    }
    output
}

#[multiversion(targets("x86_64+avx2"))]
fn resize_band(band: &[Column], origin: usize, taps: &[Taps], output: &mut [u8]) {
    let target = 3 * taps.len();
    for (x, taps) in taps.iter().enumerate() {
        let mut sums = [HALF; 3 * BAND];
        let columns = &band[taps.first - origin..taps.end() - origin];
        for (column, &weight) in columns.iter().zip(&taps.weights) {
            for (sum, &sample) in sums.iter_mut().zip(column) {
                *sum += i32::from(sample) * weight;
            }
        }
        let samples = sums.map(rounded);
        for (row, pixel) in output.chunks_exact_mut(target).zip(samples.as_chunks::<3>().0) {
            row[3 * x..3 * x + 3].copy_from_slice(pixel);
        }
    }
}

/// Resizes each column. `source`: rows of `width` bytes, of which the first is row `origin` of the taps'
/// source.
#[multiversion(targets("x86_64+avx2"))]
fn resize_columns(source: &[u8], width: usize, origin: usize, taps: &[Taps]) -> Vec<u8> {
    let mut output = Vec::with_capacity(width * taps.len());
    let mut sums = vec![HALF; width];
    for taps in taps {
        sums.fill(HALF);
        let rows = source[(taps.first - origin) * width..].chunks_exact(width.max(1));
        for (row, &weight) in rows.zip(&taps.weights) {
            for (sum, &sample) in sums.iter_mut().zip(row) {
                *sum += i32::from(sample) * weight;
            }
        }
        output.extend(sums.iter().map(|&sum| rounded(sum)));
    }
    output
}

#[inline(always)]
fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}
