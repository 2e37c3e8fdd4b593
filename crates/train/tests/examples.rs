//! The one source of examples: rows, images, and features that no disk has room for.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Flatten, files_of, open, photos, transform};
use engraft_data::{Image, Notes, Sample};
use engraft_train::{ExampleBatch, Examples, FeatureStore, Frozen, Order, Row, TrainError};
use tempfile::TempDir;

const SIZE: usize = 8;
const WIDTH: usize = 3 * SIZE * SIZE;

struct Sandbox {
    _folder: TempDir,
    samples: Vec<Sample>,
    store: FeatureStore,
    frozen: Frozen,
}

impl Sandbox {
    fn new(count: usize) -> Sandbox {
        let folder = tempfile::tempdir().unwrap();
        let paths = photos(folder.path(), 0..count);
        let samples = paths.into_iter().enumerate().map(|(i, path)| Sample { path, label: i % 7 }).collect();
        let store = open(&folder.path().join("cache"), SIZE);
        Sandbox { _folder: folder, samples, store, frozen: Flatten::default().frozen(SIZE) }
    }

    /// Features of which those that `is_kept` says are in the store.
    fn features(&mut self, is_kept: impl Fn(usize) -> bool) -> Examples<'_> {
        let rows: Vec<Row> = (0..self.samples.len())
            .map(|i| match is_kept(i) {
                true => self.store.insert([i as u8; 32], Notes::default(), &expected(&self.samples[i].path)),
                false => Row::NONE,
            })
            .collect();
        let samples = rows.into_iter().zip(&self.samples);
        Examples::features(self.store.rows(), samples, &self.frozen, &transform(8))
    }
}

fn expected(path: &PathBuf) -> Vec<f32> {
    transform(8).apply(&Image::open(path).unwrap())
}

fn all(examples: &Examples<'_>, order: Order, batch_size: usize) -> Vec<ExampleBatch> {
    examples.batches(order, batch_size).map(Result::unwrap).collect()
}

const SHUFFLED: Order = Order::Shuffled { seed: 5, epoch: 2 };

#[test]
fn every_source_gives_the_same_examples() {
    let mut sandbox = Sandbox::new(50);
    let samples = sandbox.samples.clone();
    let inputs: Vec<Vec<f32>> = samples.iter().map(|sample| expected(&sample.path)).collect();
    let check = |examples: &Examples<'_>, shape: &[usize]| {
        assert_eq!((examples.len(), examples.shape()), (50, shape));
        for (order, batch_size) in [(Order::Sequential, 8), (SHUFFLED, 8), (SHUFFLED, 64), (SHUFFLED, 1)] {
            let mut order_of_examples = Vec::new();
            for batch in all(examples, order, batch_size) {
                assert_eq!(batch.input.shape, [&[batch.indices.len()], shape].concat());
                assert!(batch.failed.is_empty() && batch.indices.len() <= batch_size);
                let rows = batch.input.as_f32().unwrap().chunks(WIDTH);
                for ((i, label), row) in batch.indices.iter().zip(&batch.labels).zip(rows) {
                    assert!(row == inputs[*i] && *label == i % 7, "{i}");
                }
                order_of_examples.extend(batch.indices);
            }
            assert!(order.windows(50).flatten().eq(order_of_examples));
        }
    };
    check(&Examples::images(samples, &transform(8)), &[3, SIZE, SIZE]);
    for kept in [|_| true, |_| false, |i: usize| i.is_multiple_of(3)] {
        check(&sandbox.features(kept), &[WIDTH]);
    }
}

#[test]
fn a_rest_of_one_is_joined_with_the_batch_before_in_training_alone() {
    let mut sandbox = Sandbox::new(17);
    let images = Examples::images(sandbox.samples.clone(), &transform(8));
    let sizes = |examples: &Examples<'_>, order, batch_size| -> Vec<usize> {
        all(examples, order, batch_size).iter().map(|batch| batch.indices.len()).collect()
    };
    let check = |examples: &Examples<'_>| {
        assert_eq!(sizes(examples, SHUFFLED, 8), [8, 9]);
        assert_eq!(sizes(examples, SHUFFLED, 5), [5, 5, 5, 2]);
        assert_eq!(sizes(examples, SHUFFLED, 16), [17]);
        assert_eq!(sizes(examples, Order::Sequential, 8), [8, 8, 1]);
        assert_eq!(sizes(examples, Order::Sequential, 0), [1; 17]);
    };
    check(&images);
    check(&sandbox.features(|_| true));
    check(&sandbox.features(|i| i < 9));
    assert_eq!(
        sizes(&Sandbox::new(1).features(|_| true), SHUFFLED, 8),
        [1],
        "there is nothing to join it with"
    );
    assert_eq!(sizes(&Sandbox::new(0).features(|_| true), SHUFFLED, 8), [0; 0]);
    assert_eq!(sizes(&Examples::images(Vec::new(), &transform(8)), SHUFFLED, 8), [0; 0]);
}

#[test]
fn a_photo_that_vanishes_is_named_and_the_others_come() {
    let mut sandbox = Sandbox::new(20);
    let samples = sandbox.samples.clone();
    fs::remove_file(&samples[3].path).unwrap();
    fs::write(&samples[19].path, "no photo any more").unwrap();
    let images = Examples::images(samples.clone(), &transform(8));
    // The others of the half that is computed.
    let check = |examples: &Examples<'_>| {
        for order in [Order::Sequential, SHUFFLED] {
            let batches = all(examples, order, 4);
            let mut failed: Vec<_> = batches.iter().flat_map(|batch| &batch.failed).collect();
            failed.sort();
            assert_eq!(failed.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [3, 19]);
            for (i, reason) in failed {
                assert!(reason.starts_with(&samples[*i].path.display().to_string()), "{reason}");
            }
            let mut came: Vec<usize> = batches.iter().flat_map(|batch| batch.indices.clone()).collect();
            came.sort_unstable();
            assert!(came.into_iter().eq((0..19).filter(|i| *i != 3)));
            assert!(batches.iter().all(|batch| !batch.indices.is_empty()), "no batch is without examples");
        }
        let lost = examples.batches(Order::Sequential, 4).map(|batch| batch?.whole());
        let lost = lost.collect::<Result<Vec<_>, _>>();
        assert!(matches!(lost, Err(TrainError::Lost(reason)) if reason.contains("cannot read the file")));
    };
    check(&images);
    check(&sandbox.features(|i| i.is_multiple_of(2)));
    for sample in &samples {
        let _ = fs::remove_file(&sample.path);
    }
    let batches = all(&images, SHUFFLED, 4);
    assert_eq!((batches.len(), batches[0].indices.len(), batches[0].failed.len()), (1, 0, 20));
}

#[test]
fn rows_that_the_disk_gives_no_more_are_named() {
    let mut sandbox = Sandbox::new(40);
    let cache = sandbox.store.folder().unwrap().to_owned();
    let examples = sandbox.features(|_| true);
    let rows = fs::File::options().write(true).open(&files_of(&cache, "rows")[0]).unwrap();
    rows.set_len(30 * 4 * WIDTH as u64 + 9).unwrap();
    let batches = all(&examples, Order::Sequential, 16);
    let failed: Vec<usize> = batches.iter().flat_map(|batch| &batch.failed).map(|(i, _)| *i).collect();
    assert!(failed.into_iter().eq(30..40));
    assert_eq!(batches.iter().map(|batch| batch.indices.len()).sum::<usize>(), 30);
}

#[test]
fn whoever_stops_in_the_middle_waits_for_nothing() {
    let mut sandbox = Sandbox::new(50);
    let images = Examples::images(sandbox.samples.clone(), &transform(8));
    assert_eq!(images.batches(SHUFFLED, 4).take(2).count(), 2);
    let features = sandbox.features(|_| true);
    assert_eq!(features.batches(SHUFFLED, 4).take(2).count(), 2);
    assert_eq!(features.batches(SHUFFLED, 4).count(), 13);
}

#[test]
fn rows_come_in_their_order_whichever_thread_reads_them() {
    // More than a window, and more batches than are read ahead.
    const EXAMPLES: usize = (1 << 16) + 1000;
    let values = (0..2 * EXAMPLES).map(|value| value as f32).collect();
    let examples = Examples::in_memory(vec![2], values, vec![0; EXAMPLES]);
    for order in [Order::Sequential, SHUFFLED] {
        let mut came = Vec::new();
        for batch in examples.batches(order, 100) {
            let batch = batch.unwrap();
            let rows = batch.indices.iter().flat_map(|i| [(2 * i) as f32, (2 * i + 1) as f32]);
            assert!(rows.eq(batch.input.as_f32().unwrap().iter().copied()));
            assert!(batch.indices.len() == 100 || came.len() + batch.indices.len() == EXAMPLES);
            came.extend(batch.indices);
        }
        assert!(order.windows(EXAMPLES).flatten().eq(came));
    }
}
