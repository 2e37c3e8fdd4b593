//! What is known of photos: each is read once, and its features are computed once, and kept.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Flatten, age, open, photos, transform};
use engraft_data::{Image, Note, Transform};
use engraft_train::{Extraction, ExtractionEvent, FeatureStore, Index, Photos, TrainError};
use tempfile::TempDir;

const SIZE: usize = 8;

static GO_ON: AtomicBool = AtomicBool::new(false);

/// A run: index and store are opened, used and closed.
fn run(root: &Path, paths: &[PathBuf], network: &Flatten) -> (Photos, FeatureStore) {
    let mut store = open(root, SIZE);
    let photos = extract(root, paths, network, &mut store, &GO_ON, &mut |_| ()).unwrap();
    (photos, store)
}

fn extract(
    root: &Path,
    paths: &[PathBuf],
    network: &Flatten,
    store: &mut FeatureStore,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(ExtractionEvent<'_>),
) -> Result<Photos, TrainError> {
    let frozen = network.frozen(SIZE);
    let transform = transform(SIZE as u32);
    let mut index = Index::open(root);
    let frozen = Some((&frozen, store));
    Extraction { paths, transform: &transform, index: &mut index, frozen }.run(stop, observe)
}

fn features(photos: &Photos, store: &FeatureStore, i: usize) -> Vec<f32> {
    let mut features = vec![0.0; store.rows().width()];
    store.rows().read(&[photos.rows[i]], &mut features).unwrap();
    features
}

fn expected(path: &Path, transform: &Transform) -> Vec<f32> {
    transform.apply(&Image::open(path).unwrap())
}

fn sandbox(count: usize) -> (TempDir, PathBuf, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let paths = photos(folder.path(), 0..count);
    let root = folder.path().join("cache");
    (folder, root, paths)
}

#[test]
fn rows_are_in_the_order_of_the_paths_and_failures_have_reasons() {
    let (folder, root, mut paths) = sandbox(40);
    fs::write(&paths[7], "These are no pixels.").unwrap();
    fs::copy(&paths[7], &paths[30]).unwrap();
    fs::copy(&paths[2], &paths[20]).unwrap();
    [7, 30, 20].iter().for_each(|i| age(&paths[*i]));
    paths.push(folder.path().join("none.ppm"));
    let network = Flatten::default();
    let mut progress = Vec::new();
    let mut store = open(&root, SIZE);
    let first = extract(&root, &paths, &network, &mut store, &GO_ON, &mut |event| match event {
        ExtractionEvent::Progress { done, total } => progress.push((done, total)),
        event => panic!("{event:?}"),
    })
    .unwrap();
    let check = |found: &Photos, store: &FeatureStore| {
        for (i, path) in paths.iter().enumerate() {
            let fault = found.faults.get(&i).map_or("", String::as_str);
            match i {
                7 | 30 => {
                    assert!(fault.starts_with(&format!("{}: it is no image", path.display())), "{fault}")
                }
                40 => assert!(fault.contains("cannot read the file"), "{fault}"),
                _ => {
                    assert_eq!(fault, "");
                    assert_eq!(features(found, store, i), expected(path, &transform(8)), "{i}");
                    assert_eq!(found.hashes[i], Some(blake3::hash(&fs::read(path).unwrap()).into()));
                }
            }
            assert_eq!(found.rows[i].is_kept(), fault.is_empty());
        }
        assert_eq!(found.rows[2], found.rows[20]);
    };
    check(&first, &store);
    assert_eq!((first.opened, network.batches.load(std::sync::atomic::Ordering::Relaxed)), (41, 3));
    assert_eq!((progress[0], progress[progress.len() - 1]), ((0, 41), (41, 41)));
    assert!(progress.is_sorted());
    drop(store);

    // The second run opens nothing but what could not be opened, and reports the same.
    let network = Flatten::default();
    let (second, store) = run(&root, &paths, &network);
    check(&second, &store);
    assert_eq!(
        (second.opened, second.cached, network.batches.load(std::sync::atomic::Ordering::Relaxed)),
        (1, 38, 0)
    );
    assert_eq!(second.faults, first.faults);
}

#[test]
fn a_second_run_opens_no_photo() {
    let (_folder, root, paths) = sandbox(20_000);
    let (first, store) = run(&root, &paths, &Flatten::default());
    assert_eq!((first.opened, first.cached), (20_000, 0));
    drop(store);
    // Whoever opened one of them now would find other bytes.
    for path in &paths {
        let length = fs::metadata(path).unwrap().len();
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        fs::write(path, vec![b'x'; length as usize]).unwrap();
        fs::File::options().append(true).open(path).unwrap().set_modified(modified).unwrap();
    }
    let network = Flatten::default();
    let (second, _) = run(&root, &paths, &network);
    assert_eq!(
        (second.opened, second.cached, network.batches.load(std::sync::atomic::Ordering::Relaxed)),
        (0, 20_000, 0)
    );
    assert_eq!((second.hashes, second.rows.len()), (first.hashes, 20_000));
    assert!(second.faults.is_empty());
}

#[test]
fn a_photo_is_known_by_its_content_wherever_it_lies() {
    let (folder, root, paths) = sandbox(30);
    run(&root, &paths, &Flatten::default());
    let copy = |path: &PathBuf| {
        let copy = folder.path().join("copies").join(path.file_name().unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(path, &copy).unwrap();
        copy
    };
    let copies: Vec<PathBuf> = paths.iter().map(copy).collect();
    let network = Flatten::default();
    let (found, store) = run(&root, &copies, &network);
    assert_eq!(
        (found.opened, found.cached, network.batches.load(std::sync::atomic::Ordering::Relaxed)),
        (30, 30, 0)
    );
    assert_eq!(features(&found, &store, 12), expected(&paths[12], &transform(8)));
}

#[test]
fn notes_are_told_again_in_every_run_and_of_copies() {
    let (folder, root, mut paths) = sandbox(3);
    // A grey PNG of 16 bits, which NetPBM can hold as well.
    paths.push(folder.path().join("deep.pgm"));
    fs::write(&paths[3], b"P5 2 1 65535\n\x80\x00\xff\xff").unwrap();
    age(&paths[3]);
    let (first, store) = run(&root, &paths, &Flatten::default());
    drop(store);
    assert!(first.notes[3].contains(Note::Deep) && first.notes[0].is_empty(), "{:?}", first.notes);
    let (second, store) = run(&root, &paths, &Flatten::default());
    drop(store);
    assert_eq!((second.opened, &second.notes), (0, &first.notes));
    let copy = folder.path().join("copy.pgm");
    fs::copy(&paths[3], &copy).unwrap();
    let (copied, _) = run(&root, &[copy], &Flatten::default());
    assert_eq!((copied.cached, copied.notes[0]), (1, first.notes[3]));
}

#[test]
fn what_was_computed_before_ctrl_c_is_kept() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let (_folder, root, paths) = sandbox(100);
    let network = Flatten { stops_at: Some((2, &STOP)), ..Flatten::default() };
    let mut store = open(&root, SIZE);
    let stopped = extract(&root, &paths, &network, &mut store, &STOP, &mut |_| ());
    assert!(matches!(stopped, Err(TrainError::Stopped)));
    assert_eq!(network.batches.load(std::sync::atomic::Ordering::Relaxed), 2);
    drop(store);
    let network = Flatten::default();
    let (rest, _) = run(&root, &paths, &network);
    assert_eq!(
        (rest.cached, rest.opened, network.batches.load(std::sync::atomic::Ordering::Relaxed)),
        (32, 68, 5)
    );
}

/// A named pipe cannot hang it, a slow disk can; here the network is slow and the user impatient.
#[test]
fn ctrl_c_is_heard_while_photos_are_hashed() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let folder = tempfile::tempdir().unwrap();
    // 40 large pictures: each takes a tenth of a second or more.
    let paths: Vec<PathBuf> = (0..40).map(|i| folder.path().join(format!("{i}.ppm"))).collect();
    for (i, path) in paths.iter().enumerate() {
        let pixels = vec![i as u8; 3 * 4000 * 3000];
        fs::write(path, [b"P6 4000 3000 255\n", &pixels[..]].concat()).unwrap();
    }
    let presser = thread::spawn(|| {
        thread::sleep(Duration::from_millis(150));
        STOP.store(true, Ordering::Relaxed);
        Instant::now()
    });
    let root = folder.path().join("cache");
    let mut store = open(&root, SIZE);
    let stopped = extract(&root, &paths, &Flatten::default(), &mut store, &STOP, &mut |_| ());
    let heard = Instant::now();
    assert!(matches!(stopped, Err(TrainError::Stopped)), "too fast to be stopped");
    assert!(heard - presser.join().unwrap() < Duration::from_secs(1));
}

/// A7: whatever another program does to the files meanwhile, features are those of the bytes that were hashed.
#[test]
fn a_file_that_is_replaced_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    let paths: Vec<PathBuf> = photos(folder.path(), 0..60);
    let [black, white] = [0_u8, 255].map(|grey| {
        let path = folder.path().join(format!("colour{grey}.ppm"));
        fs::write(&path, [b"P6 1 1 255\n", &[grey; 3][..]].concat()).unwrap();
        path
    });
    let done = AtomicBool::new(false);
    let (found, store) = thread::scope(|scope| {
        scope.spawn(|| {
            let new = folder.path().join("new");
            for i in (0..60).cycle() {
                fs::copy(if i % 2 == 0 { &black } else { &white }, &new).unwrap();
                fs::rename(&new, &paths[i * 7 % 60]).unwrap();
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let result = run(&root, &paths, &Flatten::default());
        done.store(true, Ordering::Relaxed);
        result
    });
    let contents: Vec<PathBuf> = {
        let fresh = folder.path().join("fresh");
        fs::create_dir(&fresh).unwrap();
        photos(&fresh, 0..60).into_iter().chain([black, white]).collect()
    };
    let mut seen = 0;
    #[allow(clippy::needless_range_loop, reason = "the number is that of the photo as well")]
    for i in 0..60 {
        let Some(hash) = found.hashes[i].filter(|_| !found.faults.contains_key(&i)) else { continue };
        let content = contents.iter().find(|path| hash == *blake3::hash(&fs::read(path).unwrap()).as_bytes());
        assert_eq!(features(&found, &store, i), expected(content.unwrap(), &transform(8)), "{i}");
        seen += 1;
    }
    assert!(seen > 0);
    drop(store);
    // Nor is anything remembered that is not so any more.
    let (again, store) = run(&root, &paths, &Flatten::default());
    #[allow(clippy::needless_range_loop, reason = "the number is that of the photo as well")]
    for i in 0..60 {
        assert_eq!(again.hashes[i], Some(blake3::hash(&fs::read(&paths[i]).unwrap()).into()));
        assert_eq!(features(&again, &store, i), expected(&paths[i], &transform(8)), "{i}");
    }
}

#[test]
fn without_a_frozen_part_photos_are_only_checked() {
    let (_folder, root, paths) = sandbox(10);
    fs::write(&paths[3], "no image").unwrap();
    age(&paths[3]);
    for opened in [10, 0] {
        let mut index = Index::open(&root);
        let transform = transform(8);
        let extraction = Extraction { paths: &paths, transform: &transform, index: &mut index, frozen: None };
        let photos = extraction.run(&GO_ON, &mut |_| ()).unwrap();
        assert_eq!((photos.opened, photos.faults.keys().copied().collect::<Vec<_>>()), (opened, vec![3]));
        assert!(photos.rows.iter().all(|row| !row.is_kept()) && photos.hashes.iter().all(Option::is_some));
    }
}

#[test]
fn more_than_a_tenth_of_the_free_disk_is_said_before() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    // Of 2.4 MB each.
    let side = 450;
    let frozen = Flatten::default().frozen(side);
    let free = engraft_train::free_disk(&root).unwrap();
    let count = free / 10 / frozen.row_bytes();
    // The disk has other users.
    for (count, is_large) in [(count / 2, false), (2 * count, true)] {
        let paths = vec![folder.path().join("none.ppm"); count as usize];
        let mut store = open(&root, side);
        let mut index = Index::open(&root);
        let transform = transform(side as u32);
        let frozen = Some((&frozen, &mut store));
        let extraction = Extraction { paths: &paths, transform: &transform, index: &mut index, frozen };
        let mut told = None;
        STOP.store(!is_large, Ordering::Relaxed);
        let stopped = extraction.run(&STOP, &mut |event| {
            if let ExtractionEvent::Large { bytes, folder, .. } = event {
                told = Some((bytes, folder.starts_with(&root)));
                STOP.store(true, Ordering::Relaxed);
            }
        });
        assert!(matches!(stopped, Err(TrainError::Stopped)));
        assert_eq!(told, is_large.then_some((count * 12 * (side * side) as u64, true)));
    }
}

#[test]
fn features_that_cost_more_than_computing_them_are_not_kept() {
    let (_folder, root, paths) = sandbox(3);
    let side = 500;
    let network = Flatten::default();
    let frozen = network.frozen(side);
    let mut store = open(&root, side);
    let mut index = Index::open(&root);
    let transform = transform(side as u32);
    let mut told = Vec::new();
    let frozen = Some((&frozen, &mut store));
    let extraction = Extraction { paths: &paths, transform: &transform, index: &mut index, frozen };
    let photos = extraction.run(&GO_ON, &mut |event| told.push(format!("{event:?}"))).unwrap();
    assert_eq!(told[0], format!("NotKept {{ bytes: {} }}", 12 * side * side));
    assert!(photos.rows.iter().all(|row| !row.is_kept()) && photos.faults.is_empty());
    assert_eq!(network.batches.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(common::files_of(&root, "rows"), Vec::<PathBuf>::new());
}
