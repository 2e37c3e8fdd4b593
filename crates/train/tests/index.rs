//! The index of photos, under processes that are killed and processes that work side by side.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use common::{age, photos};
use engraft_data::{FileStamp, Note, Notes};
use engraft_train::{Index, Photo};
use tempfile::TempDir;

static GO_ON: AtomicBool = AtomicBool::new(false);

fn look_up(root: &Path, paths: &[PathBuf]) -> Vec<Option<Photo>> {
    Index::open(root).look_up(paths, &GO_ON).unwrap()
}

/// What is remembered of photo number `i`.
fn photo(i: usize) -> Photo {
    let notes = [Note::Alpha, Note::Deep].into_iter().take(i % 3).collect::<Notes>();
    let fault = (i % 4 == 3).then(|| format!("é{}", "ne ".repeat(i % 60) + &"n".repeat(i)).into());
    Photo { hash: [i as u8; 32], notes, fault }
}

fn remember(root: &Path, paths: &[PathBuf], from: usize) {
    let mut index = Index::open(root);
    for (i, path) in (from..).zip(paths) {
        index.remember(path, &FileStamp::of(path).unwrap(), &photo(i));
    }
    index.flush().unwrap();
}

fn sandbox(count: usize) -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let paths = photos(folder.path(), 0..count);
    (folder, paths)
}

fn expected(range: std::ops::Range<usize>) -> Vec<Option<Photo>> {
    range.map(|i| Some(photo(i))).collect()
}

#[test]
fn what_is_remembered_is_known() {
    let (folder, mut paths) = sandbox(200);
    let root = folder.path().join("cache");
    assert_eq!(look_up(&root, &paths), vec![None; 200]);
    remember(&root, &paths, 0);
    assert_eq!(look_up(&root, &paths), expected(0..200));
    // Given twice, or by another way.
    paths.push(paths[7].clone());
    paths.push(folder.path().join(".").join("9.ppm"));
    paths.push(folder.path().join("none.ppm"));
    assert_eq!(look_up(&root, &paths)[200..], [Some(photo(7)), Some(photo(9)), None]);
}

#[test]
fn a_file_that_has_changed_is_not_known() {
    let (folder, paths) = sandbox(5);
    let root = folder.path().join("cache");
    remember(&root, &paths, 0);
    // Other bytes; the same ones written again; another file in its place; a copy, which is another file.
    fs::write(&paths[0], "another").unwrap();
    age(&paths[0]);
    fs::File::options().append(true).open(&paths[1]).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let modified = fs::metadata(&paths[2]).unwrap().modified().unwrap();
    fs::copy(&paths[2], folder.path().join("copy")).unwrap();
    fs::File::options()
        .append(true)
        .open(folder.path().join("copy"))
        .unwrap()
        .set_modified(modified)
        .unwrap();
    fs::rename(folder.path().join("copy"), &paths[2]).unwrap();
    fs::rename(&paths[3], folder.path().join("moved")).unwrap();
    let found = look_up(&root, &paths);
    assert_eq!(found, [None, None, None, None, Some(photo(4))]);
    assert_eq!(look_up(&root, &[folder.path().join("moved")]), [None]);
}

#[test]
fn a_file_that_was_just_written_is_not_remembered() {
    let (folder, paths) = sandbox(3);
    let root = folder.path().join("cache");
    for (path, seconds) in paths.iter().zip([0_i64, 1, -1000]) {
        let now = SystemTime::now();
        let time = match seconds {
            ..0 => now + Duration::from_secs(seconds.unsigned_abs()),
            _ => now - Duration::from_secs(seconds.unsigned_abs()),
        };
        fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
    }
    remember(&root, &paths, 0);
    assert_eq!(look_up(&root, &paths), [None, None, None]);
}

/// As a process that is killed leaves it, or a disk that fills up: what is whole is known, and the next one goes on.
#[test]
fn a_log_that_ends_anywhere() {
    let (folder, paths) = sandbox(10);
    let root = folder.path().join("cache");
    remember(&root, &paths[..8], 0);
    let log = fs::read(root.join("index/photos")).unwrap();
    // The places where the frames of each photo end.
    let ends: Vec<usize> = (0..8)
        .scan(0, |end, i| {
            let text = photo(i).fault.map_or(0, |text| text.len().div_ceil(56));
            *end += 64 * (1 + text);
            Some(*end)
        })
        .collect();
    assert_eq!(ends[7], log.len());
    for length in 0..=log.len() {
        fs::write(root.join("index/photos"), &log[..length]).unwrap();
        let whole = ends.iter().filter(|end| **end <= length).count();
        let found = look_up(&root, &paths[..8]);
        assert_eq!(found[..whole], expected(0..whole), "{length}");
        assert!(found[whole..].iter().all(Option::is_none), "{length}");
        remember(&root, &paths[8..], 8);
        let found = look_up(&root, &paths);
        assert_eq!(
            (&found[..whole], &found[8..]),
            (&expected(0..whole)[..], &expected(8..10)[..]),
            "{length}"
        );
    }
}

#[test]
fn a_damaged_byte_costs_one_photo_and_tells_nothing_wrong() {
    let (folder, paths) = sandbox(8);
    let root = folder.path().join("cache");
    remember(&root, &paths, 0);
    let log = fs::read(root.join("index/photos")).unwrap();
    for byte in 0..log.len() {
        let mut damaged = log.clone();
        damaged[byte] ^= 0x41;
        fs::write(root.join("index/photos"), damaged).unwrap();
        let found = look_up(&root, &paths);
        assert_eq!(found.iter().flatten().count(), 7, "{byte}");
        assert!(
            found.iter().enumerate().all(|(i, found)| found.as_ref().is_none_or(|found| *found == photo(i)))
        );
    }
}

/// Where the processes that the next test starts find what they need.
const FOLDER: &str = "ENGRAFT_TEST_INDEX";

#[test]
#[ignore = "a process that the next test starts"]
fn remembers_one_by_one() {
    let root = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let first: usize = std::env::var("ENGRAFT_TEST_FIRST").unwrap().parse().unwrap();
    for i in (first..200).step_by(4) {
        let path = root.parent().unwrap().join(format!("{i}.ppm"));
        remember(&root, &[path], i);
    }
}

#[test]
fn processes_work_side_by_side() {
    let (folder, paths) = sandbox(200);
    let root = folder.path().join("cache");
    let start = |first: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "remembers_one_by_one"]).env(FOLDER, &root);
        command.env("ENGRAFT_TEST_FIRST", first.to_string()).stdout(Stdio::null()).spawn().unwrap()
    };
    let processes: Vec<_> = (0..4).map(start).collect();
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(look_up(&root, &paths), expected(0..200));
}

#[test]
fn ctrl_c_is_heard_and_a_folder_in_the_way_is_an_error() {
    let (folder, paths) = sandbox(2);
    remember(folder.path(), &paths, 0);
    let stopped = Index::open(folder.path()).look_up(&paths, &AtomicBool::new(true));
    assert!(matches!(stopped, Err(engraft_train::TrainError::Stopped)));
    fs::write(folder.path().join("file"), "").unwrap();
    let mut index = Index::open(&folder.path().join("file"));
    index.remember(&paths[0], &FileStamp::of(&paths[0]).unwrap(), &photo(0));
    assert!(index.flush().is_err());
    let mut none = Index::none();
    none.remember(&paths[0], &FileStamp::of(&paths[0]).unwrap(), &photo(0));
    none.flush().unwrap();
    assert_eq!(none.look_up(&paths, &GO_ON).unwrap(), [None, None]);
}
