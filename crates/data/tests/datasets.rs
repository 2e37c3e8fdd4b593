//! Folders and lists: what is found, how it is divided, and what is wrong with them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use engraft_data::{DataError, Dataset, Ignored, LabelMap, ListOptions, Reason, SplitSpec, condensed};
use tempfile::TempDir;

/// A folder with these files, all of the same few bytes.
fn folder(files: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "pixels").unwrap();
    }
    root
}

fn scan(root: &TempDir) -> Result<Dataset, DataError> {
    Dataset::from_folder(root.path(), &SplitSpec::default())
}

fn message(result: Result<Dataset, DataError>) -> String {
    result.expect_err("should be refused").to_string()
}

/// Paths below the root, with their class.
fn named(root: &TempDir, dataset: &Dataset, samples: &[engraft_data::Sample]) -> Vec<(String, String)> {
    let below = |path: &Path| path.strip_prefix(root.path()).unwrap().to_string_lossy().into_owned();
    samples.iter().map(|sample| (below(&sample.path), dataset.classes[sample.label].clone())).collect()
}

const GIVEN: [&str; 8] = [
    "train/b/2.jpg",
    "train/b/1.PNG",
    "train/a/deep/er/1.webp",
    "train/a/0.jpeg",
    "val/a/1.jpg",
    "val/b/1.jpg",
    "test/b/1.jpg",
    "cat_to_name.json",
];

#[test]
fn given_splits_are_taken_as_they_are_and_sorted() {
    let root = folder(&GIVEN);
    let dataset = scan(&root).unwrap();
    assert_eq!(dataset.classes, ["a", "b"]);
    let pairs =
        |list: &[(&str, &str)]| list.iter().map(|(p, c)| (p.to_string(), c.to_string())).collect::<Vec<_>>();
    let train = [
        ("train/a/0.jpeg", "a"),
        ("train/a/deep/er/1.webp", "a"),
        ("train/b/1.PNG", "b"),
        ("train/b/2.jpg", "b"),
    ];
    assert_eq!(named(&root, &dataset, &dataset.train), pairs(&train));
    assert_eq!(named(&root, &dataset, &dataset.valid), pairs(&[("val/a/1.jpg", "a"), ("val/b/1.jpg", "b")]));
    assert_eq!(named(&root, &dataset, &dataset.test), pairs(&[("test/b/1.jpg", "b")]));
    assert_eq!(dataset.warnings.len(), 1);
    assert!(
        dataset.warnings[0]
            .ends_with("test has no images of class \"a\": its accuracy is not measured there")
    );
}

#[test]
fn a_class_that_valid_lacks_does_not_shift_the_labels() {
    let root =
        folder(&["train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "valid/c/1.jpg", "valid/b/note.txt"]);
    let dataset = scan(&root).unwrap();
    assert_eq!(dataset.valid[0].label, 2);
    assert_eq!(dataset.warnings.len(), 2);
    let note = Ignored { path: root.path().join("valid/b/note.txt"), reason: Reason::NoImage("txt".into()) };
    assert_eq!(dataset.ignored, [note]);
}

#[test]
fn hidden_files_and_folders_are_passed_over_and_a_gif_is_reported() {
    let mut files = GIVEN.to_vec();
    files.extend(["train/.ipynb_checkpoints/1.jpg", "train/__MACOSX/1.jpg", "train/a/._0.jpg"]);
    files.extend(["train/a/.cache/0.jpg", "train/a/Thumbs.db", "train/a/blank.gif", "train/loose.jpg"]);
    let root = folder(&files);
    let dataset = scan(&root).unwrap();
    assert_eq!((dataset.classes.len(), dataset.train.len()), (2, 4));
    let ignored: Vec<String> = condensed(&dataset.ignored, root.path());
    assert_eq!(
        ignored,
        [
            "2 files are not used: they lie outside the class folders: cat_to_name.json, train/loose.jpg",
            "3 files or folders are not used: they are hidden: train/.ipynb_checkpoints, train/a/._0.jpg, train/a/.cache",
            "train/__MACOSX is not used: it is a folder that a system keeps for itself",
            "train/a/blank.gif is not used: it is a GIF, which torchvision's ImageFolder passes over too: to use it, convert it to PNG or name it in a CSV list",
        ]
    );
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles_or_into_nothing() {
    use std::os::unix::fs::symlink;
    let root = folder(&["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", ".elsewhere/3.jpg"]);
    symlink(root.path().join(".elsewhere"), root.path().join("a/more")).unwrap();
    symlink(root.path().join("a"), root.path().join("a/circle")).unwrap();
    symlink(root.path().join("nothing"), root.path().join("b/3.jpg")).unwrap();
    let dataset = scan(&root).unwrap();
    assert_eq!(dataset.train.len() + dataset.valid.len(), 5);
    let dead = Ignored { path: root.path().join("b/3.jpg"), reason: Reason::Unreadable };
    assert!(dataset.ignored.contains(&dead), "{:?}", dataset.ignored);
}

#[test]
fn without_valid_the_validation_comes_from_train_and_a_warning_says_so() {
    let files: Vec<String> =
        (0..20).map(|i| format!("train/{}/{i}.jpg", if i < 10 { "a" } else { "b" })).collect();
    let root = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let dataset = scan(&root).unwrap();
    assert_eq!((dataset.train.len(), dataset.valid.len(), dataset.test.len()), (16, 4, 0));
    assert_eq!(dataset.warnings, ["no validation images are given: 20 % of train/ are used for validation"]);
}

fn two_classes(large: usize, small: usize) -> TempDir {
    let files: Vec<String> = (0..large)
        .map(|i| format!("large/{i}.jpg"))
        .chain((0..small).map(|i| format!("small/{i}.jpg")))
        .collect();
    folder(&files.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_split_is_stratified_complete_and_seeded() {
    let root = two_classes(200, 40);
    let split =
        |seed| Dataset::from_folder(root.path(), &SplitSpec { valid: 0.25, test: 0.1, seed }).unwrap();
    let dataset = split(7);
    for (samples, large, small) in
        [(&dataset.train, 130, 26), (&dataset.valid, 50, 10), (&dataset.test, 20, 4)]
    {
        let of = |label| samples.iter().filter(|sample| sample.label == label).count();
        assert_eq!((of(0), of(1)), (large, small));
    }
    let all: BTreeSet<&PathBuf> =
        [&dataset.train, &dataset.valid, &dataset.test].into_iter().flatten().map(|s| &s.path).collect();
    assert_eq!(all.len(), 240);
    assert_eq!(dataset, split(7));
    assert_ne!(dataset.valid, split(8).valid);
}

#[test]
fn a_split_does_not_depend_on_where_the_folder_lies_nor_much_on_new_images() {
    let names = |dataset: Dataset, root: &TempDir| -> BTreeSet<String> {
        named(root, &dataset, &dataset.valid).into_iter().map(|(path, _)| path).collect()
    };
    let (first, second, larger) = (two_classes(100, 10), two_classes(100, 10), two_classes(104, 10));
    let valid = names(scan(&first).unwrap(), &first);
    assert_eq!(valid, names(scan(&second).unwrap(), &second));
    let later = names(scan(&larger).unwrap(), &larger);
    assert!(valid.intersection(&later).count() >= valid.len() - 4);
}

#[test]
fn bad_folders_are_refused_in_words() {
    let cases: [(&[&str], &str); 8] = [
        (&["train/a/1.jpg", "valid/a/1.jpg"], "there is only one class, \"a\": at least two are needed"),
        (&["train/a/1.jpg", "train/b/x.gif"], "class \"b\" has no images to train on in "),
        (
            &["train/a/1.jpg", "train/b/1.jpg", "valid/a/1.jpg", "valid/c/1.jpg"],
            "/valid is not in train/, whose classes are a, b",
        ),
        (&["valid/a/1.jpg"], " has valid/, but no train/"),
        (
            &["train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"],
            " has both val/ and valid/: remove or rename one of them",
        ),
        (&["1.jpg", "2.jpg"], "has no class folders: put the images of each class into a folder of its own"),
        (
            &["a/1.jpg", "b/1.jpg", "b/2.jpg"],
            "class \"a\" has too few images to be split: 1, and 2 are needed",
        ),
        (&["train/1.jpg"], "train has no class folders"),
    ];
    for (files, words) in cases {
        let message = message(scan(&folder(files)));
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn data_that_is_missing_or_no_folder_is_refused_in_words() {
    let root = folder(&["file"]);
    let split = SplitSpec::default();
    assert!(message(Dataset::from_folder(root.path().join("x"), &split)).ends_with("x does not exist"));
    assert!(
        message(Dataset::from_folder(root.path().join("file"), &split))
            .contains("is a file: a folder of class folders")
    );
    let opened = Dataset::open(&root.path().join("file"), &ListOptions::default(), &split);
    assert!(
        message(opened).contains("is no list of images: a text file with a path and a label in each line")
    );
    assert!(
        message(Dataset::open(&root.path().join("x"), &ListOptions::default(), &split))
            .ends_with("x does not exist")
    );
    for (valid, test) in [(1.0, 0.0), (-0.1, 0.0), (0.5, 0.5), (f64::NAN, 0.0)] {
        let message = message(Dataset::from_folder(root.path(), &SplitSpec { valid, test, seed: 0 }));
        assert!(message.contains("must be 0 or more, and together less than 1"), "{message}");
    }
}

#[test]
fn the_shared_ants_and_bees_are_counted_as_torchvision_counts_them() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/hymenoptera"));
    if !root.is_dir() {
        println!("skipped: there is no folder ../shared/data/hymenoptera");
        return;
    }
    let dataset = Dataset::from_folder(root, &SplitSpec::default()).unwrap();
    let count = |samples: &[engraft_data::Sample], label| {
        samples.iter().filter(|sample| sample.label == label).count()
    };
    assert_eq!(dataset.classes, ["ants", "bees"]);
    assert_eq!((count(&dataset.train, 0), count(&dataset.train, 1)), (123, 121));
    assert_eq!((count(&dataset.valid, 0), count(&dataset.valid, 1)), (70, 83));
    assert_eq!(dataset.ignored.len(), 1);
    assert!(dataset.ignored[0].path.ends_with("imageNotFound.gif"));
}

/// Ten images and a list.
fn list(text: &str) -> (TempDir, PathBuf) {
    let files: Vec<String> = (0..10).map(|i| format!("images/{i}.gif")).collect();
    let root = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let path = root.path().join("labels.csv");
    std::fs::write(&path, text).unwrap();
    (root, path)
}

fn read(text: &str, options: &ListOptions) -> Result<Dataset, DataError> {
    let (_root, path) = list(text);
    Dataset::from_list(path, options, &SplitSpec::default())
}

/// The classes and the number of images of each.
fn counts(dataset: &Dataset) -> Vec<(&str, usize)> {
    let all = || dataset.train.iter().chain(&dataset.valid).chain(&dataset.test);
    let count = |label| all().filter(|sample| sample.label == label).count();
    dataset.classes.iter().enumerate().map(|(label, class)| (&class[..], count(label))).collect()
}

#[test]
fn columns_split_by_spaces_are_mapped_by_number() {
    let text = "images/0.gif  1.0                 mono\n\
                images/1.gif  0.3333333333333333  mono\n\
                images/2.gif  0.6666666666666666  poly\n\
                images/3.gif  0.0                 poly\n";
    let map = "0=ok,0.333=ok,0.667=defective,1=defective,9=other".parse().unwrap();
    let dataset = read(text, &ListOptions { map, root: None }).unwrap();
    assert_eq!(counts(&dataset), [("defective", 2), ("ok", 2)]);
    assert_eq!(dataset.warnings.len(), 1);
    assert!(dataset.warnings[0].ends_with("is mapped to class \"other\""));
}

#[test]
fn separators_headers_and_quotes_are_recognised() {
    let rows = [("0.gif", "cat"), ("1.gif", "dog"), ("2.gif", "cat"), ("3.gif", "dog")];
    let body =
        |separator: &str| rows.map(|(path, label)| format!("images/{path}{separator}{label}\n")).concat();
    let texts = [
        body(","),
        body(";"),
        body("\t"),
        body(" "),
        format!("path,label\n{}", body(",")),
        format!("\u{feff}Filename;CLASS\r\n{}", body(";")),
        format!("image\ttarget\n\n{}\n", body("\t")),
        rows.map(|(path, label)| format!("\"images/{path}\",\"{label}\"\n")).concat(),
        format!("id,label,file\n{}", rows.map(|(path, label)| format!("7,{label},images/{path}\n")).concat()),
    ];
    for text in texts {
        let dataset = read(&text, &ListOptions::default()).unwrap();
        assert_eq!(counts(&dataset), [("cat", 2), ("dog", 2)], "{text}");
        assert!(dataset.warnings.is_empty(), "{:?}", dataset.warnings);
    }
}

#[test]
fn a_split_column_is_honoured() {
    let text = "path,label,split\nimages/0.gif,a,train\nimages/1.gif,b,train\nimages/2.gif,a,val\nimages/3.gif,b,test\n";
    let dataset = read(text, &ListOptions::default()).unwrap();
    let names = |samples: &[engraft_data::Sample]| {
        samples.iter().map(|s| s.path.file_name().unwrap().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&dataset.train), ["0.gif", "1.gif"]);
    assert_eq!(names(&dataset.valid), ["2.gif"]);
    assert_eq!(names(&dataset.test), ["3.gif"]);
    let wrong = message(read(&text.replace("test", "holdout"), &ListOptions::default()));
    assert!(
        wrong.ends_with("labels.csv, line 5: its split is \"holdout\", not train, valid or test"),
        "{wrong}"
    );
}

#[test]
fn paths_are_relative_to_the_root_that_is_given() {
    let (root, path) = list("0.gif,a\n1.gif,a\n2.gif,b\n3.gif,b\n0.gif,a\n");
    let options = ListOptions { root: Some(root.path().join("images")), map: LabelMap::default() };
    let dataset = Dataset::open(&path, &options, &SplitSpec::default()).unwrap();
    assert_eq!(counts(&dataset), [("a", 2), ("b", 2)]);
    assert!(dataset.warnings[0].ends_with("lines that name a file again and are not used: 1"));
}

#[test]
fn bad_lists_are_refused_in_words() {
    let mapped = ListOptions { root: None, map: "0=ok,1=defective".parse().unwrap() };
    let plain = ListOptions::default();
    let missing: String = (0..20).map(|i| format!("images/{i}.gif,{}\n", i % 2)).collect();
    let cases = [
        ("", &plain, "labels.csv lists no images"),
        ("path,label\n", &plain, "labels.csv lists no images"),
        ("words\nwithout columns\n", &plain, "labels.csv is no list of images"),
        ("images/0.gif\0,a\n", &plain, "labels.csv is no list of images"),
        ("images/0.gif,a\nimages/1.gif,a\n", &plain, "there is only one class, \"a\""),
        ("images/0.gif,a\nimages/1.gif,\n", &plain, "labels.csv, line 2: it has no label"),
        ("images/0.gif,a\n,b\n", &plain, "labels.csv, line 2: it has no path"),
        (
            "images/0.gif,0\nimages/1.gif,0.5\nimages/2.gif,1\nimages/3.gif,0.5\n",
            &mapped,
            "labels.csv, line 2: label \"0.5\" (2 times in the list) has no class; the map has 0, 1",
        ),
        (&missing, &plain, "10 of 20 files are not in "),
        (
            &missing,
            &plain,
            "images/10.gif (line 11), images/11.gif (line 12), images/12.gif (line 13), images/13.gif (line 14), images/14.gif (line 15), ...",
        ),
        (
            "images/0.gif,a\nimages/1.gif,b\nimages/0.gif,b\n",
            &plain,
            "images/0.gif is listed as \"a\" in line 1 and as \"b\" in line 3",
        ),
        (
            "path,label,split\nimages/0.gif,a,train\nimages/1.gif,b,val\n",
            &plain,
            "class \"b\" has no images to train on",
        ),
    ];
    for (text, options, words) in cases {
        let message = message(read(text, options));
        assert!(message.contains(words), "{message}");
    }
    let nowhere = Dataset::from_list("nowhere.csv", &plain, &SplitSpec::default());
    assert_eq!(message(nowhere), "nowhere.csv does not exist");
}

#[test]
fn labels_match_by_number_to_three_decimals_or_by_text() {
    let map: LabelMap = "0=none, 0.333=low,0.334=mid,1=full,n/a=none".parse().unwrap();
    let cases = [
        ("0.0", Some("none")),
        ("0.3333333333333333", Some("low")),
        ("0.3336", Some("mid")),
        ("1", Some("full")),
    ];
    let others =
        [("1.0005", Some("full")), ("1.001", None), ("n/a", Some("none")), ("N/A", None), ("0.33", None)];
    for (label, class) in cases.into_iter().chain(others) {
        assert_eq!(map.class_of(label), class, "{label}");
    }
    for (text, words) in [
        ("0=a,0=b", "0 occurs twice"),
        ("0", "\"0\" is not LABEL=CLASS"),
        ("=a", "\"=a\" is not"),
        ("", "is not LABEL=CLASS"),
    ] {
        let message = text.parse::<LabelMap>().unwrap_err().to_string();
        assert!(message.contains(words) && message.ends_with("(example: 0=ok,1=defective)"), "{message}");
    }
}
