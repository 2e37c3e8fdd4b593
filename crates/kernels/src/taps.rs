//! Where the sums of a convolution find their input: a pointer for each output pixel and tap.

use std::ops::Range;

use crate::conv::ConvGeometry;
use crate::gemm::aliases;
use crate::scratch::scratch_stride;
use crate::windows::Axis;
use crate::{Maps, MapsShape};

/// Channels up to which a kernel row is read as one run, even if rows must be copied for it: a tap of few
/// values costs more for its pointers than for its sums.
const FEW_CHANNELS: usize = 8;

/// How the windows of a convolution's input are read.
///
/// Where a kernel row lies in one piece, it is one tap. Where it would, had the input zeros at its sides, the
/// rows are copied first and given them. Above and below the input, and at its sides otherwise, pointers are
/// to zeros elsewhere.
pub(crate) struct Taps<'a> {
    input: Maps<'a>,
    /// Down and across.
    windows: [Axis; 2],
    output: [usize; 2],
    /// Taps of a kernel column and a kernel row.
    taps: [usize; 2],
    /// Values of a tap, of one group.
    run: usize,
    copy: Copied,
}

/// Where the input, or its copy, is.
struct Place {
    /// The first pixel of the first image, which need not exist.
    start: *const f32,
    /// Values from one row to the next.
    row: usize,
    /// Values from one pixel to the next.
    pixel: usize,
    /// Columns.
    width: usize,
    /// Columns of zeros before the first, that are not there.
    left: usize,
}

/// What of the input is copied to scratch; `pixel` values are from one pixel to the next there.
#[derive(Clone, Copy)]
enum Copied {
    Nothing,
    /// Whole rows of `width` columns, with those of zeros.
    Rows {
        width: usize,
        pixel: usize,
    },
    /// A pixel for each of the output.
    Pixels {
        pixel: usize,
    },
}

impl<'a> Taps<'a> {
    pub(crate) fn new(input: Maps<'a>, geometry: ConvGeometry) -> Taps<'a> {
        let MapsShape { height, width, channels, .. } = input.shape;
        let ConvGeometry { kernel, stride, padding, dilation, groups } = geometry;
        let windows = geometry.axes(height, width);
        let output = windows.map(|axis| axis.windows());
        let whole = padding[1] == 0 && input.stride == channels;
        let one_run = groups == 1 && kernel[1] > 1 && dilation[1] == 1 && (whole || channels <= FEW_CHANNELS);
        let padded = (output[1] - 1) * stride[1] + windows[1].reach();
        let copy = if channels == 0 {
            // No value is read.
            Copied::Nothing
        } else if one_run {
            if whole { Copied::Nothing } else { Copied::Rows { width: padded, pixel: channels } }
        } else if !aliases(input.stride * stride[1]) {
            Copied::Nothing
        } else if kernel == [1, 1] {
            Copied::Pixels { pixel: scratch_stride(channels) }
        } else {
            Copied::Rows { width: padded, pixel: scratch_stride(channels) }
        };
        let channels = channels / groups;
        let (taps, run) = if one_run { ([kernel[0], 1], kernel[1] * channels) } else { (kernel, channels) };
        Taps { input, windows, output, taps, run, copy }
    }

    /// Taps of a window.
    pub(crate) fn count(&self) -> usize {
        self.taps[0] * self.taps[1]
    }

    /// Values of a tap.
    pub(crate) fn run(&self) -> usize {
        self.run
    }

    /// The rows of all images, counted through, that the windows of these output pixels reach.
    fn input_rows(&self, pixels: &Range<usize>) -> Range<usize> {
        let [down, _] = self.windows;
        let [height, width] = self.output;
        let rows = |pixel: usize| {
            let (image, y) = (pixel / width / height, pixel / width % height);
            let span = down.span(y..y + 1);
            image * down.size + span.start..image * down.size + span.end
        };
        let end = rows(pixels.end - 1).end;
        rows(pixels.start).start.min(end)..end
    }

    /// Values of scratch that these output pixels need.
    pub(crate) fn scratch(&self, pixels: &Range<usize>) -> usize {
        match self.copy {
            Copied::Nothing => 0,
            Copied::Rows { width, pixel } => self.input_rows(pixels).len() * width * pixel,
            Copied::Pixels { pixel } => pixels.len() * pixel,
        }
    }

    /// Fills `pointers`, `[taps, pixels]`; `zeros` are as many as any run reaches.
    pub(crate) fn find(
        &self,
        pixels: Range<usize>,
        zeros: &[f32],
        scratch: &mut [f32],
        pointers: &mut [*const f32],
    ) {
        let left = self.windows[1].padding;
        if let Copied::Rows { width, pixel } = self.copy {
            let rows = self.input_rows(&pixels);
            let row = width * pixel;
            for (to, number) in scratch.chunks_exact_mut(row).zip(rows.clone()) {
                self.copy_row(number, left, pixel, to);
            }
            let start = scratch.as_ptr().wrapping_sub(rows.start * row);
            self.point(pixels, zeros, Place { start, row, pixel, width, left: 0 }, pointers);
            return;
        }
        let Maps { values, stride: pixel, shape: MapsShape { width, channels, .. } } = self.input;
        let place = Place { start: values.as_ptr(), row: width * pixel, pixel, width, left };
        self.point(pixels, zeros, place, pointers);
        if let Copied::Pixels { pixel } = self.copy {
            for (to, pointer) in scratch.chunks_exact_mut(pixel).zip(pointers) {
                // SAFETY: the pointer is to a pixel of the input, which `conv` has checked, or to as many
                // zeros.
                to[..channels].copy_from_slice(unsafe { std::slice::from_raw_parts(*pointer, channels) });
                *pointer = to.as_ptr();
            }
        }
    }

    /// Copies a row of the input, with zeros at its sides.
    fn copy_row(&self, number: usize, left: usize, pixel: usize, to: &mut [f32]) {
        let MapsShape { width, channels, .. } = self.input.shape;
        let columns = width.min((to.len() / pixel).saturating_sub(left));
        let (zeros, to) = to.split_at_mut((left * pixel).min(to.len()));
        zeros.fill(0.0);
        let (to, zeros) = to.split_at_mut(columns * pixel);
        zeros.fill(0.0);
        let from = &self.input.values[number * width * self.input.stride..];
        if pixel == self.input.stride && pixel == channels {
            to.copy_from_slice(&from[..to.len()]);
        } else {
            for (to, from) in to.chunks_exact_mut(pixel).zip(from.chunks(self.input.stride)) {
                to[..channels].copy_from_slice(&from[..channels]);
            }
        }
    }

    /// Fills `pointers` for the input at this place.
    fn point(&self, pixels: Range<usize>, zeros: &[f32], place: Place, pointers: &mut [*const f32]) {
        let Place { start, row, pixel, width, left } = place;
        let [down, across] = self.windows;
        // A copy has its zeros in it.
        let across = Axis { size: width, padding: left, ..across };
        let [out_height, out_width] = self.output;
        let mut done = 0;
        while done < pixels.len() {
            let (out_row, x) = ((pixels.start + done) / out_width, (pixels.start + done) % out_width);
            let count = (out_width - x).min(pixels.len() - done);
            let (image, y) = (out_row / out_height, out_row % out_height);
            for tap_y in 0..self.taps[0] {
                let in_y = down.place(y, tap_y);
                let in_row = start.wrapping_add((image * down.size).wrapping_add(in_y).wrapping_mul(row));
                for tap_x in 0..self.taps[1] {
                    let tap = tap_y * self.taps[1] + tap_x;
                    let pointers = &mut pointers[tap * pixels.len() + done..][..count];
                    // The columns of the output for which this tap is inside the input.
                    let inside = if in_y < down.size { across.inside(tap_x) } else { 0..0 };
                    let mut pointer = in_row.wrapping_add(across.place(x, tap_x).wrapping_mul(pixel));
                    for (to, x) in pointers.iter_mut().zip(x..) {
                        *to = if inside.contains(&x) { pointer } else { zeros.as_ptr() };
                        pointer = pointer.wrapping_add(across.stride * pixel);
                    }
                }
            }
            done += count;
        }
    }
}
