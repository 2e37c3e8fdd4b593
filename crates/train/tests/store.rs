//! The feature store, under processes that are killed, processes that work side by side, damage, and a bound.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, SystemTime};

use common::{CACHE_SIZE, files, files_of, flatten, open, open_within, transform};
use engraft_data::{ContentHash, Note, Notes, Transform};
use engraft_graph::{BatchNorm2d, Builder, TensorKind, TensorSpec};
use engraft_tensor::{StateDict, Tensor};
use engraft_train::{FeatureStore, Row, StoreKey, disk_usage, evict, features_folder};

const SIZE: usize = 16;
const WIDTH: usize = 3 * SIZE * SIZE;
const ROW_BYTES: u64 = 4 * WIDTH as u64;

/// Where the processes that are started find the cache.
const FOLDER: &str = "ENGRAFT_TEST_CACHE";

/// The name of photo number `i`, its notes and its features.
fn photo(i: usize) -> (ContentHash, Notes, Vec<f32>) {
    let mut hash = [7; 32];
    hash[..8].copy_from_slice(&i.to_le_bytes());
    let notes = Note::ALL.into_iter().take(i % 4).collect();
    (hash, notes, (0..WIDTH).map(|k| (i * WIDTH + k) as f32).collect())
}

fn insert(store: &mut FeatureStore, i: usize) -> Row {
    let (hash, notes, features) = photo(i);
    store.insert(hash, notes, &features)
}

/// Whether a photo is known; its features and notes are those that were put in.
fn is_known(store: &FeatureStore, i: usize) -> bool {
    let (hash, notes, features) = photo(i);
    let Some((row, found_notes)) = store.rows().find(&hash) else { return false };
    let mut found = vec![0.0; WIDTH];
    store.rows().read(&[row], &mut found).unwrap();
    assert!(found == features, "the features of photo {i} are others");
    assert_eq!(found_notes, notes);
    true
}

/// A process that is being started holds the locks of this one until its program runs. Tests that depend on locks wait for that.
static STARTING: RwLock<()> = RwLock::new(());

/// No process is started as long as this is held.
fn quiet() -> RwLockReadGuard<'static, ()> {
    STARTING.read().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(command: &mut Command) -> Child {
    let _others_wait = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap()
}

/// How many photos from the first on are in the cache.
fn known(root: &Path) -> usize {
    let _quiet = quiet();
    known_now(root)
}

fn known_now(root: &Path) -> usize {
    let store = open(root, SIZE);
    (0..).take_while(|i| is_known(&store, *i)).count()
}

fn start(test: &str, root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--nocapture", test]).env(FOLDER, root);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn root_of_process() -> std::path::PathBuf {
    std::env::var_os(FOLDER).unwrap().into()
}

#[test]
#[ignore = "the process that the next test kills"]
fn writes_until_it_is_killed() {
    let root = root_of_process();
    let first = known(&root);
    let mut store = open(&root, SIZE);
    for i in first.. {
        insert(&mut store, i);
    }
}

#[test]
fn a_process_that_is_killed_loses_what_it_was_writing_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut known_before = 0;
    for kill in 0..15 {
        let mut child = spawn(&mut start("writes_until_it_is_killed", folder.path()));
        thread::sleep(Duration::from_millis(20 + 3 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
        let known = known(folder.path());
        assert!(known >= known_before, "kill {kill} lost what was there: {known} of {known_before}");
        known_before = known;
    }
    assert!(known_before > 0, "no process got as far as to write");
    assert_eq!(files_of(folder.path(), "keys").len(), 1, "each goes on where the one before was killed");
}

#[test]
fn processes_work_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    thread::scope(|scope| {
        for first in 0..4 {
            scope.spawn(move || {
                let mut store = open(root, SIZE);
                // Each photo is written by two of them.
                for i in (0..40).filter(|i| i % 4 == first || (i + 1) % 4 == first) {
                    insert(&mut store, i);
                    if i.is_multiple_of(10) {
                        store.end_appending();
                    }
                }
            });
        }
    });
    assert_eq!(known(root), 40);
}

/// As a process that is killed leaves them: rows without keys, keys without rows, half of either.
#[test]
fn files_that_end_anywhere() {
    let _quiet = quiet();
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), SIZE);
    (0..4).for_each(|i| _ = insert(&mut store, i));
    drop(store);
    let (rows, keys) = (files_of(folder.path(), "rows"), files_of(folder.path(), "keys"));
    let (all_rows, all_keys) = (fs::read(&rows[0]).unwrap(), fs::read(&keys[0]).unwrap());
    assert_eq!((all_rows.len(), all_keys.len()), (4 * ROW_BYTES as usize, 4 * 48));
    let row_ends = (0..=4).flat_map(|row| [0, 1, 1000].map(|more| row * ROW_BYTES as usize + more));
    for row_bytes in row_ends.filter(|end| *end <= all_rows.len()) {
        for key_bytes in 0..=all_keys.len() {
            fs::write(&rows[0], &all_rows[..row_bytes]).unwrap();
            fs::write(&keys[0], &all_keys[..key_bytes]).unwrap();
            let whole = (row_bytes / ROW_BYTES as usize).min(key_bytes / 48);
            let mut store = open(folder.path(), SIZE);
            for i in 0..4 {
                assert_eq!(is_known(&store, i), i < whole, "photo {i} of {row_bytes}, {key_bytes}");
            }
            insert(&mut store, 9);
            drop(store);
            let store = open(folder.path(), SIZE);
            assert!(is_known(&store, 9) && (0..whole).all(|i| is_known(&store, i)));
            assert_eq!(fs::metadata(&keys[0]).unwrap().len(), 48 * (whole as u64 + 1));
        }
    }
}

#[test]
fn a_damaged_row_is_computed_again() {
    let _quiet = quiet();
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), SIZE);
    (0..3).for_each(|i| _ = insert(&mut store, i));
    drop(store);
    let rows = &files_of(folder.path(), "rows")[0];
    let keys = &files_of(folder.path(), "keys")[0];
    // In the values of the second row; in its hash, its checksum and its notes.
    for (file, byte) in [(rows, ROW_BYTES as usize + 77), (keys, 48), (keys, 48 + 35), (keys, 48 + 40)] {
        let whole = (fs::read(rows).unwrap(), fs::read(keys).unwrap());
        let mut damaged = fs::read(file).unwrap();
        damaged[byte] ^= 4;
        fs::write(file, damaged).unwrap();
        let mut store = open(folder.path(), SIZE);
        assert_eq!([0, 1, 2].map(|i| is_known(&store, i)), [true, false, true], "{byte} of {file:?}");
        insert(&mut store, 1);
        assert!(is_known(&store, 1));
        drop(store);
        assert_eq!(known_now(folder.path()), 3);
        fs::write(rows, whole.0).unwrap();
        fs::write(keys, whole.1).unwrap();
    }
}

#[test]
fn rows_are_read_in_any_order() {
    let folder = tempfile::tempdir().unwrap();
    // A small cache has small segments: of 1 MB, or 341 rows.
    let mut store = open_within(folder.path(), SIZE, 16 << 20);
    let rows: Vec<Row> = (0..800).map(|i| insert(&mut store, i)).collect();
    assert_eq!(files_of(folder.path(), "rows").len(), 3);
    let order: Vec<usize> = (0..400).chain((0..400).map(|i| i * 7919 % 800)).collect();
    let mut values = vec![0.0; order.len() * WIDTH];
    store.rows().read(&order.iter().map(|i| rows[*i]).collect::<Vec<_>>(), &mut values).unwrap();
    for (i, row) in order.iter().zip(values.chunks(WIDTH)) {
        assert!(row == photo(*i).2, "{i}");
    }
    assert!(store.rows().read(&[Row::NONE], &mut values[..WIDTH]).is_err());
}

#[test]
fn what_was_not_used_for_the_longest_time_goes_first() {
    let _quiet = quiet();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    // Three frozen parts, used one after the other; and what an earlier version left, and a stranger's file.
    let days = |days: u64| SystemTime::now() - Duration::from_secs(days * 86_400);
    for (size, last_use) in [(8, days(3)), (16, days(2)), (32, days(1))] {
        let mut store = open(root, size);
        for i in 0..40 {
            store.insert([i; 32], Notes::default(), &vec![0.5; 3 * size * size]);
        }
        drop(store);
        let locks = files_of(root, "lock");
        let newest = locks.iter().max_by_key(|lock| fs::metadata(lock).unwrap().modified().unwrap()).unwrap();
        for file in files(newest.parent().unwrap()) {
            File::options().append(true).open(file).unwrap().set_modified(last_use).unwrap();
        }
    }
    let old = features_folder(root).join("0123456789abcdef");
    fs::create_dir(&old).unwrap();
    fs::write(old.join("shard.safetensors"), [0; 1000]).unwrap();
    fs::write(old.join("notes.txt"), [0; 1000]).unwrap();
    File::options().append(true).open(old.join("shard.safetensors")).unwrap().set_modified(days(4)).unwrap();

    let held = |size: u64| 40 * (4 * 3 * size * size + 48);
    let all = held(8) + held(16) + held(32);
    let sizes = || files_of(root, "rows").len();
    assert_eq!(evict(&features_folder(root), all + 1000).unwrap(), all + 1000);
    assert_eq!(evict(&features_folder(root), all).unwrap(), all);
    assert!(!old.join("shard.safetensors").exists() && sizes() == 3);
    assert_eq!(evict(&features_folder(root), all - 1).unwrap(), held(16) + held(32));
    assert_eq!(evict(&features_folder(root), held(32)).unwrap(), held(32));
    assert!(open(root, 32).rows().find(&[3; 32]).is_some());
    assert!(open(root, 16).rows().find(&[3; 32]).is_none());
    assert_eq!(evict(&features_folder(root), 0).unwrap(), 0);
    assert!(old.join("notes.txt").exists(), "what is not ours stays");
}

#[test]
#[ignore = "a process that the next test starts"]
fn uses_a_row_until_its_input_ends() {
    let root = root_of_process();
    let store = open(&root, SIZE);
    assert!(is_known(&store, 0));
    fs::write(root.join("used"), "").unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
    assert!(is_known(&store, 0));
}

#[test]
fn what_a_running_process_uses_is_spared() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut store = open(root, SIZE);
    insert(&mut store, 0);
    let features = features_folder(root);
    assert_eq!(evict(&features, 0).unwrap(), ROW_BYTES + 48, "it is being written");
    store.end_appending();
    assert_eq!(evict(&features, 0).unwrap(), ROW_BYTES + 48, "it is in use here");
    drop(store);

    let mut process = spawn(start("uses_a_row_until_its_input_ends", root).stdin(Stdio::piped()));
    let start = std::time::Instant::now();
    while !root.join("used").exists() {
        assert!(start.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(evict(&features, 0).unwrap(), ROW_BYTES + 48, "it is in use there");
    let _quiet = quiet();
    // Another process appends to a segment of its own then.
    let mut store = open(root, SIZE);
    insert(&mut store, 1);
    assert_eq!(files_of(root, "rows").len(), 2);
    drop(store);
    drop(process.stdin.take());
    assert!(process.wait().unwrap().success());
    assert_eq!(evict(&features, 0).unwrap(), 0);
    assert_eq!(disk_usage(&features).unwrap(), (0, 0));
}

#[test]
fn a_full_cache_makes_room_and_what_has_none_lives_as_long_as_the_process() {
    let _quiet = quiet();
    let folder = tempfile::tempdir().unwrap();
    let mut old = open(folder.path(), 8);
    (0..200).for_each(|i| _ = old.insert([i; 32], Notes::default(), &[1.0; 192]));
    drop(old);
    // 64 rows of these fit, once the others are gone.
    let bound = 64 * (ROW_BYTES + 48);
    let mut store = open_within(folder.path(), SIZE, bound.max(200 * (4 * 192 + 48)));
    let mut warnings = Vec::new();
    for i in 0..100 {
        assert!(insert(&mut store, i).is_kept());
        warnings.extend(store.take_warning());
    }
    assert!(open(folder.path(), 8).rows().find(&[5; 32]).is_none(), "the oldest made room");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("the cache is full") && warnings[0].contains("from now on are not kept"),
        "{warnings:?}"
    );
    assert!(store.folder().is_none());
    assert!((0..100).all(|i| is_known(&store, i)));
    let known_later = |i| is_known(&open(folder.path(), SIZE), i);
    assert!(known_later(0) && !known_later(99));
    drop(store);
    assert!(disk_usage(&features_folder(folder.path())).unwrap().1 <= bound.max(200 * (4 * 192 + 48)));
}

#[test]
#[ignore = "a process that the next test starts, without a temporary folder"]
fn keeps_256_mb_in_memory() {
    let side = 1024;
    let mut store = FeatureStore::temporary(&flatten(side)).unwrap();
    let features = vec![0.25; 3 * side * side];
    for i in 0..30_u8 {
        let row = store.insert([i; 32], Notes::default(), &features);
        // Of 12.6 MB each.
        assert_eq!(row.is_kept(), i < 21, "{i}");
        assert_eq!(store.rows().find(&[i; 32]).is_some(), i < 21, "{i}");
    }
    assert!(!store.is_keeping());
    fs::write(root_of_process().join("done"), "").unwrap();
}

#[test]
fn without_a_disk_some_rows_stay_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = start("keeps_256_mb_in_memory", folder.path());
    assert!(spawn(command.env("TMPDIR", "/nonexistent")).wait().unwrap().success());
    assert!(folder.path().join("done").exists());
}

#[test]
fn a_folder_that_is_gone_costs_nothing_but_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder.path().join("cache"), SIZE);
    fs::remove_dir_all(folder.path().join("cache")).unwrap();
    assert!(insert(&mut store, 0).is_kept());
    let warning = store.take_warning().unwrap();
    assert!(warning.contains("cannot write ") && warning.contains("does not exist"), "{warning}");
    assert!(is_known(&store, 0) && store.take_warning().is_none());
    store.keep_nothing_new();
    assert!(!insert(&mut store, 1).is_kept() && is_known(&store, 0));
}

#[test]
fn weights_graph_transform_and_numerics_have_folders_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let transform = transform(64);
    let (mut b, x) = Builder::new("Net", 3, 64);
    let x = b.layer("bn", BatchNorm2d::new(3), x);
    let with_norm = b.finish(x);
    let state = |value| {
        let tensor = |spec: TensorSpec| {
            let tensor = match spec.kind {
                TensorKind::Counter => Tensor::counter(0),
                _ => Tensor::f32(spec.shape.clone(), vec![value; spec.len()]),
            };
            (spec.name, tensor)
        };
        with_norm.state().into_iter().map(tensor).collect::<StateDict>()
    };
    let smaller = Transform { resize: 232, ..transform.clone() };
    let mut with_head = state(1.0);
    with_head.insert("fc.weight", Tensor::f32([1], vec![1.0]));
    let keys = [
        (&flatten(64), &StateDict::new(), &transform, "cpu 1 avx2"),
        (&with_norm, &state(1.0), &transform, "cpu 1 avx2"),
        (&with_norm, &state(2.0), &transform, "cpu 1 avx2"),
        (&with_norm, &state(1.0), &smaller, "cpu 1 avx2"),
        (&with_norm, &state(1.0), &transform, "cpu 1 avx512"),
        // The same as the second: the head is not of the frozen part.
        (&with_norm, &with_head, &transform, "cpu 1 avx2"),
    ];
    for (frozen, state, transform, numerics) in keys {
        let key = StoreKey { frozen, state, transform, numerics };
        FeatureStore::open(folder.path(), &key, CACHE_SIZE).unwrap();
    }
    assert_eq!(fs::read_dir(features_folder(folder.path())).unwrap().count(), 5);
}
