//! Distances between the tokens of a square window, as torchvision's Swin keeps them in its files
//! (`torchvision/models/swin_transformer.py`).

/// For each two tokens of a window, which entry of a table of distances is theirs: `window^4` numbers, the first token slowest.
pub fn relative_position_index(window: usize) -> Vec<i64> {
    let (window, distances) = (window as i64, 2 * window as i64 - 1);
    let place = |token: i64| [token / window, token % window];
    let tokens = window * window;
    let pairs = (0..tokens).flat_map(|a| (0..tokens).map(move |b| [place(a), place(b)]));
    pairs.map(|[a, b]| (a[0] - b[0] + window - 1) * distances + a[1] - b[1] + window - 1).collect()
}

/// All distances between tokens of a window on a logarithmic scale, `[1, 2 window - 1, 2 window - 1, 2]` (Swin V2, Liu et al. 2021,
/// arXiv 2111.09883).
pub(crate) fn relative_coords_table(window: usize) -> Vec<f32> {
    let largest = window as f32 - 1.0;
    let scaled = |step: usize| {
        let distance = (step as f32 - largest) / largest * 8.0;
        // As torch computes it: the sign of zero is zero.
        let sign = if distance == 0.0 { 0.0 } else { distance.signum() };
        sign * (distance.abs() + 1.0).log2() / 3.0
    };
    let steps = 0..2 * window - 1;
    steps.clone().flat_map(|y| steps.clone().flat_map(move |x| [scaled(y), scaled(x)])).collect()
}

/// The side of a window whose index has so many entries.
pub(crate) fn window_of_index(entries: usize) -> usize {
    (entries as f64).sqrt().sqrt().round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_torchvisions() {
        // ShiftedWindowAttention(4, [2, 2], [0, 0], 1).relative_position_index, torchvision 0.29.
        let expected = [4, 3, 1, 0, 5, 4, 2, 1, 7, 6, 4, 3, 8, 7, 5, 4];
        assert_eq!(relative_position_index(2), expected);
        assert_eq!(window_of_index(7 * 7 * 7 * 7), 7);
    }

    #[test]
    fn the_table_is_torchvisions() {
        // ShiftedWindowAttentionV2(4, [3, 3], [0, 0], 1).relative_coords_table[0, 0], torchvision 0.29.
        let table = relative_coords_table(3);
        let expected = [-1.056_641_6, -1.056_641_6, -1.056_641_6, -0.773_976, -1.056_641_6, 0.0];
        for (ours, torch) in table.iter().zip(expected) {
            assert!((ours - torch).abs() < 1e-6, "{ours} {torch}");
        }
        assert_eq!(table.len(), 5 * 5 * 2);
    }
}
