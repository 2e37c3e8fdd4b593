//! Photos that are there more than once.

use engraft_train::{Split, Twin, Twins};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use Split::{Test, Train, Valid};

fn find(photos: &[(u8, Split, usize)]) -> Twins {
    Twins::find(photos.iter().map(|(content, split, label)| Some(([*content; 32], *split, *label))))
}

fn twins(pairs: &[(usize, usize)]) -> Vec<Twin> {
    pairs.iter().map(|(copy, of)| Twin { copy: *copy, of: *of }).collect()
}

#[test]
fn one_copy_stays_where_its_loss_would_hurt_most() {
    assert_eq!(find(&[(1, Train, 0), (2, Valid, 0), (3, Test, 1)]), Twins::default());
    // Twice in one split.
    let repeated = find(&[(1, Train, 0), (1, Train, 0), (2, Test, 0), (1, Train, 0), (2, Test, 0)]);
    assert_eq!(repeated.repeated, twins(&[(1, 0), (3, 0), (4, 2)]));
    assert_eq!((repeated.across.len(), repeated.contradicting.len()), (0, 0));
    // In the evaluation what was trained on; in validation what is in the test. Files are in the order of folders, not of precedence.
    let across =
        find(&[(1, Valid, 0), (1, Test, 0), (1, Train, 0), (2, Valid, 1), (2, Test, 1), (2, Valid, 1)]);
    assert_eq!(across.across, twins(&[(0, 2), (1, 2), (3, 4), (5, 4)]));
    assert_eq!(across.repeated, []);
    assert_eq!(across.left_out().collect::<Vec<_>>(), [0, 1, 3, 5]);
}

#[test]
fn contradicting_labels_leave_no_copy() {
    let photos = [(1, Train, 0), (2, Train, 1), (1, Train, 1), (3, Test, 0), (1, Valid, 0), (3, Valid, 2)];
    let found = find(&photos);
    assert_eq!(found.contradicting, [vec![0, 2, 4], vec![3, 5]]);
    assert_eq!((found.repeated.len(), found.across.len()), (0, 0));
    assert_eq!(found.left_out().collect::<Vec<_>>(), [0, 2, 4, 3, 5]);
}

#[test]
fn what_is_of_no_use_is_nobodys_twin() {
    assert_eq!(Twins::find([None, None]), Twins::default());
}

fn split() -> impl Strategy<Value = Split> {
    prop_oneof![Just(Train), Just(Valid), Just(Test)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, rng_seed: RngSeed::Fixed(2), ..ProptestConfig::default() })]

    /// Against a look at every pair.
    #[test]
    fn any_photos(photos in prop::collection::vec((0..12_u8, split(), prop_oneof![6 => Just(0), 1 => Just(1_usize)]), 0..40)) {
        let mut left_out: Vec<usize> = find(&photos).left_out().collect();
        left_out.sort_unstable();
        let mut expected = Vec::new();
        for (i, (content, split, label)) in photos.iter().enumerate() {
            let others = || photos.iter().enumerate().filter(|(j, (other, ..))| *j != i && other == content);
            let contradicts = photos.iter().filter(|(other, ..)| other == content).any(|(_, _, other)| other != label);
            let rank = |split: &Split| match split { Train => 0, Test => 1, Valid => 2 };
            let is_copy = others().any(|(j, (_, other, _))| (rank(other), j) < (rank(split), i));
            if contradicts || is_copy {
                expected.push(i);
            }
        }
        prop_assert_eq!(left_out, expected);
    }
}
