//! Everything that is known to go wrong with folders, two at a time: no photo is lost, and none gets a label or
//! a split that is not its own.
//!
//! Each oddity adds files to a good folder and knows what may become of each of them. Every photo must be a
//! sample of its own class and split, or stand in `ignored` (itself or a folder above it), or the whole must be
//! refused with an error that names something of the oddities.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use engraft_data::{Dataset, ListOptions, SplitSpec};

/// What a person means by a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meant {
    /// A photo of this class, in this split if any.
    Photo(&'static str, Option<&'static str>),
    /// Must be no sample: a thumbnail, a link to what is there already, no picture.
    Nothing,
    /// May be used under its own folder's name, or be refused or ignored: only silence is wrong.
    Unclear(&'static str),
}

/// A good folder, to which oddities are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Splits,
    Classes,
}

#[derive(Debug, Clone, Copy)]
struct Oddity {
    name: &'static str,
    /// Files, and what is meant by them.
    files: &'static [(&'static str, Meant)],
    /// Splits get these names.
    renamed: [&'static str; 3],
    /// Words that an error about it has; none: it is no reason for an error.
    refused: &'static [&'static str],
}

const PLAIN: [&str; 3] = ["train", "valid", "test"];

const fn oddity(
    name: &'static str,
    files: &'static [(&'static str, Meant)],
    refused: &'static [&'static str],
) -> Oddity {
    Oddity { name, files, renamed: PLAIN, refused }
}

const fn words(name: &'static str, renamed: [&'static str; 3]) -> Oddity {
    Oddity { name, files: &[], renamed, refused: &[] }
}

use Meant::{Nothing, Photo, Unclear};

/// `T` stands for the folder of the classes: `train/` as it is called, or the root.
const ODDITIES: [Oddity; 27] = [
    words("training_set", ["training_set", "validation_set", "test_set"]),
    words("Training", ["Training", "Validation", "Testing"]),
    words("TRAIN", ["TRAIN", "VAL", "TEST"]),
    words("seg_train", ["seg_train", "seg_val", "seg_test"]),
    words("val", ["train", "val", "test"]),
    oddity("two validations", &[("validation/cats/x1.jpg", Unclear("cats"))], &["validation"]),
    oddity("birds beside", &[("birds/x2.jpg", Unclear("birds"))], &["birds"]),
    oddity("class called train", &[("train/x3.jpg", Unclear("train"))], &["train"]),
    oddity("class called test", &[("test/x4.jpg", Unclear("test"))], &["test"]),
    oddity("test with classes", &[("test/cats/x5.jpg", Unclear("cats"))], &["test"]),
    oddity(
        "NAS",
        &[("@eaDir/cats/x6.jpg", Nothing), ("T/cats/@eaDir/x7.jpg", Nothing), ("T/@eaDir/x8.jpg", Nothing)],
        &[],
    ),
    oddity(
        "macOS",
        &[("__MACOSX/cats/._x9.jpg", Nothing), ("T/cats/._x10.jpg", Nothing), ("T/cats/.DS_Store", Nothing)],
        &[],
    ),
    oddity(
        "notebook",
        &[
            (".ipynb_checkpoints/x11.jpg", Nothing),
            ("T/.ipynb_checkpoints/x12.jpg", Nothing),
            ("T/cats/.ipynb_checkpoints/x13.jpg", Nothing),
        ],
        &[],
    ),
    oddity(
        "recycled",
        &[("#recycle/x14.jpg", Nothing), ("$RECYCLE.BIN/x15.jpg", Nothing), ("lost+found/x16.jpg", Nothing)],
        &[],
    ),
    oddity(
        "case twins",
        &[("T/Cats/x17.jpg", Photo("Cats", Some("train"))), ("T/Cats/x18.jpg", Photo("Cats", Some("train")))],
        &["Cats"],
    ),
    oddity(
        "space twins",
        &[
            ("T/dogs /x19.jpg", Photo("dogs ", Some("train"))),
            ("T/dogs /x20.jpg", Photo("dogs ", Some("train"))),
        ],
        &["dogs "],
    ),
    oddity(
        "accent twins",
        &[
            ("T/ca\u{e9}/x21.jpg", Photo("ca\u{e9}", Some("train"))),
            ("T/cae\u{301}/x22.jpg", Photo("cae\u{301}", Some("train"))),
            ("T/ca\u{e9}/x23.jpg", Photo("ca\u{e9}", Some("train"))),
            ("T/cae\u{301}/x24.jpg", Photo("cae\u{301}", Some("train"))),
        ],
        &["ca"],
    ),
    oddity(
        "HEIC and raw",
        &[
            ("T/cats/x25.heic", Nothing),
            ("T/cats/x26.CR2", Nothing),
            ("T/dogs/x27.gif", Nothing),
            ("T/dogs/x28", Nothing),
        ],
        &[],
    ),
    oddity(
        "other names of JPEG",
        &[
            ("T/cats/x29.jfif", Photo("cats", Some("train"))),
            ("T/dogs/x30.JPE", Photo("dogs", Some("train"))),
        ],
        &[],
    ),
    oddity("loose photos", &[("T/x31.jpg", Nothing), ("x32.jpg", Nothing)], &[]),
    oddity("a list", &[("labels.csv", Nothing)], &[]),
    oddity("deep folders", &[("T/cats/a/b/c/x33.jpg", Photo("cats", Some("train")))], &[]),
    oddity("a class of the validation alone", &[("V/birds/x34.jpg", Unclear("birds"))], &["birds", "valid"]),
    oddity("an empty class", &[("T/empty/x35.txt", Nothing)], &["empty"]),
    oddity(
        "splits inside",
        &[("T/cats/train/x36.jpg", Unclear("cats")), ("T/cats/test/x37.jpg", Unclear("cats"))],
        &["cats/train"],
    ),
    oddity("names of a folder", &[("T/cats/folder.jpg/x38.jpg", Photo("cats", Some("train")))], &[]),
    oddity("spaces and signs", &[("T/cats/x39 (1) [ä] #%.jpg", Photo("cats", Some("train")))], &[]),
];

/// Writes the folder; returns what is meant by each file.
fn build(root: &Path, layout: Layout, oddities: &[&Oddity]) -> BTreeMap<PathBuf, Meant> {
    let renamed = oddities.iter().map(|oddity| oddity.renamed).find(|names| *names != PLAIN).unwrap_or(PLAIN);
    let mut meant = BTreeMap::new();
    for class in ["cats", "dogs"] {
        for i in 0..4 {
            match layout {
                Layout::Classes => {
                    meant.insert(root.join(format!("{class}/{class}{i}.jpg")), Photo(class, None));
                }
                Layout::Splits => {
                    for (name, split) in renamed.iter().zip(PLAIN) {
                        let path = root.join(format!("{name}/{class}/{split}{i}.jpg"));
                        meant.insert(path, Photo(class, Some(split)));
                    }
                }
            }
        }
    }
    for (file, what) in oddities.iter().flat_map(|oddity| oddity.files) {
        let path = match (layout, file.split_once('/')) {
            (Layout::Splits, Some(("T", rest))) => format!("{}/{rest}", renamed[0]),
            (Layout::Splits, Some(("V", rest))) => format!("{}/{rest}", renamed[1]),
            (Layout::Classes, Some(("T", rest))) => rest.to_owned(),
            (Layout::Classes, Some(("V", rest))) => format!("valid/{rest}"),
            _ => (*file).to_owned(),
        };
        meant.insert(root.join(path), *what);
    }
    for path in meant.keys() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    meant
}

fn check(layout: Layout, oddities: &[&Oddity]) -> bool {
    let names: Vec<&str> = oddities.iter().map(|oddity| oddity.name).collect();
    let root = tempfile::tempdir().unwrap();
    let meant = build(root.path(), layout, oddities);
    let dataset = match Dataset::from_folder(root.path(), &SplitSpec { valid: 0.2, test: 0.0, seed: 1 }) {
        Ok(dataset) => dataset,
        Err(error) => {
            let message = error.to_string();
            let reasons: Vec<&str> = oddities.iter().flat_map(|oddity| oddity.refused).copied().collect();
            assert!(
                reasons.iter().any(|word| message.contains(word)),
                "{layout:?} with {names:?}: {message}"
            );
            return false;
        }
    };
    let mut samples: BTreeMap<&Path, (&str, &str)> = BTreeMap::new();
    for (split, list) in PLAIN.into_iter().zip([&dataset.train, &dataset.valid, &dataset.test]) {
        for sample in list {
            let twice = samples.insert(&sample.path, (&dataset.classes[sample.label], split));
            assert!(twice.is_none(), "{names:?}: {} is there twice", sample.path.display());
        }
    }
    let ignored: BTreeSet<&Path> = dataset.ignored.iter().map(|ignored| ignored.path.as_path()).collect();
    let is_named = |path: &Path| {
        path.ancestors().any(|part| ignored.contains(part))
            || dataset.warnings.iter().any(|warning| warning.contains(&path.display().to_string()))
    };
    for (path, what) in &meant {
        let what_is_it = || format!("{layout:?} with {names:?}: {}: {what:?}", path.display());
        let is_photo =
            path.extension().is_some_and(|ending| ending != "DS_Store") && !path.ends_with(".DS_Store");
        match (samples.get(path.as_path()), what) {
            (Some((class, split)), Photo(meant, part)) => {
                assert_eq!(class, meant, "{}", what_is_it());
                let is_given = layout == Layout::Splits && part.is_some();
                assert!(!is_given || part.is_none_or(|part| part == *split), "{}: {split}", what_is_it());
            }
            (Some((class, _)), Unclear(meant)) => assert_eq!(class, meant, "{}", what_is_it()),
            (Some(_), Nothing) => panic!("{} is a sample", what_is_it()),
            (None, Photo(..)) => panic!("{} is lost", what_is_it()),
            (None, Unclear(_) | Nothing) => {
                assert!(!is_photo || is_named(path), "{} is not named", what_is_it())
            }
        }
    }
    assert_eq!(dataset.reading.split.iter().sum::<usize>(), samples.len());
    true
}

#[test]
fn no_photo_is_lost_and_none_mislabelled_in_any_two_oddities() {
    let mut read = 0;
    let mut refused = 0;
    for layout in [Layout::Splits, Layout::Classes] {
        for (index, first) in ODDITIES.iter().enumerate() {
            for second in &ODDITIES[index..] {
                match check(layout, &[first, second]) {
                    true => read += 1,
                    false => refused += 1,
                }
            }
        }
    }
    assert_eq!(read + refused, 2 * 27 * 28 / 2);
    // Refusing everything would lose nothing either.
    assert!(read > 300, "{read} read, {refused} refused");
}

#[test]
fn what_is_an_error_is_an_error_alone_too() {
    let is_read = |layout, name: &str| {
        let oddity = ODDITIES.iter().find(|oddity| oddity.name == name).unwrap();
        check(layout, &[oddity])
    };
    for name in ["two validations", "a class of the validation alone", "an empty class"] {
        assert!(!is_read(Layout::Splits, name), "{name}");
    }
    for name in
        ["class called train", "class called test", "test with classes", "splits inside", "an empty class"]
    {
        assert!(!is_read(Layout::Classes, name), "{name}");
    }
    for name in ["birds beside", "NAS", "HEIC and raw", "loose photos", "TRAIN", "seg_train"] {
        assert!(is_read(Layout::Splits, name), "{name}");
    }
}

/// Ways to write a list of twelve photos, two at a time.
#[test]
fn a_list_in_any_two_unusual_ways_loses_no_photo() {
    type Way = (&'static str, fn(String) -> String);
    let ways: [Way; 9] = [
        ("unknown header", |text| format!("Bild,Klasse\n{text}")),
        ("known header", |text| format!("path,label\n{text}")),
        ("semicolons", |text| text.replace(',', ";")),
        ("backslashes", |text| text.replace("photos/", "photos\\")),
        ("dots", |text| text.replace("photos", "./photos")),
        ("carriage returns", |text| text.replace('\n', "\r\n")),
        ("quotes", |text| {
            let quoted = text.lines().map(|line| {
                let fields = line.replace(',', "\",\"").replace(';', "\";\"");
                format!("\"{fields}\"")
            });
            quoted.collect::<Vec<_>>().join("\n")
        }),
        ("blank lines", |text| text.replace('\n', "\n\n")),
        ("byte order mark", |text| format!("\u{feff}{text}")),
    ];
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("photos")).unwrap();
    let plain: String = (0..12).map(|i| format!("photos/{i}.jpg,{}\n", ["cat", "dog"][i % 2])).collect();
    (0..12).for_each(|i| fs::write(root.path().join(format!("photos/{i}.jpg")), "x").unwrap());
    // In this order: a header is quoted like the rest, and a mark stands before all.
    for (index, (first, write_first)) in ways.into_iter().enumerate() {
        for (second, write_second) in ways.into_iter().skip(index + 1) {
            if first.contains("header") && second.contains("header") {
                continue;
            }
            let list = root.path().join("labels.csv");
            fs::write(&list, write_second(write_first(plain.clone()))).unwrap();
            let result = Dataset::from_list(&list, &ListOptions::default(), &SplitSpec::default());
            let dataset = result.unwrap_or_else(|error| panic!("{first}, {second}: {error}"));
            let samples = || dataset.train.iter().chain(&dataset.valid);
            assert_eq!(samples().count(), 12, "{first}, {second}");
            for sample in samples() {
                let number: usize = sample.path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
                assert_eq!(dataset.classes[sample.label], ["cat", "dog"][number % 2], "{first}, {second}");
            }
        }
    }
}
