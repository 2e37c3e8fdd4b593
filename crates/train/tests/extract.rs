//! Features of images: each computed once, in the order of the paths, and kept.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engraft_data::{Image, Transform};
use engraft_engine::{EngineError, Network};
use engraft_graph::{Builder, Graph, Op};
use engraft_tensor::{StateDict, Tensor};
use engraft_train::{FeatureCache, TrainError, extract};
use tempfile::TempDir;

/// A frozen part whose features are the image itself, flattened.
fn flatten() -> Graph {
    let (mut b, x) = Builder::new("Net", 3, 8);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    b.finish(x)
}

/// What runs it: counts the images, and may have the user press Ctrl-C.
#[derive(Default)]
struct Flatten {
    images: usize,
    stop: Arc<AtomicBool>,
    stops_at_once: bool,
}

impl Network for Flatten {
    fn forward(&mut self, input: &Tensor) -> Result<Tensor, EngineError> {
        self.images += input.shape[0];
        self.stop.store(self.stops_at_once, Ordering::Relaxed);
        Ok(Tensor::f32([input.shape[0], 3 * 8 * 8], input.as_f32().unwrap().to_vec()))
    }
}

fn transform() -> Transform {
    Transform { resize: 8, crop: 8, ..Transform::imagenet() }
}

fn cache(folder: &TempDir) -> FeatureCache {
    FeatureCache::open(&folder.path().join("cache"), &flatten(), &StateDict::new(), &transform()).unwrap()
}

/// Photos of one grey each.
fn photos(folder: &TempDir, greys: std::ops::Range<u8>) -> Vec<PathBuf> {
    let photo = |grey: u8| {
        let path = folder.path().join(format!("{grey}.ppm"));
        fs::write(&path, [b"P6 1 1 255\n", &[grey; 3][..]].concat()).unwrap();
        path
    };
    greys.map(photo).collect()
}

#[test]
fn rows_are_in_the_order_of_the_paths_and_failures_have_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = photos(&folder, 0..40);
    fs::write(&paths[7], "These are no pixels.").unwrap();
    fs::copy(&paths[7], &paths[30]).unwrap();
    fs::copy(&paths[2], &paths[20]).unwrap();
    paths.push(folder.path().join("none.ppm"));
    let mut network = Flatten::default();
    let stop = Arc::clone(&network.stop);
    let mut progress = Vec::new();
    let features =
        extract(&mut network, &transform(), &paths, &mut cache(&folder), &stop, &mut |done, total| {
            progress.push((done, total));
        })
        .unwrap();

    for (i, row) in features.rows.iter().enumerate() {
        let path = &paths[i];
        match i {
            7 | 30 => {
                let begin = format!("{}: it is no image", path.display());
                assert!(row.as_ref().unwrap_err().starts_with(&begin), "{row:?}");
            }
            40 => assert!(row.as_ref().unwrap_err().contains("cannot read the file"), "{row:?}"),
            _ => assert_eq!(*row, Ok(transform().apply(&Image::open(path).unwrap())), "{i}"),
        }
    }
    // 40 photos are there, two pairs of them alike, one of these pairs unusable.
    assert_eq!(network.images, 37);
    assert_eq!(features.cached, 0);
    assert_eq!((progress[0], progress[progress.len() - 1]), ((0, 38), (38, 38)));
    assert!(progress.is_sorted());

    let mut network = Flatten::default();
    let stop = Arc::clone(&network.stop);
    let again =
        extract(&mut network, &transform(), &paths, &mut cache(&folder), &stop, &mut |_, _| ()).unwrap();
    assert_eq!((network.images, again.cached), (0, 38));
    assert_eq!(again.rows, features.rows);
}

#[test]
fn what_was_computed_before_ctrl_c_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let paths = photos(&folder, 0..100);
    let mut network = Flatten { stops_at_once: true, ..Flatten::default() };
    let stop = Arc::clone(&network.stop);
    let stopped = extract(&mut network, &transform(), &paths, &mut cache(&folder), &stop, &mut |_, _| ());
    assert!(matches!(stopped, Err(TrainError::Stopped)));
    let done = network.images;
    assert!((1..100).contains(&done), "{done}");

    let mut network = Flatten::default();
    let stop = Arc::clone(&network.stop);
    let rest =
        extract(&mut network, &transform(), &paths, &mut cache(&folder), &stop, &mut |_, _| ()).unwrap();
    assert_eq!((rest.cached, network.images), (done, 100 - done));
}

#[test]
fn a_cache_that_cannot_be_written_costs_nothing_but_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let paths = photos(&folder, 0..20);
    let mut cache = cache(&folder);
    fs::remove_dir_all(folder.path().join("cache")).unwrap();
    let mut network = Flatten::default();
    let stop = Arc::clone(&network.stop);
    let features = extract(&mut network, &transform(), &paths, &mut cache, &stop, &mut |_, _| ()).unwrap();
    assert!(features.rows.iter().all(Result::is_ok));
    let warning = features.cache_warning.unwrap();
    assert!(
        warning.contains("cannot write ") && warning.contains("the features of this run are not kept"),
        "{warning}"
    );
}
