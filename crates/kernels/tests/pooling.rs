//! Pooling and layouts against loops in f64.

mod common;

use common::{most, values};
use engraft_kernels::{
    Level, Maps, MapsMut, MapsShape, Pool, PoolGeometry, adaptive_avg_pool, avg_pool, max_pool, strided_copy,
    to_channels_last,
};
use proptest::prelude::*;

/// A shape, the gap between pixels, and windows.
fn cases() -> impl Strategy<Value = (MapsShape, usize, PoolGeometry)> {
    let sizes = (1usize..4, 1..most(20), 1..most(20), 1..most(70), 0usize..4);
    (sizes, 1usize..5, 1usize..4).prop_filter_map(
        "no window",
        |((batch, height, width, channels, gap), kernel, stride)| {
            let window = PoolGeometry { kernel, stride, padding: kernel / 2 };
            let fits = height.min(width) + 2 * window.padding >= kernel;
            fits.then_some((MapsShape { batch, height, width, channels }, gap, window))
        },
    )
}

/// The windows of an axis: places within it, and how many count.
type Windows = Vec<(Vec<usize>, usize)>;

fn windows(size: usize, window: PoolGeometry, count_include_pad: bool) -> Windows {
    let outputs = (size + 2 * window.padding - window.kernel) / window.stride + 1;
    let one = |place: usize| {
        let taps = (0..window.kernel).map(|tap| place * window.stride + tap);
        let inside: Vec<usize> =
            taps.filter_map(|at| at.checked_sub(window.padding).filter(|at| *at < size)).collect();
        let count = if count_include_pad { window.kernel } else { inside.len() };
        (inside, count)
    };
    (0..outputs).map(one).collect()
}

fn adaptive_windows(size: usize, outputs: usize) -> Windows {
    let one = |place: usize| {
        let begin = (place as f64 * size as f64 / outputs as f64).floor() as usize;
        let end = ((place + 1) as f64 * size as f64 / outputs as f64).ceil() as usize;
        ((begin..end).collect(), end - begin)
    };
    (0..outputs).map(one).collect()
}

/// Compares a pool with the loop over these windows, on all levels and on several threads.
fn check(
    shape: MapsShape,
    gap: usize,
    [down, across]: [&Windows; 2],
    max: bool,
    run: impl Fn(Level, &Pool, Maps<'_>, MapsMut<'_>),
) -> Result<(), TestCaseError> {
    let stride = shape.channels + gap;
    let input = values(shape.pixels() * stride, 1);
    let out = MapsShape { height: down.len(), width: across.len(), ..shape };
    for level in Level::all() {
        let of_threads = |threads| {
            let mut output = vec![9.0; out.pixels() * stride];
            let maps = MapsMut { values: &mut output, shape: out, stride };
            run(level, &Pool::new(threads), Maps { values: &input, shape, stride }, maps);
            output
        };
        let output = of_threads(1);
        for (i, value) in output.iter().enumerate() {
            let (pixel, c) = (i / stride, i % stride);
            let (image, y, x) =
                (pixel / out.width / out.height, pixel / out.width % out.height, pixel % out.width);
            let at = |y: usize, x: usize| {
                input[((image * shape.height + y) * shape.width + x) * stride + c] as f64
            };
            let inside = down[y].0.iter().flat_map(|y| across[x].0.iter().map(|x| at(*y, *x)));
            let expected = match (c < shape.channels, max) {
                (false, _) => 9.0,
                (true, true) => inside.fold(f64::NEG_INFINITY, f64::max),
                (true, false) => inside.sum::<f64>() / (down[y].1 * across[x].1) as f64,
            };
            prop_assert!((*value as f64 - expected).abs() < 1e-6, "{level}, {i}: {value}, not {expected}");
        }
        prop_assert!(of_threads(2) == output && of_threads(3) == output, "{level}: threads");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(100), failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn max_pools((shape, gap, window) in cases()) {
        let axes = [shape.height, shape.width].map(|size| windows(size, window, false));
        check(shape, gap, axes.each_ref(), true, |level, pool, input, output| {
            max_pool(level, pool, input, window, output);
        })?;
    }

    #[test]
    fn average_pools((shape, gap, window) in cases(), count_include_pad in any::<bool>()) {
        let axes = [shape.height, shape.width].map(|size| windows(size, window, count_include_pad));
        check(shape, gap, axes.each_ref(), false, |level, pool, input, output| {
            avg_pool(level, pool, input, window, count_include_pad, output);
        })?;
    }

    #[test]
    fn adaptive_pools((shape, gap, _) in cases(), outputs in (1usize..9, 1usize..9)) {
        let axes = [adaptive_windows(shape.height, outputs.0), adaptive_windows(shape.width, outputs.1)];
        check(shape, gap, axes.each_ref(), false, adaptive_avg_pool)?;
    }

    #[test]
    fn layouts((shape, gap, _) in cases()) {
        let stride = shape.channels + gap;
        let (pixels, input) = (shape.height * shape.width, values(shape.pixels() * shape.channels, 1));
        let mut output = vec![9.0; shape.pixels() * stride];
        to_channels_last(&Pool::new(2), &input, MapsMut { values: &mut output, shape, stride });
        for (i, value) in output.iter().enumerate() {
            let (pixel, c) = (i / stride, i % stride);
            let (image, place) = (pixel / pixels, pixel % pixels);
            let expected =
                if c < shape.channels { input[(image * shape.channels + c) * pixels + place] } else { 9.0 };
            prop_assert_eq!(*value, expected);
        }
    }

    #[test]
    fn strided_copies(sizes in prop::collection::vec(1usize..7, 0..5), axes in any::<[usize; 5]>(), gap in 0usize..3) {
        // Any order of the axes in the input, and a gap between the places of the output's last axis.
        let axis_count = sizes.len();
        let mut order: Vec<usize> = (0..axis_count).collect();
        (0..axis_count).for_each(|i| order.swap(i, axes[i] % axis_count));
        let strides = |order: &[usize], mut stride: usize| {
            let mut strides = vec![0; axis_count];
            for &axis in order.iter().rev() {
                strides[axis] = stride;
                stride *= sizes[axis];
            }
            strides
        };
        let (from_strides, to_strides) =
            (strides(&order, 1), strides(&(0..axis_count).collect::<Vec<_>>(), 1 + gap));
        let count: usize = sizes.iter().product();
        let (input, mut output) = (values(count, 1), vec![9.0; count * (1 + gap)]);
        strided_copy(&Pool::new(2), &sizes, (&input, &from_strides), (&mut output, &to_strides));
        let mut expected = vec![9.0; count * (1 + gap)];
        for i in 0..count {
            let place = |strides: &[usize]| {
                let mut rest = i;
                (0..axis_count).rev().map(|axis| {
                    let index = rest % sizes[axis];
                    rest /= sizes[axis];
                    index * strides[axis]
                }).sum::<usize>()
            };
            expected[place(&to_strides)] = input[place(&from_strides)];
        }
        prop_assert_eq!(output, expected);
    }
}

/// A NaN at every place of the input in turn, among infinities: PyTorch's `if value > largest or isnan(value)`.
#[test]
fn max_pools_keep_nan() {
    // More than a vector of every width, and a rest.
    let shape = MapsShape { batch: 1, height: 6, width: 7, channels: 37 };
    let window = PoolGeometry { kernel: 3, stride: 2, padding: 1 };
    let [down, across] = [6, 7].map(|size| windows(size, window, false));
    let out = MapsShape { height: down.len(), width: across.len(), ..shape };
    let mut input = values(shape.pixels() * shape.channels, 1);
    for (i, value) in input.iter_mut().enumerate() {
        match i % 11 {
            3 => *value = f32::NEG_INFINITY,
            7 => *value = f32::INFINITY,
            _ => {}
        }
    }
    for place in (0..shape.pixels()).step_by(if cfg!(miri) { 9 } else { 1 }) {
        let mut input = input.clone();
        // Not in all channels.
        for c in (place % 3..shape.channels).step_by(3) {
            input[place * shape.channels + c] = f32::NAN;
        }
        let mut expected = Vec::new();
        for (rows, _) in &down {
            for (columns, _) in &across {
                for c in 0..shape.channels {
                    let mut largest = f32::NEG_INFINITY;
                    for (y, x) in rows.iter().flat_map(|y| columns.iter().map(move |x| (y, x))) {
                        let value = input[(y * shape.width + x) * shape.channels + c];
                        if value > largest || value.is_nan() {
                            largest = value;
                        }
                    }
                    expected.push(largest);
                }
            }
        }
        assert!(expected.iter().any(|value| value.is_nan()));
        for level in Level::all() {
            let mut output = vec![9.0; expected.len()];
            let maps = Maps::new(&input, shape);
            max_pool(level, &Pool::new(1), maps, window, MapsMut::new(&mut output, out));
            let same = |(a, b): (&f32, &f32)| a == b || a.is_nan() && b.is_nan();
            assert!(output.iter().zip(&expected).all(same), "{level}: NaN at place {place}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn many_blocks_are_copied() {
    let shape = [40, 30, 50, 7];
    let input = values(shape.iter().product(), 1);
    let mut output = vec![0.0; input.len()];
    let strides = [50 * 30 * 7, 1, 30, 50 * 30];
    strided_copy(&Pool::new(3), &shape, (&input, &strides), (&mut output, &[10500, 350, 7, 1]));
    for (i, value) in output.iter().enumerate() {
        let place = i / 10500 * 10500 + i / 350 % 30 + i / 7 % 50 * 30 + i % 7 * 1500;
        assert_eq!(*value, input[place]);
    }
}

#[test]
#[should_panic(expected = "places are written twice")]
fn a_copy_to_axes_that_overlap() {
    strided_copy(&Pool::new(1), &[2, 3], (&[0.0; 6], &[3, 1]), (&mut [0.0; 6], &[2, 1]));
}
