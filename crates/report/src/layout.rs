//! Where the blocks of a drawing go: rows from top to bottom, and lanes side by side.
//!
//! The longest way through the network takes the middle lane. Every other way, and every edge that passes over a row, takes the
//! nearest lane that is free there.

use std::cmp::Reverse;
use std::ops::Range;

use crate::blocks::{Drawing, Edge};

/// A lane: 0 in the middle, negative to the left.
pub(crate) type Lane = isize;

/// Places of a drawing's blocks and edges.
pub(crate) struct Layout {
    /// The row of every block.
    pub(crate) rows: Vec<usize>,
    /// The lane of every block.
    pub(crate) lanes: Vec<Lane>,
    /// The lane in which every edge goes down.
    pub(crate) edge_lanes: Vec<Lane>,
}

impl Layout {
    pub(crate) fn of(drawing: &Drawing) -> Self {
        let rows = rows(drawing);
        let mut taken = Taken::default();
        let mut lanes: Vec<Option<Lane>> = vec![None; rows.len()];
        let lowest = |lanes: &[Option<Lane>]| {
            (0..rows.len()).filter(|block| lanes[*block].is_none()).max_by_key(|block| rows[*block])
        };
        while let Some(end) = lowest(&lanes) {
            let way = way_to(end, drawing, &rows, &lanes);
            let mut reach: Vec<usize> = way.iter().map(|block| 2 * rows[*block]).collect();
            // An output goes down as well.
            reach.push(2 * rows[end] + 1);
            // The edges from and to other lanes go down in the way's own.
            let its = drawing.edges.iter().filter(|edge| way.contains(&edge.from) || way.contains(&edge.to));
            reach.extend(its.flat_map(|edge| span(edge, &rows)));
            let lane = taken.take(&reach);
            for block in way {
                lanes[block] = Some(lane);
            }
        }
        let lanes: Vec<Lane> = lanes.into_iter().flatten().collect();
        let edge_lanes = edge_lanes(drawing, &rows, &lanes, &mut taken);
        Self { rows, lanes, edge_lanes }
    }
}

/// Each block as far down as the longest way to it; one that has no input, just above what reads it.
fn rows(drawing: &Drawing) -> Vec<usize> {
    let mut rows = vec![0; drawing.blocks.len()];
    for _ in 0..rows.len() {
        for edge in &drawing.edges {
            rows[edge.to] = rows[edge.to].max(rows[edge.from] + 1);
        }
    }
    for block in 1..rows.len() {
        let readers = drawing.edges.iter().filter(|edge| edge.from == block).map(|edge| rows[edge.to]);
        if let (0, Some(first)) = (rows[block], readers.min()) {
            rows[block] = first - 1;
        }
    }
    rows
}

/// The longest way to a block over others that have no lane yet, in order.
fn way_to(end: usize, drawing: &Drawing, rows: &[usize], lanes: &[Option<Lane>]) -> Vec<usize> {
    let mut way = vec![end];
    let before = |block: usize| {
        let inputs = drawing.edges.iter().filter(|edge| edge.to == block && lanes[edge.from].is_none());
        inputs.map(|edge| edge.from).max_by_key(|from| (rows[*from], Reverse(*from)))
    };
    let mut block = end;
    while let Some(from) = before(block) {
        way.push(from);
        block = from;
    }
    way.reverse();
    way
}

/// What an edge passes on its way down, as places of [`Taken`].
fn span(edge: &Edge, rows: &[usize]) -> Range<usize> {
    2 * rows[edge.from] + 1..2 * rows[edge.to]
}

fn edge_lanes(drawing: &Drawing, rows: &[usize], lanes: &[Lane], taken: &mut Taken) -> Vec<Lane> {
    let mut order: Vec<&Edge> = drawing.edges.iter().collect();
    order.sort_by_key(|edge| span(edge, rows).len());
    let mut done: Vec<(&Edge, Lane)> = Vec::new();
    for edge in order {
        let passed = span(edge, rows);
        // The ways of both ends took its places, too, but blocks or other edges of theirs may be there.
        let is_free = |lane: &Lane| {
            let block_in_the_way =
                |block: usize| lanes[block] == *lane && passed.contains(&(2 * rows[block]));
            let edge_in_the_way = |(other, of): &(&Edge, Lane)| {
                let other_passed = span(other, rows);
                let meet = other_passed.start < passed.end && passed.start < other_passed.end;
                of == lane && meet && other.from != edge.from && other.to != edge.to
            };
            !(0..rows.len()).any(block_in_the_way) && !done.iter().any(edge_in_the_way)
        };
        let ends = [lanes[edge.to], lanes[edge.from]];
        let own = ends.into_iter().find(|lane| (*lane != 0 || passed.len() == 1) && is_free(lane));
        let lane = own.unwrap_or_else(|| taken.take(&passed.clone().collect::<Vec<_>>()));
        done.push((edge, lane));
    }
    let lane_of = |edge: &Edge| done.iter().find(|(other, _)| *other == edge).map_or(0, |(_, lane)| *lane);
    drawing.edges.iter().map(lane_of).collect()
}

/// Which places of which lanes are taken: 0 is the first row, 1 the gap below it, 2 the second row.
#[derive(Default)]
struct Taken(Vec<(Lane, usize)>);

impl Taken {
    /// Takes places of the nearest lane in which they are free.
    fn take(&mut self, places: &[usize]) -> Lane {
        let is_free = |lane: &Lane| places.iter().all(|place| !self.0.contains(&(*lane, *place)));
        let lane = (0..).flat_map(|distance: Lane| [distance, -distance]).find(is_free).unwrap_or_default();
        self.0.extend(places.iter().map(|place| (lane, *place)));
        lane
    }
}
