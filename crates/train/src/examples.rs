//! Labelled examples in batches, pulled by whoever needs them: rows of the feature store, or images decoded as they are needed.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use engraft_data::{Batches, Failed, Sample, Transform};
use engraft_tensor::Tensor;

use crate::order::Windows;
use crate::store::{Row, Rows};
use crate::{Frozen, Order, TrainError};

/// Threads that read rows, each with a batch in memory. Two were measured; whether more than four gain anything is not known.
const MOST_READERS: usize = 4;

/// Batches of rows that are read ahead, where they are small, so that a reader that has to wait for a core holds up nobody.
const MOST_AHEAD: usize = 16;

/// How large they may be together, unless a batch for each thread is more.
const AHEAD_BYTES: usize = 32 << 20;

/// What a network is trained, evaluated or run on.
pub struct Examples<'a> {
    /// Of one example.
    shape: Vec<usize>,
    labels: Vec<usize>,
    source: Source<'a>,
}

enum Source<'a> {
    /// All in the store.
    Rows { rows: Arc<[Row]>, store: Rows },
    /// Decoded at every pass.
    Images { paths: Vec<PathBuf>, transform: Transform },
    /// Features that are computed at every pass, at least in part.
    Computed(ComputedSource<'a>),
}

/// Some examples.
#[derive(Debug)]
pub struct ExampleBatch {
    /// `[batch, ..]`. Without examples only if all that are left have failed.
    pub input: Tensor,
    /// One an example.
    pub labels: Vec<usize>,
    /// The numbers of the examples.
    pub indices: Vec<usize>,
    /// Examples that were to come by now and cannot be used any more: the number, and why, as a sentence with the path.
    pub failed: Vec<(usize, String)>,
}

impl ExampleBatch {
    /// The batch, if no example has failed.
    ///
    /// # Errors
    /// Names the first that has.
    pub fn whole(self) -> Result<ExampleBatch, TrainError> {
        match self.failed.first() {
            None => Ok(self),
            Some((_, reason)) => Err(TrainError::Lost(reason.clone())),
        }
    }
}

impl<'a> Examples<'a> {
    /// Images, which are decoded at every pass.
    pub fn images(samples: Vec<Sample>, transform: &Transform) -> Examples<'static> {
        let crop = transform.crop as usize;
        let (paths, labels) = samples.into_iter().map(|sample| (sample.path, sample.label)).unzip();
        let source = Source::Images { paths, transform: transform.clone() };
        Examples { shape: vec![3, crop, crop], labels, source }
    }

    /// Features: rows of a store, and where one is nowhere, what `frozen` computes of its photo at every pass.
    pub fn features<'b>(
        store: &Rows,
        samples: impl IntoIterator<Item = (Row, &'b Sample)>,
        frozen: &'a Frozen,
        transform: &Transform,
    ) -> Examples<'a> {
        let mut rows = Vec::new();
        let mut labels = Vec::new();
        let mut paths = Vec::new();
        let mut all_kept = true;
        for (row, sample) in samples {
            rows.push(row);
            labels.push(sample.label);
            all_kept &= row.is_kept();
            // The others' are not needed.
            paths.push(if row.is_kept() { PathBuf::new() } else { sample.path.clone() });
        }
        let source = match all_kept {
            true => Source::Rows { rows: rows.into(), store: store.clone() },
            false => {
                let (store, transform) = (store.clone(), transform.clone());
                Source::Computed(ComputedSource { rows, store, paths, transform, frozen })
            }
        };
        Examples { shape: store.shape().to_vec(), labels, source }
    }

    /// Examples of a shape, one after another in `values`.
    ///
    /// # Panics
    /// If there are not as many values as the labels and the shape say.
    pub fn in_memory(shape: Vec<usize>, values: Vec<f32>, labels: Vec<usize>) -> Examples<'static> {
        let (store, rows) = Rows::in_memory(shape.clone(), values, labels.len());
        Examples { shape, labels, source: Source::Rows { rows: rows.into(), store } }
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True when there is no example.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The labels of all examples, by their numbers.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The shape of one example.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where the features are, if all examples are rows of a store.
    pub fn rows(&self) -> Option<(&[Row], &Rows)> {
        match &self.source {
            Source::Rows { rows, store } => Some((rows, store)),
            _ => None,
        }
    }

    /// One pass: batches in an order, got ready on other threads while the caller computes. A `batch_size` of 0 is taken as 1.
    ///
    /// All batches but the last are of one size, unless examples fail. In a shuffled order, that of training, a last batch of a single example
    /// is joined with the batch before it: a batch norm learns nothing from one.
    pub fn batches(&self, order: Order, batch_size: usize) -> ExampleBatches<'_> {
        let batch_size = batch_size.max(1);
        let least = if order == Order::Sequential { 1 } else { batch_size.min(2) };
        let reader = match &self.source {
            Source::Rows { rows, store } => {
                Reader::Rows(read_rows(store.clone(), Arc::clone(rows), order, batch_size))
            }
            Source::Images { paths, transform } => {
                let order: Vec<usize> = order.windows(self.len()).flatten().collect();
                let paths = order.iter().map(|i| paths[*i].clone()).collect();
                Reader::Images { batches: Batches::new(paths, transform.clone(), batch_size), order }
            }
            Source::Computed(source) => Reader::Computed(source.start(order)),
        };
        ExampleBatches { examples: self, reader, batch_size, least, held: None }
    }
}

/// One pass over examples: see [`Examples::batches`].
pub struct ExampleBatches<'a> {
    examples: &'a Examples<'a>,
    reader: Reader<'a>,
    batch_size: usize,
    /// A last batch of fewer examples is joined with the one before.
    least: usize,
    /// The batch after the one that was handed out last.
    held: Option<Batch>,
}

enum Reader<'a> {
    Rows(Receiver<Receiver<Batch>>),
    Images { batches: Batches, order: Vec<usize> },
    Computed(Computed<'a>),
}

/// A batch on its way.
#[derive(Default)]
struct Batch {
    indices: Vec<usize>,
    values: Vec<f32>,
    failed: Vec<(usize, String)>,
}

impl Iterator for ExampleBatches<'_> {
    type Item = Result<ExampleBatch, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.held.take() {
            Some(batch) => Ok(Some(batch)),
            None => self.read(),
        };
        let following = match &batch {
            Ok(Some(_)) => self.read(),
            _ => Ok(None),
        };
        match (batch, following) {
            (Err(error), _) | (_, Err(error)) => Some(Err(error)),
            (Ok(None), _) => None,
            (Ok(Some(mut batch)), Ok(following)) => {
                // All but the last have examples.
                self.held = following;
                if let Some(last) = self.held.take_if(|held| held.indices.len() < self.least) {
                    batch.indices.extend(last.indices);
                    batch.values.extend(last.values);
                    batch.failed.extend(last.failed);
                }
                Some(Ok(self.finish(batch)))
            }
        }
    }
}

impl ExampleBatches<'_> {
    /// The next batch. One of few examples is the last.
    fn read(&mut self) -> Result<Option<Batch>, TrainError> {
        let mut all = Batch::default();
        loop {
            let next = match &mut self.reader {
                Reader::Rows(batches) => {
                    let read = |batch: Receiver<Batch>| batch.recv().expect("who takes a batch reads it");
                    batches.recv().ok().map(read)
                }
                Reader::Images { batches, order } => batches.next().map(|batch| Batch {
                    indices: batch.pictures.iter().map(|picture| order[picture.index]).collect(),
                    values: batch.images,
                    failed: failures(batch.failed).map(|(i, reason)| (order[i], reason)).collect(),
                }),
                Reader::Computed(computed) => computed.next(self.batch_size)?,
            };
            let Some(mut next) = next else {
                return Ok((!all.failed.is_empty()).then_some(all));
            };
            next.failed.splice(0..0, std::mem::take(&mut all.failed));
            if !next.indices.is_empty() {
                return Ok(Some(next));
            }
            all = next;
        }
    }

    fn finish(&self, Batch { indices, values, failed }: Batch) -> ExampleBatch {
        let shape = [&[indices.len()], self.examples.shape.as_slice()].concat();
        let labels = indices.iter().map(|i| self.examples.labels[*i]).collect();
        ExampleBatch { input: Tensor::f32(shape, values), labels, indices, failed }
    }
}

fn failures(failed: Vec<Failed>) -> impl Iterator<Item = (usize, String)> {
    failed.into_iter().map(|failed| (failed.index, failed.error.to_string()))
}

/// Starts to gather rows from where they lie on the disk to where the engine takes them, on threads of their own. Batches come in the order
/// in which they were taken from the plan, whichever is read first.
fn read_rows(store: Rows, rows: Arc<[Row]>, order: Order, batch_size: usize) -> Receiver<Receiver<Batch>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let readers = cores.min(MOST_READERS).min(rows.len().div_ceil(batch_size));
    let batch_bytes = batch_size.min(rows.len()).saturating_mul(store.width() * size_of::<f32>());
    let ahead = (AHEAD_BYTES / batch_bytes.max(1)).min(MOST_AHEAD).max(readers);
    let (queue, batches) = sync_channel(ahead);
    let plan = Plan::new(store.clone(), Arc::clone(&rows), order, batch_size);
    let plan = Arc::new(Mutex::new((plan, queue)));
    for _ in 0..readers {
        let (plan, store, rows) = (Arc::clone(&plan), store.clone(), Arc::clone(&rows));
        // The next batch, and where it is waited for. While enough is read ahead, one thread waits here and the others for it.
        let take = move || {
            let mut plan = plan.lock().unwrap_or_else(PoisonError::into_inner);
            let (plan, queue) = &mut *plan;
            let indices = plan.next()?;
            let (sender, batch) = sync_channel(1);
            queue.send(batch).ok()?;
            Some((indices, sender))
        };
        thread::spawn(move || {
            while let Some((indices, sender)) = take() {
                // Nobody may wait for it any more: then there is nothing more to take either.
                let _ = sender.send(gather(&store, &rows_of(&rows, &indices), indices));
            }
        });
    }
    batches
}

fn rows_of(rows: &[Row], indices: &[usize]) -> Vec<Row> {
    indices.iter().map(|i| rows[*i]).collect()
}

/// Which examples the next batches have.
struct Plan {
    store: Rows,
    rows: Arc<[Row]>,
    windows: Windows,
    /// Those of the window that is used now.
    indices: VecDeque<usize>,
    /// The window after that, which the disk reads meanwhile.
    following: Option<Vec<usize>>,
    batch_size: usize,
}

impl Plan {
    fn new(store: Rows, rows: Arc<[Row]>, order: Order, batch_size: usize) -> Plan {
        let windows = order.windows(rows.len());
        let mut plan = Plan { store, rows, windows, indices: VecDeque::new(), following: None, batch_size };
        plan.following = plan.window();
        plan
    }

    /// The window after the last one, which the disk begins to read.
    fn window(&mut self) -> Option<Vec<usize>> {
        let window = self.windows.next()?;
        self.store.will_need(rows_of(&self.rows, &window));
        Some(window)
    }
}

impl Iterator for Plan {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        while self.indices.len() < self.batch_size
            && let Some(window) = self.following.take()
        {
            self.following = self.window();
            self.indices.extend(window);
        }
        let count = self.batch_size.min(self.indices.len());
        (count > 0).then(|| self.indices.drain(..count).collect())
    }
}

fn gather(store: &Rows, rows: &[Row], indices: Vec<usize>) -> Batch {
    let mut values = vec![0.0; rows.len() * store.width()];
    if store.read(rows, &mut values).is_ok() {
        return Batch { indices, values, failed: Vec::new() };
    }
    let mut batch = Batch::default();
    for (i, row) in indices.into_iter().zip(rows) {
        batch.push_row(store, i, *row);
    }
    batch
}

impl Batch {
    fn push_row(&mut self, store: &Rows, i: usize, row: Row) {
        let start = self.values.len();
        self.values.resize(start + store.width(), 0.0);
        match store.read(&[row], &mut self.values[start..]) {
            Ok(()) => self.indices.push(i),
            Err(error) => {
                self.values.truncate(start);
                self.failed.push((i, format!("features cannot be read any more: {error}")));
            }
        }
    }
}

/// Features of which some are in no store.
struct ComputedSource<'a> {
    rows: Vec<Row>,
    store: Rows,
    /// Those of rows in the store are empty.
    paths: Vec<PathBuf>,
    transform: Transform,
    frozen: &'a Frozen,
}

/// A pass over them.
struct Computed<'a> {
    source: &'a ComputedSource<'a>,
    order: VecDeque<usize>,
    /// Photos of examples that are not in the store, in the order of the pass.
    photos: Batches,
    /// Features of the next of them, or why there are none.
    computed: VecDeque<Result<Vec<f32>, String>>,
}

impl ComputedSource<'_> {
    fn start(&self, order: Order) -> Computed<'_> {
        let order: VecDeque<usize> = order.windows(self.rows.len()).flatten().collect();
        let not_kept = order.iter().filter(|i| !self.rows[**i].is_kept());
        let paths = not_kept.map(|i| self.paths[*i].clone()).collect();
        let photos = Batches::new(paths, self.transform.clone(), self.frozen.batch());
        Computed { source: self, order, photos, computed: VecDeque::new() }
    }
}

impl Computed<'_> {
    fn next(&mut self, batch_size: usize) -> Result<Option<Batch>, TrainError> {
        let mut batch = Batch::default();
        while batch.indices.len() < batch_size {
            let Some(i) = self.order.pop_front() else { break };
            let row = self.source.rows[i];
            if row.is_kept() {
                batch.push_row(&self.source.store, i, row);
                continue;
            }
            match self.compute()? {
                Some(Ok(features)) => {
                    batch.indices.push(i);
                    batch.values.extend(features);
                }
                Some(Err(reason)) => batch.failed.push((i, reason)),
                None => break,
            }
        }
        let is_empty = batch.indices.is_empty() && batch.failed.is_empty();
        Ok((!is_empty).then_some(batch))
    }

    /// The features of the next photo, or why there are none; `None` after the last one.
    fn compute(&mut self) -> Result<Option<Result<Vec<f32>, String>>, TrainError> {
        if self.computed.is_empty() {
            let Some(batch) = self.photos.next() else { return Ok(None) };
            let features = match batch.pictures.is_empty() {
                true => Vec::new(),
                false => self.source.frozen.features(batch.images)?,
            };
            let rows = features.chunks_exact(self.source.store.width().max(1));
            let computed =
                batch.pictures.iter().zip(rows).map(|(photo, row)| (photo.index, Ok(row.to_vec())));
            let failed = failures(batch.failed).map(|(i, reason)| (i, Err(reason)));
            let mut all: Vec<_> = computed.chain(failed).collect();
            all.sort_by_key(|(i, _)| *i);
            self.computed = all.into_iter().map(|(_, result)| result).collect();
        }
        Ok(self.computed.pop_front())
    }
}

/// Images of a batch as a tensor `[batch, 3, crop, crop]`.
pub fn image_batch(images: Vec<f32>, transform: &Transform) -> Tensor {
    let crop = transform.crop as usize;
    Tensor::f32([images.len() / (3 * crop * crop).max(1), 3, crop, crop], images)
}
