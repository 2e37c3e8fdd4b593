//! How a product is divided among threads and caches.

use std::ops::Range;

use crate::Level;

/// Blocks of rows that stay in the second-level cache, by ranges of panels.
pub(crate) struct Blocks {
    m: usize,
    rows: usize,
    panels: usize,
    panels_a_task: usize,
}

/// Values of the left operand that stay in the cache of the second level, beside a panel.
const BLOCK_VALUES: usize = 48 << 10;

/// Tiles of the highest block: more rows would not make the panels' way to the first-level cache any cheaper.
const MOST_TILES: usize = 16;

impl Blocks {
    /// For `m` rows, each of which brings `row_values` values of its own into the cache, by `panels` panels.
    pub(crate) fn new(level: Level, threads: usize, m: usize, row_values: usize, panels: usize) -> Blocks {
        let tile = level.tile_rows();
        let rows = (BLOCK_VALUES / row_values.max(1)).clamp(2 * tile, MOST_TILES * tile);
        let even = m.div_ceil(m.div_ceil(rows)).next_multiple_of(tile);
        let blocks = m.div_ceil(even);
        // Enough tasks that no thread waits long for the last one, and of such a size that the threads get
        // equally many.
        let panels_a_task = |tasks: usize| panels.div_ceil((tasks * threads).div_ceil(blocks)).max(1);
        let time = |size: usize| (blocks * panels.div_ceil(size)).div_ceil(threads) * size;
        let sizes = panels_a_task(8)..=panels_a_task(3);
        let size =
            if threads == 1 { panels } else { sizes.rev().min_by_key(|size| time(*size)).unwrap_or(1) };
        Blocks { m, rows: even, panels, panels_a_task: size }
    }

    /// How many tasks there are.
    pub(crate) fn tasks(&self) -> usize {
        self.m.div_ceil(self.rows) * self.panels.div_ceil(self.panels_a_task)
    }

    /// The rows and the panels of a task. Tasks that follow each other share their rows.
    pub(crate) fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let columns = self.panels.div_ceil(self.panels_a_task);
        let row = (task / columns) * self.rows;
        let panel = (task % columns) * self.panels_a_task;
        (row..(row + self.rows).min(self.m), panel..(panel + self.panels_a_task).min(self.panels))
    }
}
