//! The order of examples: each once, at random, a function of seed and epoch.

use engraft_train::Order;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn order(seed: u64, epoch: u64, n: usize) -> Vec<usize> {
    Order::Shuffled { seed, epoch }.windows(n).flatten().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn each_example_is_used_once(n in 0..300_000_usize, seed: u64, epoch in 1..1000_u64) {
        prop_assert!(Order::Sequential.windows(n).flatten().eq(0..n));
        let shuffled = order(seed, epoch, n);
        let mut used = vec![false; n];
        for i in &shuffled {
            prop_assert!(!std::mem::replace(&mut used[*i], true), "{i} is used twice");
        }
        prop_assert_eq!(shuffled.len(), n);
        prop_assert_eq!(shuffled, order(seed, epoch, n));
    }
}

#[test]
fn windows_are_of_whole_blocks_and_bounded() {
    for n in [1, 15, 16, 65_536, 65_537, 250_001] {
        let windows: Vec<Vec<usize>> = Order::Shuffled { seed: 3, epoch: 1 }.windows(n).collect();
        assert_eq!(windows.len(), n.div_ceil(65_536), "{n}");
        for mut window in windows {
            assert!(window.len() <= 65_536);
            window.sort_unstable();
            for block in window.chunk_by(|a, b| a / 16 == b / 16) {
                assert_eq!(block.len(), 16.min(n - block[0] / 16 * 16), "a block is in one window");
            }
        }
    }
}

#[test]
fn seeds_and_epochs_differ_and_nothing_is_where_it_was() {
    let n = 10_000;
    let orders = [order(0, 1, n), order(0, 2, n), order(1, 1, n), order(2, 1, n)];
    for (i, order) in orders.iter().enumerate() {
        assert!(orders[..i].iter().all(|other| other != order), "{i}");
        // Of a random order the expected number is one, and the number of ascending neighbours half of them.
        assert!(order.iter().enumerate().filter(|(place, i)| place == *i).count() < 8);
        let ascending = order.windows(2).filter(|pair| pair[0] < pair[1]).count() as f64;
        assert!((ascending / n as f64 - 0.5).abs() < 0.02, "{ascending}");
    }
}

/// Of a million photos sorted by class, each window has its share of each class.
#[test]
fn sorted_classes_are_mixed() {
    let (n, classes) = (1_000_000, 100);
    for window in (Order::Shuffled { seed: 0, epoch: 1 }).windows(n).filter(|window| window.len() == 65_536) {
        let mut counts = vec![0; classes];
        window.iter().for_each(|i| counts[i * classes / n] += 1);
        // 655 on average, in blocks of 16: 41 blocks, give or take 6.4.
        assert!(counts.iter().all(|count| (655 - 5 * 103..655 + 5 * 103).contains(count)), "{counts:?}");
        let first = window[..640].iter().map(|i| i * classes / n).collect::<std::collections::HashSet<_>>();
        assert!(first.len() > 90, "{}", first.len());
    }
}
