//! What the feature store costs with a million photos: memory, time to the first batch, an epoch.
//!
//! ```text
//! cargo run --release -p engraft-train --example million -- FOLDER generate     # 1,000,000 empty files, 5 GB of rows
//! cargo run --release -p engraft-train --example million -- FOLDER run
//! cargo run --release -p engraft-train --example million -- FOLDER plain        # reads the rows as a file is read
//! ```

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use engraft_data::{FileStamp, Notes, Sample, Transform};
use engraft_engine::{EngineError, Network, initial_state};
use engraft_tensor::Tensor;
use engraft_train::{
    Examples, Extraction, FeatureStore, Frozen, Index, Order, Photo, StoreKey, features_folder,
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
    let [_, folder, command] = &arguments[..] else { return Err("FOLDER generate|run|plain".into()) };
    let folder = Path::new(folder);
    match command.as_str() {
        "generate" => generate(folder),
        "run" => run(folder),
        "plain" => plain(folder),
        _ => Err("generate, run or plain".into()),
    }
}

fn path(folder: &Path, i: usize) -> PathBuf {
    folder.join(format!("photos/train/class{:04}/photo{i:07}.jpg", i * CLASSES / PHOTOS))
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
        let hash = blake3::hash(&i.to_le_bytes()).into();
        row[0] = i as f32;
        store.insert(hash, Notes::default(), &row);
        index.remember(&path, &FileStamp::of(&path)?, &Photo { hash, notes: Notes::default(), fault: None });
    }
    Ok(index.flush()?)
}

fn run(folder: &Path) -> Result<(), Box<dyn Error>> {
    // A dataset's own memory and time.
    let sample = |i| Sample { path: path(folder, i), label: i * CLASSES / PHOTOS };
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
    for epoch in 1..=3 {
        let epoch_start = Instant::now();
        let (mut seen, mut sum) = (0, 0.0);
        for batch in examples.batches(Order::Shuffled { seed: 0, epoch }, BATCH) {
            let batch = batch?.whole()?;
            if seen == 0 && epoch == 1 {
                println!("first batch       {:.2} s", start.elapsed().as_secs_f64());
            }
            seen += batch.indices.len();
            sum += batch.input.as_f32().map_or(0.0, |values| values[0]);
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
