//! What an attention needs besides its projections: position biases, and which pixels form a window.

use engraft_engine::{EngineError, relative_position_index};
use engraft_graph::{Attention, PositionBias, Windows};
use engraft_kernels::TokenRows;

/// What is added to the scores for the distance of two tokens, `[heads, tokens, tokens]`. `tensor` gives a tensor of the module.
///
/// # Errors
/// Those of `tensor`.
pub(crate) fn position_bias(
    op: &Attention,
    tensor: &mut dyn FnMut(&str) -> Result<Vec<f32>, EngineError>,
) -> Result<Option<Vec<f32>>, EngineError> {
    let (window, table) = match op.position {
        PositionBias::None => return Ok(None),
        PositionBias::Table { window, .. } => (window, tensor("relative_position_bias_table")?),
        PositionBias::Network { window } => (window, network(op.heads, tensor)?),
    };
    let index = relative_position_index(window);
    let of_head = |head| index.iter().map(move |entry| *entry as usize * op.heads + head);
    Ok(Some((0..op.heads).flat_map(of_head).map(|place| table[place]).collect()))
}

/// Swin V2's table of biases `[distances, heads]`: sixteen times the sigmoid of a small network (Liu et al. 2021, arXiv 2111.09883).
fn network(
    heads: usize,
    tensor: &mut dyn FnMut(&str) -> Result<Vec<f32>, EngineError>,
) -> Result<Vec<f32>, EngineError> {
    let coordinates = tensor("relative_coords_table")?;
    let weight = tensor("cpb_mlp.0.weight")?;
    let bias = tensor("cpb_mlp.0.bias")?;
    let out = tensor("cpb_mlp.2.weight")?;
    let mut table = Vec::new();
    for place in coordinates.chunks(2) {
        let unit = |unit: usize| {
            let sum =
                weight[2 * unit] as f64 * place[0] as f64 + weight[2 * unit + 1] as f64 * place[1] as f64;
            (sum + bias[unit] as f64).max(0.0)
        };
        let hidden: Vec<f64> = (0..bias.len()).map(unit).collect();
        for weights in out.chunks(bias.len()).take(heads) {
            let sum: f64 = hidden.iter().zip(weights).map(|(x, weight)| x * *weight as f64).sum();
            table.push((16.0 / (1.0 + (-sum).exp())) as f32);
        }
    }
    Ok(table)
}

/// Which pixels of `[height, width]` form which window.
pub(crate) struct WindowTable {
    /// Of an image.
    pub(crate) pixels: usize,
    /// Windows of an image.
    pub(crate) windows: usize,
    /// Tokens of a window.
    pub(crate) tokens: usize,
    /// The pixel of each token of each window.
    pub(crate) rows: TokenRows,
    /// What is added to the scores so that tokens that the shift brought together do not see each other: `[windows, tokens,
    /// tokens]`; none if nothing is shifted.
    pub(crate) mask: Option<Vec<f32>>,
}

/// Windows of an image (`torchvision/models/swin_transformer.py`, `shifted_window_attention`).
pub(crate) fn window_table(windows: Windows, [height, width]: [usize; 2]) -> WindowTable {
    let side = windows.side;
    let padded = [height, width].map(|size| size.next_multiple_of(side));
    let shift = padded.map(|size| if size > side { windows.shift } else { 0 });
    // The regions of an axis: what stays, the last window's part before the seam, and behind it.
    let region = |place: usize, size: usize, shift: usize| match place {
        _ if place < size - side => 0,
        _ if shift == 0 || place < size - shift => 1,
        _ => 2,
    };
    let mut rows = Vec::with_capacity(padded[0] * padded[1]);
    let mut mask = Vec::new();
    for top in (0..padded[0]).step_by(side) {
        for left in (0..padded[1]).step_by(side) {
            let places: Vec<[usize; 2]> =
                (0..side * side).map(|token| [top + token / side, left + token % side]).collect();
            for [y, x] in &places {
                let [y, x] = [(y + shift[0]) % padded[0], (x + shift[1]) % padded[1]];
                rows.push(if y < height && x < width { (y * width + x) as u32 } else { TokenRows::PADDING });
            }
            let regions: Vec<_> = places
                .iter()
                .map(|[y, x]| (region(*y, padded[0], shift[0]), region(*x, padded[1], shift[1])))
                .collect();
            for a in &regions {
                mask.extend(regions.iter().map(|b| if a == b { 0.0 } else { -100.0 }));
            }
        }
    }
    let shifted = shift != [0, 0];
    WindowTable {
        pixels: height * width,
        windows: padded[0] * padded[1] / (side * side),
        tokens: side * side,
        rows: TokenRows::new(rows, height * width),
        mask: shifted.then_some(mask),
    }
}

impl WindowTable {
    /// Whether a window has tokens that are padding.
    pub(crate) fn is_padded(&self) -> bool {
        self.windows * self.tokens > self.pixels
    }
}
