//! What the feature store costs with a million photos: memory, time to the first batch, an epoch.
//!
//! ```text
//! cargo run --release -p engraft --example million -- FOLDER generate      # 1,000,000 empty files, 5 GB of rows
//! cargo run --release -p engraft --example million -- FOLDER read          # three epochs of batches
//! cargo run --release -p engraft --example million -- FOLDER train 10      # an epoch of a linear head for 10 classes
//! cargo run --release -p engraft --example million -- FOLDER plain         # reads the rows as a file is read
//! cargo run --release -p engraft --example million -- FOLDER products 10   # the steps of that epoch, on batches in memory
//! ```
//!
//! An epoch of `train` should take no longer than `plain` and `products` together. To have the rows in the page cache, begin with `plain`.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use engraft::Device;
use engraft_data::{FileStamp, Notes, Sample, Transform};
use engraft_engine::{
    EngineError, Network, Rate, Rule, SplitMix64, Targets, Trainer, Training, initial_state,
};
use engraft_graph::{Builder, Linear};
use engraft_tensor::Tensor;
use engraft_train::{
    ExampleBatch, Examples, Extraction, FeatureStore, Frozen, Index, Order, Photo, StoreKey, features_folder,
};

const PHOTOS: usize = 1_000_000;
const CLASSES: usize = 1000;
const BATCH: usize = 256;

/// All features are in the store.
struct Unused;

impl Network for Unused {
    fn forward(&mut self, _: &Tensor) -> Result<Tensor, EngineError> {
        Err(EngineError::Device("nothing should be left to be computed".into()))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match arguments[..] {
        [folder, "generate"] => generate(Path::new(folder)),
        [folder, "read"] => epochs(Path::new(folder), None),
        [folder, "train", classes] => epochs(Path::new(folder), Some(classes.parse()?)),
        [folder, "plain"] => plain(Path::new(folder)),
        [_, "products", classes] => products(classes.parse()?),
        _ => Err("FOLDER generate|read|train CLASSES|plain|products CLASSES".into()),
    }
}

fn path(folder: &Path, i: usize) -> PathBuf {
    folder.join(format!("photos/train/class{:04}/photo{i:07}.jpg", i * CLASSES / PHOTOS))
}

/// Of a photo's content, if it had one.
fn hash(i: usize) -> [u8; 32] {
    let mut random = SplitMix64::new(i as u64);
    std::array::from_fn(|_| random.next_u64() as u8)
}

fn store(folder: &Path) -> Result<(FeatureStore, Frozen), Box<dyn Error>> {
    let graph = engraft_zoo::architecture("mobilenet_v2")?;
    let frozen = graph.before_head(None)?;
    let state = initial_state(&frozen.state(), 0);
    let key =
        StoreKey { frozen: &frozen, state: &state, transform: &Transform::imagenet(), numerics: "none" };
    Ok((FeatureStore::open(&folder.join("cache"), &key, u64::MAX)?, Frozen::new(&frozen, Box::new(Unused))?))
}

fn generate(folder: &Path) -> Result<(), Box<dyn Error>> {
    let (mut store, _) = store(folder)?;
    let mut index = Index::open(&folder.join("cache"));
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let mut row: Vec<f32> = (0..store.rows().width()).map(|k| k as f32).collect();
    for i in 0..PHOTOS {
        let path = path(folder, i);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        File::create(&path)?.set_modified(an_hour_ago)?;
        let hash = hash(i);
        row[0] = i as f32;
        store.insert(hash, Notes::default(), &row);
        index.remember(&path, &FileStamp::of(&path)?, &Photo { hash, notes: Notes::default(), fault: None });
    }
    Ok(index.flush()?)
}

/// Three epochs of batches; or one in which a linear head for `classes` is trained.
fn epochs(folder: &Path, classes: Option<usize>) -> Result<(), Box<dyn Error>> {
    // A dataset's own memory and time.
    let sample = |i| Sample { path: path(folder, i), label: i * classes.unwrap_or(CLASSES) / PHOTOS };
    let samples: Vec<Sample> = (0..PHOTOS).map(sample).collect();
    println!("samples           {}", memory());
    let start = Instant::now();
    let (mut store, frozen) = store(folder)?;
    println!("store opened      {:.2} s, {}", start.elapsed().as_secs_f64(), memory());
    let paths: Vec<PathBuf> = samples.iter().map(|sample| sample.path.clone()).collect();
    let mut index = Index::open(&folder.join("cache"));
    let transform = Transform::imagenet();
    let parts = Some((&frozen, &mut store));
    let extraction = Extraction { paths: &paths, transform: &transform, index: &mut index, frozen: parts };
    let photos = extraction.run(&AtomicBool::new(false), &mut |_| ())?;
    println!("features found    {:.2} s, {}", start.elapsed().as_secs_f64(), memory());
    assert_eq!((photos.opened, photos.cached), (0, PHOTOS));
    drop(paths);
    let rows = photos.rows.iter().copied().zip(&samples);
    let examples = Examples::features(store.rows(), rows, &frozen, &transform);
    drop(photos);
    let mut trainer = classes.map(|classes| trainer(store.rows().width(), classes)).transpose()?;
    for epoch in 1..=if trainer.is_some() { 1 } else { 3 } {
        let epoch_start = Instant::now();
        let (mut seen, mut sum) = (0, 0.0);
        for batch in examples.batches(Order::Shuffled { seed: 0, epoch }, BATCH) {
            let batch = batch?.whole()?;
            if seen == 0 && epoch == 1 {
                println!("first batch       {:.2} s", start.elapsed().as_secs_f64());
            }
            seen += batch.indices.len();
            match &mut trainer {
                Some(trainer) => sum += step(trainer.as_mut(), &batch)?,
                None => sum += batch.input.as_f32().map_or(0.0, |values| values[0]),
            }
        }
        assert_eq!(seen, PHOTOS);
        println!(
            "epoch {epoch}           {:.2} s, {} ({sum})",
            epoch_start.elapsed().as_secs_f64(),
            memory()
        );
    }
    Ok(())
}

/// The steps of an epoch of [`epochs`], on a few batches that stay in memory.
fn products(classes: usize) -> Result<(), Box<dyn Error>> {
    const BATCHES: usize = 32;
    let width = 1280;
    let labels = (0..BATCHES * BATCH).map(|i| i % classes).collect();
    let examples = Examples::in_memory(vec![width], vec![0.5; BATCHES * BATCH * width], labels);
    let batches: Vec<ExampleBatch> = examples.batches(Order::Sequential, BATCH).collect::<Result<_, _>>()?;
    let mut trainer = trainer(width, classes)?;
    let start = Instant::now();
    for batch in batches.iter().cycle().take(PHOTOS.div_ceil(BATCH)) {
        step(trainer.as_mut(), batch)?;
    }
    println!("products          {:.2} s, {}", start.elapsed().as_secs_f64(), memory());
    Ok(())
}

/// Of a linear head.
fn trainer(width: usize, classes: usize) -> Result<Box<dyn Trainer>, EngineError> {
    let (mut builder, features) = Builder::with_input("Head", &[width]);
    let logits = builder.layer("fc", Linear::new(width, classes), features);
    let graph = builder.finish(logits);
    let training = Training { group: &|_| Some(0), live_norms: &|_| false, rule: Rule::ADAM };
    Device::default().engine()?.trainer(&graph, initial_state(&graph.state(), 0), &training)
}

fn step(trainer: &mut dyn Trainer, batch: &ExampleBatch) -> Result<f32, EngineError> {
    let loss = trainer.accumulate(&batch.input, &Targets::labels(&batch.labels), 1.0, 0)?.loss;
    trainer.update(&[Rate { learning_rate: 1e-3, weight_decay: 0.0 }], None, None)?;
    Ok(loss)
}

fn plain(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut buffer = vec![0; 1 << 20];
    let start = Instant::now();
    let mut bytes = 0;
    for key in fs::read_dir(features_folder(&folder.join("cache")))? {
        for file in fs::read_dir(key?.path())? {
            let mut file = File::open(file?.path())?;
            while let read @ 1.. = file.read(&mut buffer)? {
                bytes += read;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("plain reading     {seconds:.2} s, {:.2} GB/s", bytes as f64 / seconds / 1e9);
    Ok(())
}

/// What the process has in memory, and the most that it had.
fn memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = |name| status.lines().find_map(|line| line.strip_prefix(name)).map_or("unknown", str::trim);
    format!("{} in memory, at most {}", value("VmRSS:"), value("VmHWM:"))
}
