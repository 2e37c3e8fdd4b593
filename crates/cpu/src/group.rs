//! How many images of a batch go through which part of a network together.
//!
//! A step that writes more than the cache holds makes the next one read from main memory; one that computes little for its weights
//! wants many images for each time that these are read. Networks begin with the first kind of step and end with the second. So their
//! steps are cut into segments: a few images at a time go through the first segment, more through the next.

use std::ops::Range;

use crate::lower::Lowered;
use crate::view::Place;

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
    let bytes: Vec<usize> = lowered.steps.iter().map(|step| step.call.value_bytes()).collect();
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

/// Which buffers have the values of the whole batch: those that are written in one segment and read in another, and the output's.
/// The others have those of one group of images at a time.
pub(crate) fn crossing(lowered: &Lowered, segments: &[Segment]) -> Vec<bool> {
    let mut segment_of = vec![None; lowered.buffers.len()];
    let mut crossing = vec![false; lowered.buffers.len()];
    for (number, segment) in segments.iter().enumerate() {
        for step in &lowered.steps[segment.steps.clone()] {
            for extent in step.call.extents() {
                if let Place::Buffer(buffer) = extent.at.place {
                    crossing[buffer] |= *segment_of[buffer].get_or_insert(number) != number;
                }
            }
        }
    }
    if let Place::Buffer(output) = lowered.output.at.place {
        crossing[output] = true;
    }
    crossing
}

/// The steps as they run: those of each segment once for each group of images.
pub(crate) fn runs(segments: &[Segment], batch: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    segments.iter().flat_map(move |Segment { steps, images }| {
        let groups = (0..batch).step_by(*images).map(move |first| first..(first + images).min(batch));
        groups.flat_map(|group| steps.clone().map(move |step| (step, group.clone())))
    })
}
