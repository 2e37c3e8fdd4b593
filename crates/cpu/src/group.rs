//! How many images of a batch go through which part of a network together.
//!
//! A step that writes more than the cache holds makes the next one read from main memory; one that computes little for its weights
//! wants many images for each time that these are read. Networks begin with the first kind of step and end with the second. So their
//! steps are cut into segments: a few images at a time go through the first segment, more through the next.

use std::ops::Range;
use std::sync::Arc;

use crate::lower::{Lowered, Step, Work};
use crate::view::{Place, View};

/// Bytes that a step may read and write, for all images that go through it together: a share of the last-level cache.
const STEP_BYTES: usize = 4 << 20;

/// Successive steps through which the same number of images goes together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Segment {
    pub(crate) steps: Range<usize>,
    pub(crate) images: usize,
}

/// Cuts the steps for a batch into segments, each of twice as many images as the one before it, or more.
pub(crate) fn segments(lowered: &Lowered, batch: usize) -> Vec<Segment> {
    let count = lowered.steps.len();
    let bytes: Vec<usize> = lowered.steps.iter().map(|step| step_bytes(step) / batch).collect();
    let mut segments: Vec<Segment> = Vec::new();
    let mut first = 0;
    let mut images = 1;
    while first < count {
        let more = (2 * images).min(batch);
        // From here on, every step has room for more images.
        let end = match bytes.iter().rposition(|bytes| bytes * more > STEP_BYTES) {
            _ if images == batch => count,
            Some(last) => (last + 1).max(first),
            None => first,
        };
        if end > first {
            segments.push(Segment { steps: first..end, images });
        }
        first = end;
        images = more;
    }
    segments
}

/// Without weights, which all images share.
fn step_bytes(step: &Step) -> usize {
    4 * step.inputs.iter().chain(&step.residual).chain([&step.output]).map(View::len).sum::<usize>()
}

/// Which buffers have the values of the whole batch: those that are written in one segment and read in another, and the output's.
/// The others have those of one group of images at a time.
pub(crate) fn crossing(lowered: &Lowered, segments: &[Segment]) -> Vec<bool> {
    let mut segment_of = vec![None; lowered.buffers.len()];
    let mut crossing = vec![false; lowered.buffers.len()];
    for (number, segment) in segments.iter().enumerate() {
        for step in &lowered.steps[segment.steps.clone()] {
            for buffer in step.views().filter_map(buffer) {
                crossing[buffer] |= *segment_of[buffer].get_or_insert(number) != number;
            }
        }
    }
    if let Some(output) = buffer(&lowered.output) {
        crossing[output] = true;
    }
    crossing
}

fn buffer(view: &View) -> Option<usize> {
    match view.place {
        Place::Buffer(buffer) => Some(buffer),
        Place::Constant(_) => None,
    }
}

/// The steps as they run: those of each segment once for each group of images.
pub(crate) fn expand(lowered: &Lowered, segments: &[Segment], crossing: &[bool], batch: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    for segment in segments {
        for first in (0..batch).step_by(segment.images) {
            let images = segment.images.min(batch - first);
            let part = |view: &View| part(view, crossing, first..first + images, batch);
            for step in &lowered.steps[segment.steps.clone()] {
                let work = match &step.work {
                    Work::Input { .. } => Work::Input { first_image: first },
                    Work::Copy => Work::Copy,
                    Work::Operation(number) => Work::Operation(*number),
                    Work::Windows(number, table) => Work::Windows(*number, Arc::clone(table)),
                };
                steps.push(Step {
                    work,
                    inputs: step.inputs.iter().map(part).collect(),
                    residual: step.residual.as_ref().map(part),
                    output: part(&step.output),
                    means: step.means.as_ref().map(part),
                    number: step.number,
                });
            }
        }
    }
    steps
}

/// What a view sees of some images.
fn part(view: &View, crossing: &[bool], images: Range<usize>, batch: usize) -> View {
    match view.place {
        Place::Buffer(buffer) if crossing[buffer] => view.narrowed(0, images.start, images.len()),
        Place::Buffer(_) => view.narrowed(0, 0, images.len()),
        // A parameter that is repeated for each image.
        Place::Constant(_) if view.shape.first() == Some(&batch) && view.strides[0] == 0 => {
            view.narrowed(0, 0, images.len())
        }
        Place::Constant(_) => view.clone(),
    }
}
