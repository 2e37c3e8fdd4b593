//! Folders as people have them: other words for splits, what systems leave behind, names that look alike.

use std::fs;
use std::path::Path;

use engraft_data::{DataError, Dataset, Reason, Source, SplitSpec, condensed, images_below};
use tempfile::TempDir;

/// A folder with these files. `train/cats/3` stands for three photos.
fn folder(entries: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for entry in entries {
        add(root.path(), entry);
    }
    root
}

fn add(root: &Path, entry: &str) {
    let path = root.join(entry);
    let count = path.file_name().and_then(|name| name.to_str()?.parse::<usize>().ok());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match count {
        Some(count) => {
            (0..count).for_each(|i| fs::write(path.with_file_name(format!("{i}.jpg")), "x").unwrap())
        }
        None => fs::write(path, "x").unwrap(),
    }
}

fn scan(root: &TempDir) -> Result<Dataset, DataError> {
    Dataset::from_folder(root.path(), &SplitSpec { valid: 0.2, test: 0.0, seed: 0 })
}

fn refusal(entries: &[&str]) -> String {
    let root = folder(entries);
    let message = scan(&root).expect_err("should be refused").to_string();
    message.replace(&root.path().display().to_string(), "DATA")
}

fn read_as(entries: &[&str]) -> String {
    scan(&folder(entries)).unwrap().reading.to_string()
}

#[test]
fn splits_in_other_words_and_cases_are_splits() {
    let words = [
        ["train", "valid", "test"],
        ["training_set", "validation_set", "test_set"],
        ["training", "validation", "testing"],
        ["Train", "Val", "Test"],
        ["TRAIN", "VAL", "TEST"],
        ["train2017", "val2017", "test2017"],
        ["seg_train", "seg_valid", "seg_test"],
        ["TrainSet", "dev", "TestSet"],
    ];
    for [train, valid, test] in words {
        let of =
            |split: &str, count: usize| [format!("{split}/cats/{count}"), format!("{split}/dogs/{count}")];
        let entries: Vec<String> = [of(train, 4), of(valid, 3), of(test, 2)].concat();
        let root = folder(&entries.iter().map(String::as_str).collect::<Vec<_>>());
        let dataset = scan(&root).unwrap();
        assert_eq!(dataset.classes, ["cats", "dogs"], "{train}");
        assert_eq!(dataset.reading.split, [8, 6, 4]);
        assert_eq!(dataset.reading.to_string(), format!("{train}/ 8, {valid}/ 6, {test}/ 4; cats 9, dogs 9"));
        assert!(dataset.warnings.is_empty(), "{:?}", dataset.warnings);
        for (samples, split) in [(&dataset.train, train), (&dataset.valid, valid), (&dataset.test, test)] {
            assert!(samples.iter().all(|sample| sample.path.starts_with(root.path().join(split))));
        }
    }
}

#[test]
fn a_training_set_and_a_test_set_alone_are_splits() {
    let text =
        read_as(&["training_set/cats/10", "training_set/dogs/10", "test_set/cats/5", "test_set/dogs/5"]);
    assert_eq!(
        text,
        "training_set/ 20, test_set/ 10 (of training_set/ 4 are kept for other splits); cats 15, dogs 15"
    );
}

#[test]
fn a_folder_of_its_own_name_inside_a_split_is_passed_through() {
    let text = read_as(&[
        "training_set/training_set/cats/5",
        "training_set/training_set/dogs/5",
        "test_set/test_set/cats/2",
        "test_set/test_set/dogs/2",
    ]);
    assert!(text.starts_with("training_set/ 10, test_set/ 4"), "{text}");
    assert!(text.ends_with("cats 7, dogs 7"), "{text}");
}

#[test]
fn train_and_validation_are_splits() {
    let text = read_as(&["train/cats/4", "train/dogs/4", "validation/cats/3", "validation/dogs/3"]);
    assert_eq!(text, "train/ 8, validation/ 6; cats 7, dogs 7");
}

#[test]
fn two_folders_for_one_split_are_refused() {
    let both = ["train/a/1", "train/b/1", "valid/a/1", "validation/a/1"];
    assert_eq!(refusal(&both), "DATA has both valid/ and validation/: remove or rename one of them");
    let both = ["train/a/1", "train/b/1", "Train/a/1"];
    assert_eq!(refusal(&both), "DATA has both Train/ and train/: remove or rename one of them");
}

#[test]
fn what_can_be_read_in_two_ways_is_refused_with_both() {
    assert_eq!(
        refusal(&["train/3", "bus/3"]),
        "DATA can be read in two ways: as splits (train/ for training, but without class folders), or as one folder a class (bus, train); \
         if train/ is a class, rename it, or put all class folders into a folder train/; \
         if it is the training set, put its images into class folders and bus/ elsewhere"
    );
    assert_eq!(
        refusal(&["cats/3", "dogs/3", "test/3"]),
        "DATA can be read in two ways: as splits (test/ as a split, and no folder for training), or as one folder a class (cats, dogs, test); \
         if test/ belongs to a split, put the other folders into a folder train/; \
         if it is a class, rename it, or put all class folders into a folder train/"
    );
    assert_eq!(
        refusal(&["train/cats/3", "train/dogs/3", "birds/3"]),
        "DATA can be read in two ways: as splits (train/, and birds/ not used), or as one folder a class (birds, train); \
         if train/ is the training set, put birds/ into it or elsewhere; \
         if it is a class, rename it, or put all class folders into a folder train/"
    );
    assert!(refusal(&["cats/3", "test/cats/3", "test/dogs/3", "dogs/3"]).contains("can be read in two ways"));
    assert_eq!(refusal(&["test/a/1", "test/b/1"]), "DATA has test/, but no train/");
    assert_eq!(refusal(&["valid/a/1", "Test/a/1"]), "DATA has valid/, Test/, but no train/");
}

#[test]
fn the_way_out_of_two_readings_works() {
    assert_eq!(
        read_as(&["train/train/5", "train/bus/5", "val/train/1", "val/bus/1"]),
        "train/ 10, val/ 2; bus 6, train 6"
    );
    assert!(
        read_as(&["bullet_train/5", "bus/5"]).starts_with("one folder a class, 10 photos, split 8/2/0; ")
    );
}

#[test]
fn a_folder_beside_certain_splits_is_named() {
    let root =
        folder(&["train/cats/4", "train/dogs/4", "val/cats/2", "val/dogs/2", "birds/30", "notes/readme.txt"]);
    let dataset = scan(&root).unwrap();
    assert_eq!(dataset.classes, ["cats", "dogs"]);
    assert_eq!(
        condensed(&dataset.ignored, root.path()),
        [
            "birds is not used: it lies beside the splits, with 30 images",
            "notes is not used: it lies beside the splits, with 0 images"
        ]
    );
}

#[test]
fn splits_inside_of_classes_are_refused() {
    let message = refusal(&["cats/train/3", "cats/test/3", "dogs/train/3", "dogs/test/3"]);
    assert_eq!(
        message,
        "DATA has splits inside of its classes (cats/test/, cats/train/): put the classes into the splits, as in train/cats/"
    );
}

#[test]
fn a_folder_too_many_is_named() {
    let message = refusal(&["photos/train/a/1", "photos/train/b/1", "photos/val/a/1"]);
    assert_eq!(
        message,
        "DATA holds a single folder, in which there are train, val: name DATA/photos as the data"
    );
    let message = refusal(&["photos/cats/3", "photos/dogs/3"]);
    assert_eq!(
        message,
        "DATA holds a single folder, in which there are cats, dogs: name DATA/photos as the data"
    );
}

#[test]
fn what_systems_leave_behind_is_no_class_and_named_once() {
    let mut entries =
        vec!["cats/5", "dogs/5", "@eaDir/cats/3", "__MACOSX/cats/3", "#recycle/3", "lost+found/1"];
    entries.extend([
        ".ipynb_checkpoints/2",
        ".thumbnails/2",
        "$RECYCLE.BIN/2",
        "cats/.DS_Store",
        "cats/Thumbs.db",
    ]);
    let nested: Vec<String> = (0..5).map(|i| format!("cats/@eaDir/{i}.jpg/SYNOPHOTO_THUMB_M.jpg")).collect();
    entries.extend(nested.iter().map(String::as_str));
    let root = folder(&entries);
    let dataset = scan(&root).unwrap();
    assert_eq!(dataset.reading.to_string(), "one folder a class, 10 photos, split 8/2/0; cats 5, dogs 5");
    assert_eq!(
        condensed(&dataset.ignored, root.path()),
        [
            "6 folders are not used: they are such as a system keeps for itself: #recycle, $RECYCLE.BIN, @eaDir, ...",
            "2 files or folders are not used: they are hidden: .ipynb_checkpoints, .thumbnails",
        ]
    );
}

#[test]
fn names_that_a_person_takes_for_one_are_warned_of() {
    for (first, second, difference) in [
        ("Cat", "cat", "upper and lower case"),
        ("daisy", "daisy ", "a space at the beginning or the end"),
        ("caf\u{e9}", "cafe\u{301}", "how their accents are encoded"),
        ("Golden Retriever", "golden_retriever", "case, spaces, hyphens or accents"),
    ] {
        let root = folder(&[&format!("{first}/2"), &format!("{second}/2"), "other/2"]);
        let dataset = scan(&root).unwrap();
        // Where the file system does not tell them apart they are one folder.
        if dataset.classes.len() == 3 {
            assert_eq!(dataset.warnings.len(), 1, "{:?}", dataset.warnings);
            assert!(
                dataset.warnings[0]
                    .contains(&format!("differ only in {difference}: they are two classes here"))
            );
        }
    }
}

#[test]
fn a_twin_in_another_split_is_named() {
    let message = refusal(&["train/Cat/1", "train/dog/1", "val/cat/1", "val/dog/1"]);
    assert_eq!(
        message,
        "class \"cat\" of DATA/val is not in train/, whose classes are Cat, dog; it differs from \"Cat\" in upper and lower case"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf_8_are_refused_and_never_merged() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let root = folder(&["a/2", "b/2"]);
    for name in [&b"caf\xe9"[..], b"caf\xe8"] {
        let class = root.path().join(OsStr::from_bytes(name));
        fs::create_dir(&class).unwrap();
        fs::write(class.join("1.jpg"), "x").unwrap();
    }
    let message = scan(&root).unwrap_err().to_string();
    assert!(
        message.contains("caf\\xE8\" is not UTF-8, so that it cannot name a class: rename it"),
        "{message}"
    );
    // The names of photos may be any bytes.
    let root = folder(&["a/2", "b/2"]);
    for name in [&b"\xe9.jpg"[..], b"\xe8.jpg"] {
        fs::write(root.path().join("a").join(OsStr::from_bytes(name)), "x").unwrap();
    }
    assert_eq!(scan(&root).unwrap().reading.classes, [("a".to_owned(), 4), ("b".to_owned(), 2)]);
}

#[test]
fn many_alike_files_are_one_sentence() {
    let heic: Vec<String> = (0..300).map(|i| format!("cats/IMG_{i}.heic")).collect();
    let mut entries: Vec<&str> = heic.iter().map(String::as_str).collect();
    entries.extend(["cats/2", "dogs/2", "dogs/scan", "dogs/a.CR2"]);
    let root = folder(&entries);
    let sentences = condensed(&scan(&root).unwrap().ignored, root.path());
    assert_eq!(
        sentences,
        [
            "300 files are not used: they are no images by their names (.heic): cats/IMG_0.heic, cats/IMG_1.heic, cats/IMG_10.heic, ...",
            "dogs/a.CR2 is not used: it is no image by its name (.cr2)",
            "dogs/scan is not used: it is no image by its name, which has no ending",
        ]
    );
}

#[test]
fn a_class_without_usable_images_says_what_is_there() {
    assert_eq!(
        refusal(&["cats/2", "dogs/a.heic", "dogs/b.heic"]),
        "class \"dogs\" has no images to train on in DATA/dogs (2 files are not used: they are no images by their names (.heic): a.heic, b.heic): add some, or remove the class"
    );
}

#[test]
fn images_below_a_folder_come_with_what_is_passed_over() {
    let root =
        folder(&["a.jpg", "b.JFIF", "c.jpe", "d.heic", "e.gif", "f", "deep/g.CR2", "deep/h.webp", ".i.jpg"]);
    let found = images_below(root.path()).unwrap();
    let names: Vec<_> = found.images.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["a.jpg", "b.JFIF", "c.jpe", "h.webp"]);
    let reasons: Vec<_> = found.ignored.iter().map(|ignored| ignored.reason.clone()).collect();
    let no_image = |ending: &str| Reason::NoImage(ending.into());
    for reason in [no_image("heic"), no_image("gif"), no_image(""), no_image("cr2"), Reason::Hidden] {
        assert!(reasons.contains(&reason), "{reason:?}");
    }
    assert_eq!(reasons.len(), 5);
}

#[test]
fn a_list_inside_of_the_folder_is_mentioned() {
    let root = folder(&["cats/2", "dogs/2", "labels.csv"]);
    let dataset = scan(&root).unwrap();
    assert_eq!(dataset.warnings.len(), 1);
    assert!(dataset.warnings[0].contains("labels.csv is there and not used"), "{:?}", dataset.warnings);
    assert_eq!(
        refusal(&["1.jpg", "2.jpg", "labels.csv"]),
        "DATA has no class folders: put the images of each class into a folder of its own, named like the class; or, if the labels are in DATA/labels.csv, name DATA/labels.csv as the data"
    );
}

#[cfg(unix)]
#[test]
fn a_tree_of_links_is_read_once() {
    use std::os::unix::fs::symlink;
    let root = folder(&["cats/2", "dogs/2"]);
    // 2^30 ways lead to the photo.
    let towers = root.path().join(".tower");
    fs::create_dir_all(towers.join("30")).unwrap();
    fs::write(towers.join("30/deep.jpg"), "x").unwrap();
    for level in (0..30).rev() {
        let folder = towers.join(level.to_string());
        fs::create_dir(&folder).unwrap();
        for way in ["left", "right"] {
            symlink(towers.join((level + 1).to_string()), folder.join(way)).unwrap();
        }
    }
    symlink(towers.join("0"), root.path().join("cats/tower")).unwrap();
    let dataset = scan(&root).unwrap();
    assert_eq!(dataset.reading.classes, [("cats".to_owned(), 3), ("dogs".to_owned(), 2)]);
    assert_eq!(dataset.ignored.iter().filter(|ignored| ignored.reason == Reason::Again).count(), 30);
}

#[cfg(unix)]
#[test]
fn a_file_that_links_reach_twice_is_one_sample() {
    use std::os::unix::fs::symlink;
    let root = folder(&["cats/3", "dogs/2", ".store/x.jpg"]);
    let cats = root.path().join("cats");
    symlink(cats.join("0.jpg"), cats.join("again.jpg")).unwrap();
    fs::create_dir(cats.join("best")).unwrap();
    symlink(cats.join("1.jpg"), cats.join("best/1.jpg")).unwrap();
    for name in ["first.jpg", "second.jpg"] {
        symlink(root.path().join(".store/x.jpg"), cats.join(name)).unwrap();
    }
    let dataset = scan(&root).unwrap();
    assert_eq!(dataset.reading.classes[0], ("cats".to_owned(), 4));
    assert_eq!(dataset.ignored.iter().filter(|ignored| ignored.reason == Reason::Again).count(), 3);
}

#[cfg(unix)]
#[test]
fn a_link_between_splits_names_one_folder() {
    let root = folder(&["train/a/2", "train/b/2", "val/a/1", "val/b/1"]);
    std::os::unix::fs::symlink(root.path().join("val"), root.path().join("valid")).unwrap();
    let dataset = scan(&root).unwrap();
    assert_eq!(dataset.reading.split, [4, 2, 0]);
    assert_eq!(
        condensed(&dataset.ignored, root.path()),
        ["valid is not used: it is a link to what the class has already"]
    );
}

#[cfg(unix)]
#[test]
fn a_pipe_in_a_class_folder_is_named_and_not_opened() {
    let root = folder(&["cats/2", "dogs/2"]);
    let pipe = root.path().join("cats/pipe.jpg");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let dataset = scan(&root).unwrap();
    assert_eq!(dataset.ignored.len(), 1);
    assert_eq!(dataset.ignored[0].reason, Reason::NoFile);
}

#[test]
fn the_reading_names_classes_or_the_smallest_and_the_largest() {
    let text = read_as(&["train/ants/123", "train/bees/121", "valid/ants/70", "valid/bees/83"]);
    assert_eq!(text, "train/ 244, valid/ 153; ants 193, bees 204");
    let entries: Vec<String> = (1..=102).map(|i| format!("class{i:03}/{}", i + 1)).collect();
    let root = folder(&entries.iter().map(String::as_str).collect::<Vec<_>>());
    let dataset = Dataset::from_folder(root.path(), &SplitSpec { valid: 0.2, test: 0.2, seed: 0 });
    assert!(dataset.is_err());
    let dataset = scan(&root).unwrap();
    assert_eq!(dataset.reading.source, Source::Classes);
    let text = dataset.reading.to_string();
    assert!(text.starts_with("one folder a class, 5355 photos, split "), "{text}");
    assert!(text.ends_with("/0; 102 classes of 2 (class001) to 103 (class102) photos"), "{text}");
}

#[test]
fn what_is_said_of_small_classes_helps() {
    let try_with = |sizes: [usize; 2], valid, test| {
        let root = folder(&[&format!("large/{}", sizes[0]), &format!("small/{}", sizes[1])]);
        Dataset::from_folder(root.path(), &SplitSpec { valid, test, seed: 0 })
            .map(|dataset| dataset.reading.split)
    };
    let words = |result: Result<[usize; 3], DataError>| result.unwrap_err().to_string();
    let message = words(try_with([9, 2], 0.2, 0.2));
    assert_eq!(
        message,
        "class \"small\" has too few images to be split: 2, and 3 are needed; add some, remove the class, or keep no images for the test"
    );
    assert!(try_with([9, 3], 0.2, 0.2).is_ok() && try_with([9, 2], 0.2, 0.0).is_ok());
    let message = words(try_with([9, 3], 0.6, 0.3));
    assert_eq!(
        message,
        "class \"small\" has too few images to be split: 3, and 4 are needed; add some, or make the fractions smaller"
    );
    assert!(try_with([9, 4], 0.6, 0.3).is_ok() && try_with([9, 3], 0.2, 0.1).is_ok());
    let message = words(try_with([1, 1], 0.2, 0.0));
    assert_eq!(
        message,
        "class \"large\" has too few images to be split: 1, and 2 are needed (too few are also in: small 1); add some, or remove the class (smaller fractions do not help)"
    );
}
