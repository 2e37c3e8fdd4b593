//! The feature cache, under processes that are killed and processes that work side by side.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use engraft_data::Transform;
use engraft_graph::{Builder, Graph, Op};
use engraft_tensor::StateDict;
use engraft_train::{ContentHash, FeatureCache, features_folder};

const WIDTH: usize = 3 * 64 * 64;

/// Where the process that is to be killed finds the cache.
const FOLDER: &str = "ENGRAFT_TEST_CACHE";

/// A frozen part that flattens and does nothing else.
fn flatten() -> Graph {
    let (mut b, x) = Builder::new("Net", 3, 64);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    b.finish(x)
}

fn open(root: &Path) -> FeatureCache {
    FeatureCache::open(root, &flatten(), &StateDict::new(), &Transform::imagenet()).unwrap()
}

/// The name of image number `i`, and its features.
fn image(i: usize) -> (ContentHash, Vec<f32>) {
    let mut hash = [7; 32];
    hash[..8].copy_from_slice(&i.to_le_bytes());
    (hash, (0..WIDTH).map(|k| (i * WIDTH + k) as f32).collect())
}

/// How many images from the first on are in the cache; all of them as they were put in.
fn known(root: &Path) -> usize {
    let cache = open(root);
    let is_known = |i: &usize| {
        let (hash, features) = image(*i);
        let found = cache.get(&hash);
        assert!(found.is_none_or(|found| found == features), "the features of image {i} are others");
        found.is_some()
    };
    (0..).take_while(is_known).count()
}

#[test]
#[ignore = "the process that the next test kills"]
fn writes_until_it_is_killed() {
    let root = std::env::var_os(FOLDER).unwrap();
    let root = Path::new(&root);
    let mut cache = open(root);
    for i in known(root).. {
        let (hash, features) = image(i);
        cache.insert(hash, features);
        cache.flush().unwrap();
    }
}

#[test]
fn a_process_that_is_killed_loses_what_it_was_writing_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut known_before = 0;
    for kill in 0..15 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "writes_until_it_is_killed"]).env(FOLDER, folder.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(20 + 3 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
        let known = known(folder.path());
        assert!(known >= known_before, "kill {kill} lost what was there: {known} of {known_before}");
        known_before = known;
    }
    assert!(known_before > 0, "no process got as far as to write");
}

#[test]
fn processes_work_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    thread::scope(|scope| {
        for first in 0..4 {
            scope.spawn(move || {
                let mut cache = open(root);
                // Each image is written by two of them.
                for i in (0..20).filter(|i| i % 4 == first || (i + 1) % 4 == first) {
                    let (hash, features) = image(i);
                    cache.insert(hash, features);
                    if i % 3 == 0 {
                        cache.flush().unwrap();
                    }
                }
                cache.flush().unwrap();
            });
        }
    });
    assert_eq!(known(root), 20);
}

#[test]
fn what_is_not_flushed_is_known_in_memory_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (hash, features) = image(1);
    let mut cache = open(folder.path());
    assert_eq!(cache.get(&hash), None);
    cache.insert(hash, features.clone());
    assert_eq!(cache.get(&hash), Some(features.as_slice()));
    assert_eq!(cache.unwritten_bytes(), 4 * WIDTH);
    assert_eq!(open(folder.path()).get(&hash), None);
    cache.flush().unwrap();
    assert_eq!(cache.unwritten_bytes(), 0);
    assert_eq!(open(folder.path()).get(&hash), Some(features.as_slice()));

    let mut in_memory = FeatureCache::in_memory(&flatten()).unwrap();
    in_memory.insert(hash, features);
    in_memory.flush().unwrap();
    assert_eq!(in_memory.shape(), [WIDTH]);
}

#[test]
fn weights_graph_and_transform_have_folders_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let transform = Transform::imagenet();
    let (mut b, x) = Builder::new("Net", 3, 64);
    let x = b.layer("bn", engraft_graph::BatchNorm2d::new(3), x);
    let with_norm = b.finish(x);
    let state = |value| {
        let tensor = |spec: engraft_graph::TensorSpec| {
            let tensor = match spec.kind {
                engraft_graph::TensorKind::Counter => engraft_tensor::Tensor::counter(0),
                _ => engraft_tensor::Tensor::f32(spec.shape.clone(), vec![value; spec.len()]),
            };
            (spec.name, tensor)
        };
        with_norm.state().into_iter().map(tensor).collect::<StateDict>()
    };
    let smaller = Transform { resize: 232, ..transform.clone() };
    let mut with_head = state(1.0);
    with_head.insert("fc.weight", engraft_tensor::Tensor::f32([1], vec![1.0]));
    let keys = [
        (&flatten(), &StateDict::new(), &transform),
        (&with_norm, &state(1.0), &transform),
        (&with_norm, &state(2.0), &transform),
        (&with_norm, &state(1.0), &smaller),
        // The same as the second: the head is not of the frozen part.
        (&with_norm, &with_head, &transform),
    ];
    for (graph, state, transform) in keys {
        FeatureCache::open(folder.path(), graph, state, transform).unwrap();
    }
    assert_eq!(std::fs::read_dir(features_folder(folder.path())).unwrap().count(), 4);
}
