//! The resizer against the definition: weighted sums in f64, without windows, bands or fixed point.

use engraft_data::{Image, Interpolation, resize};
use proptest::prelude::*;

fn weight(filter: Interpolation, x: f64) -> f64 {
    let x = x.abs();
    match filter {
        Interpolation::Bilinear => (1.0 - x).max(0.0),
        Interpolation::Bicubic if x < 1.0 => 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.0,
        Interpolation::Bicubic if x < 2.0 => -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4.0 * x + 2.0,
        Interpolation::Bicubic => 0.0,
    }
}

/// The weights of all source positions for one output position.
fn weights(filter: Interpolation, source: u32, target: u32, position: u32) -> Vec<f64> {
    let scale = f64::from(source) / f64::from(target);
    let centre = (f64::from(position) + 0.5) * scale;
    let all: Vec<f64> =
        (0..source).map(|x| weight(filter, (f64::from(x) + 0.5 - centre) / scale.max(1.0))).collect();
    let sum: f64 = all.iter().sum();
    all.into_iter().map(|weight| weight / sum).collect()
}

fn naive(image: &Image, width: u32, height: u32, filter: Interpolation) -> Vec<f64> {
    let mut output = Vec::new();
    for y in 0..height {
        let down = weights(filter, image.height, height, y);
        for x in 0..width {
            let across = weights(filter, image.width, width, x);
            for channel in 0..3 {
                let mut sum = 0.0;
                for (row, down) in down.iter().enumerate() {
                    for (column, across) in across.iter().enumerate() {
                        let index = (row * image.width as usize + column) * 3 + channel;
                        sum += f64::from(image.pixels[index]) * down * across;
                    }
                }
                output.push(sum);
            }
        }
    }
    output
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Levels of 64 to 192, so that the overshoot of the cubic is not clipped between the passes.
    #[test]
    fn resizing_is_the_weighted_sum(
        (width, height, pixels) in (1_u32..40, 1_u32..40).prop_flat_map(|(width, height)| {
            let levels = proptest::collection::vec(64_u8..192, (width * height * 3) as usize);
            (Just(width), Just(height), levels)
        }),
        to_width in 1_u32..40,
        to_height in 1_u32..40,
        bicubic: bool,
    ) {
        let filter = if bicubic { Interpolation::Bicubic } else { Interpolation::Bilinear };
        let image = Image { width, height, pixels };
        let resized = resize(&image, to_width, to_height, filter);
        let expected = naive(&image, to_width, to_height, filter);
        prop_assert_eq!(resized.pixels.len(), expected.len());
        for (got, expected) in resized.pixels.iter().zip(expected) {
            prop_assert!(got.abs_diff(expected.round() as u8) <= 1, "{got} is not {expected}");
        }
    }
}

#[test]
fn a_size_of_nothing_is_an_empty_picture() {
    let image = Image { width: 2, height: 2, pixels: vec![7; 12] };
    assert!(resize(&image, 0, 3, Interpolation::Bilinear).pixels.is_empty());
    assert!(resize(&image, 3, 0, Interpolation::Bicubic).pixels.is_empty());
    let nothing = Image { width: 0, height: 0, pixels: Vec::new() };
    assert_eq!(resize(&nothing, 1, 2, Interpolation::Bilinear).pixels, [0; 6]);
}
