//! Drawings as SVG, without any other program.

use std::fmt::{self, Write};

use crate::blocks::{Block, Drawing, Edge, Part};
use crate::caption::sizes;
use crate::layout::{Lane, Layout};

// All in pixels.
const MARGIN: f64 = 20.0;
const LINE: f64 = 16.0;
const PADDING: f64 = 8.0;
const GAP_OF_ROWS: f64 = 44.0;
const GAP_OF_LANES: f64 = 18.0;
/// How far below and above blocks edges turn.
const TURN: f64 = 11.0;
const RADIUS: f64 = 6.0;
const LEGEND: f64 = 30.0;

impl Drawing {
    /// An SVG picture: blocks from top to bottom, the shapes of what flows between them beside the arrows.
    pub fn to_svg(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = Picture::of(self).write(&mut text);
        text
    }
}

struct Picture<'a> {
    drawing: &'a Drawing,
    layout: Layout,
    /// Upper edge and height of every row.
    rows: Vec<[f64; 2]>,
    /// Number, centre and width of every lane.
    lanes: Vec<(Lane, [f64; 2])>,
    width: f64,
    height: f64,
}

impl<'a> Picture<'a> {
    fn of(drawing: &'a Drawing) -> Self {
        let layout = Layout::of(drawing);
        let mut rows: Vec<[f64; 2]> = vec![[0.0; 2]; layout.rows.iter().max().map_or(0, |last| last + 1)];
        for (block, row) in drawing.blocks.iter().zip(&layout.rows) {
            rows[*row][1] = rows[*row][1].max(block_size(block)[1]);
        }
        let mut y = MARGIN;
        for [top, height] in &mut rows {
            *top = y;
            y += *height + GAP_OF_ROWS;
        }
        let mut numbers = [layout.lanes.as_slice(), &layout.edge_lanes].concat();
        numbers.sort_unstable();
        numbers.dedup();
        let mut x = MARGIN;
        let lanes = numbers.into_iter().map(|lane| {
            let blocks = drawing.blocks.iter().zip(&layout.lanes).filter(|(_, of)| **of == lane);
            let width = blocks.map(|(block, _)| block_size(block)[0]).fold(GAP_OF_LANES, f64::max);
            x += width + GAP_OF_LANES;
            (lane, [x - GAP_OF_LANES - width / 2.0, width])
        });
        let lanes: Vec<(Lane, [f64; 2])> = lanes.collect();
        // A label stands to the right of its arrow, and may reach farther than the blocks.
        let mut picture =
            Self { drawing, layout, rows, lanes, width: x - GAP_OF_LANES + MARGIN, height: y + LEGEND };
        let labels = (0..drawing.blocks.len()).map(|block| {
            picture.centre(block)[0] + 8.0 + text_width(&sizes(&drawing.blocks[block].output)) + MARGIN
        });
        picture.width = labels.fold(picture.width, f64::max);
        picture
    }

    /// Centre and width.
    fn lane(&self, lane: Lane) -> [f64; 2] {
        self.lanes.iter().find(|(number, _)| *number == lane).map_or([0.0; 2], |(_, place)| *place)
    }

    fn centre(&self, block: usize) -> [f64; 2] {
        let [top, height] = self.rows[self.layout.rows[block]];
        [self.lane(self.layout.lanes[block])[0], top + height / 2.0]
    }

    fn write(&self, f: &mut String) -> fmt::Result {
        let (width, height) = (self.width, self.height);
        writeln!(
            f,
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" font-family="Helvetica, Arial, sans-serif" font-size="11" fill="#1d2733">"##
        )?;
        writeln!(f, r#"<rect width="100%" height="100%" fill="white"/>"#)?;
        writeln!(
            f,
            r#"<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0.5 8 4 0 7.5z" fill="{LINE_COLOUR}"/></marker></defs>"#
        )?;
        writeln!(f, r#"<g fill="none" stroke="{LINE_COLOUR}" stroke-width="1.2">"#)?;
        for (edge, lane) in self.drawing.edges.iter().zip(&self.layout.edge_lanes) {
            self.write_edge(f, edge, self.lane(*lane)[0])?;
        }
        for block in (0..self.drawing.blocks.len()).filter(|block| self.is_last(*block)) {
            let ([x, _], bottom) = (self.centre(block), self.bottom(block));
            self.write_line(f, &[[x, bottom], [x, bottom + GAP_OF_ROWS - 10.0]])?;
        }
        writeln!(f, "</g>")?;
        for (place, block) in self.drawing.blocks.iter().enumerate() {
            self.write_block(f, place, block)?;
        }
        self.write_legend(f)?;
        writeln!(f, "</svg>")
    }

    /// Down from the block, across to the edge's lane, down, across to the other block, and down to it.
    fn write_edge(&self, f: &mut String, edge: &Edge, lane: f64) -> fmt::Result {
        let (from, to) = (self.centre(edge.from)[0], self.centre(edge.to)[0]);
        let row_end = |block: usize| {
            let [top, height] = self.rows[self.layout.rows[block]];
            [top, top + height]
        };
        let [start, end] = [self.bottom(edge.from), self.centre(edge.to)[1] - self.height_of(edge.to) / 2.0];
        let (leave, enter) = (row_end(edge.from)[1] + TURN, row_end(edge.to)[0] - TURN - 3.0);
        let mut points = vec![[from, start]];
        for [y, x] in [[leave, lane], [enter, to]] {
            let before = points[points.len() - 1][0];
            if before != x {
                points.extend([[before, y], [x, y]]);
            }
        }
        points.push([to, end]);
        self.write_line(f, &points)
    }

    /// A line of horizontal and vertical pieces with rounded corners, and a tip at its end.
    fn write_line(&self, f: &mut String, points: &[[f64; 2]]) -> fmt::Result {
        let [first, inner @ .., last] = points else { return Ok(()) };
        write!(f, r#"<path d="M{:.1} {:.1}"#, first[0], first[1])?;
        for (corner, around) in inner.iter().zip(points.windows(3)) {
            let towards = |other: [f64; 2]| {
                let step = |axis: usize| {
                    let way = other[axis] - corner[axis];
                    corner[axis] + way.signum() * (way.abs() / 2.0).min(RADIUS)
                };
                [0, 1].map(step)
            };
            let [before, after] = [towards(around[0]), towards(around[2])];
            write!(f, "L{:.1} {:.1}", before[0], before[1])?;
            write!(f, "Q{:.1} {:.1} {:.1} {:.1}", corner[0], corner[1], after[0], after[1])?;
        }
        writeln!(f, r#"L{:.1} {:.1}" marker-end="url(#tip)"/>"#, last[0], last[1])
    }

    fn write_block(&self, f: &mut String, place: usize, block: &Block) -> fmt::Result {
        let ([x, y], [width, height]) = (self.centre(place), block_size(block));
        let [fill, stroke] = block.part.colours();
        // Modules of a lane are equally wide; operations are pills.
        let [width, round] = match block.modules.is_empty() {
            true => [width, height / 2.0],
            false => [self.lane(self.layout.lanes[place])[1], 6.0],
        };
        writeln!(
            f,
            r#"<rect x="{:.1}" y="{:.1}" width="{width:.1}" height="{height:.1}" rx="{round:.1}" fill="{fill}" stroke="{stroke}" stroke-width="1.2"/>"#,
            x - width / 2.0,
            y - height / 2.0
        )?;
        let lines = block.lines();
        for (number, line) in lines.iter().enumerate() {
            let y = y + (number as f64 - (lines.len() - 1) as f64 / 2.0) * LINE + 4.0;
            let style = match number {
                0 => r#" font-size="12.5" font-weight="bold""#,
                _ if number + 1 == lines.len() && block.parameters > 0 => {
                    r##" font-size="10" fill="#66727f""##
                }
                _ => "",
            };
            writeln!(
                f,
                r#"<text x="{x:.1}" y="{y:.1}" text-anchor="middle"{style}>{}</text>"#,
                escaped(line)
            )?;
        }
        // Beside the arrow that goes down from it, above the turns of the edges that end in the next row.
        let [top, row_height] = self.rows[self.layout.rows[place]];
        let y = top + row_height + GAP_OF_ROWS / 2.0 + 2.0;
        writeln!(f, r##"<text x="{:.1}" y="{y:.1}" fill="#44515e">{}</text>"##, x + 8.0, sizes(&block.output))
    }

    fn write_legend(&self, f: &mut String) -> fmt::Result {
        let mut x = MARGIN;
        let y = self.height - MARGIN - 6.0;
        for (part, text) in [(Part::Frozen, "frozen"), (Part::Head, "head")] {
            if self.drawing.blocks.iter().any(|block| block.part == part) {
                let [fill, stroke] = part.colours();
                writeln!(
                    f,
                    r#"<rect x="{x}" y="{y}" width="12" height="12" rx="3" fill="{fill}" stroke="{stroke}"/>"#
                )?;
                writeln!(f, r#"<text x="{}" y="{}">{text}</text>"#, x + 18.0, y + 10.0)?;
                x += 80.0;
            }
        }
        Ok(())
    }

    fn is_last(&self, block: usize) -> bool {
        self.drawing.edges.iter().all(|edge| edge.from != block)
    }

    fn height_of(&self, block: usize) -> f64 {
        block_size(&self.drawing.blocks[block])[1]
    }

    fn bottom(&self, block: usize) -> f64 {
        self.centre(block)[1] + self.height_of(block) / 2.0
    }
}

const LINE_COLOUR: &str = "#44515e";

/// Width and height.
fn block_size(block: &Block) -> [f64; 2] {
    let lines = block.lines();
    let title = lines.first().map_or(0.0, |line| 1.25 * text_width(line));
    let width = lines.iter().skip(1).map(|line| text_width(line)).fold(title, f64::max);
    let smallest = if block.modules.is_empty() { 40.0 } else { 150.0 };
    [(width + 2.5 * PADDING).max(smallest), lines.len() as f64 * LINE + PADDING]
}

/// About how wide a text is, in pixels, at the usual size: an SVG cannot measure.
fn text_width(text: &str) -> f64 {
    6.4 * text.chars().count() as f64
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
