//! The feature cache: what was computed once is not computed again, and what lies in it is not trusted blindly.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Run, Sandbox, TINY, event, images_and_cached, words};
use serde_json::Value;

/// Trains on `flowers`, and says how many images there were and how many of them were cached.
fn cached(sandbox: &Sandbox, line: &str) -> (u64, u64) {
    images_and_cached(&sandbox.train(&format!("flowers --epochs 1 --out out.safetensors {line}")))
}

/// Of the features of `TINY`.
const ROW_BYTES: usize = 64 * 4;

/// The one file of features of this extension.
fn cache_file(sandbox: &Sandbox, extension: &str) -> (PathBuf, Vec<u8>) {
    let mut files = sandbox.files("cache/features");
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    let [path] = &files[..] else { panic!("{files:?}") };
    (path.clone(), fs::read(path).unwrap())
}

#[test]
fn a_second_run_computes_nothing() {
    let sandbox = Sandbox::with_flowers();
    assert_eq!(cached(&sandbox, TINY), (21, 0));
    assert_eq!(cached(&sandbox, TINY), (21, 21));
    let other_head = "--hidden-units 8 4 --dropout 0.5 --learning-rate 0.1 --batch-size 2";
    assert_eq!(cached(&sandbox, &format!("{TINY} {other_head}")), (21, 21));
    let longer = sandbox.train(&format!("{TINY} flowers --epochs 5"));
    assert_eq!(images_and_cached(&longer), (21, 21));
}

#[test]
fn new_and_changed_photos_alone_are_computed() {
    let sandbox = Sandbox::with_flowers();
    cached(&sandbox, TINY);
    for (i, class) in ["1", "2", "10"].into_iter().enumerate() {
        sandbox.photo(&format!("flowers/train/{class}/new.ppm"), i);
    }
    assert_eq!(cached(&sandbox, TINY), (24, 21));

    let photo = sandbox.read("flowers/train/1/0.ppm");
    sandbox.write("flowers/train/1/0.ppm", [&photo[..photo.len() - 1], &[7]].concat());
    assert_eq!(cached(&sandbox, TINY), (24, 23));
    sandbox.write("flowers/train/1/0.ppm", photo);
    assert_eq!(cached(&sandbox, TINY), (24, 24));
}

#[test]
fn a_photo_is_known_by_its_content() {
    let sandbox = Sandbox::with_flowers();
    cached(&sandbox, TINY);
    let rename = |from: &str, to: &str| fs::rename(sandbox.path(from), sandbox.path(to)).unwrap();
    rename("flowers/train/1/0.ppm", "flowers/train/1/daisy.ppm");
    rename("flowers/train/2/0.ppm", "flowers/valid/1/moved.ppm");
    for split in ["train", "valid", "test"] {
        rename(&format!("flowers/{split}/10"), &format!("flowers/{split}/tulip"));
    }
    rename("flowers", "photos");
    let copy = sandbox.read("photos/train/1/1.ppm");
    sandbox.write("photos/train/1/copy.ppm", copy);
    let events = sandbox.train(&format!("photos --epochs 1 --out out.safetensors {TINY}"));
    assert_eq!(images_and_cached(&events), (22, 22));
}

#[test]
fn the_same_photo_twice_is_computed_once() {
    let sandbox = Sandbox::with_flowers();
    for i in 0..20 {
        let copy = sandbox.read("flowers/train/1/0.ppm");
        sandbox.write(&format!("flowers/train/1/copy{i}.ppm"), copy);
    }
    assert_eq!(cached(&sandbox, TINY), (41, 0));
    assert_eq!(cache_file(&sandbox, "rows").1.len(), 21 * ROW_BYTES);
}

#[test]
fn another_frozen_part_is_another_matter() {
    let sandbox = Sandbox::with_flowers();
    let arch = "--arch squeezenet1_1 --cut features.3";
    sandbox.weights("a.safetensors", "squeezenet1_1", 1);
    sandbox.weights("b.safetensors", "squeezenet1_1", 2);
    assert_eq!(cached(&sandbox, &format!("{arch} --weights a.safetensors")), (21, 0));
    assert_eq!(cached(&sandbox, &format!("{arch} --weights b.safetensors")), (21, 0));
    assert_eq!(cached(&sandbox, "--arch squeezenet1_1 --cut features.4 --weights a.safetensors"), (21, 0));
    assert_eq!(cached(&sandbox, &format!("{arch} --weights a.safetensors")), (21, 21));
    // The weights behind the cut do not matter, nor does the name of the file.
    let mut weights = sandbox.tensors("a.safetensors");
    weights.insert("classifier.1.bias", engraft_tensor::Tensor::f32([1000], vec![3.0; 1000]));
    sandbox.save("c.safetensors", &weights);
    assert_eq!(cached(&sandbox, &format!("{arch} --weights c.safetensors")), (21, 21));
}

#[test]
fn another_transform_is_another_matter() {
    let sandbox = Sandbox::with_flowers();
    for (turns, cached) in [(false, 0), (true, 0), (false, 21), (true, 21)] {
        let option = if turns { "--exif-orientation" } else { "" };
        let events = sandbox.train(&format!("flowers --epochs 1 {TINY} {option}"));
        assert_eq!(event(&events, "start")["transform"]["exif_orientation"], turns);
        assert_eq!(images_and_cached(&events), (21, cached), "{option}");
    }
}

#[test]
fn no_cache_writes_and_reads_nothing() {
    let sandbox = Sandbox::with_flowers();
    let line = format!("{TINY} --no-cache");
    assert_eq!(cached(&sandbox, &line), (21, 0));
    assert!(!sandbox.path("cache").exists());
    cached(&sandbox, TINY);
    assert_eq!(cached(&sandbox, &line), (21, 0));
}

#[test]
fn damaged_features_are_computed_again() {
    let sandbox = Sandbox::with_flowers();
    cached(&sandbox, TINY);
    let checkpoint = sandbox.read("out.safetensors");
    let (rows_path, rows) = cache_file(&sandbox, "rows");
    let (keys_path, keys) = cache_file(&sandbox, "keys");
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    for (damage, path, bytes, left) in [
        ("cut short", &rows_path, rows[..rows.len() - 1].to_vec(), 20),
        ("half", &rows_path, rows[..rows.len() / 2].to_vec(), 10),
        ("empty", &rows_path, Vec::new(), 0),
        ("garbage", &rows_path, b"garbage".repeat(rows.len() / 7), 0),
        ("a bit of the features", &rows_path, flipped(&rows, rows.len() - 1), 20),
        ("longer", &rows_path, [&rows[..], b"x"].concat(), 21),
        ("the hash of a photo", &keys_path, flipped(&keys, 20), 20),
        ("keys cut short", &keys_path, keys[..keys.len() - 1].to_vec(), 20),
        ("no keys", &keys_path, Vec::new(), 0),
    ] {
        fs::write(path, bytes).unwrap();
        assert_eq!(cached(&sandbox, TINY), (21, left), "{damage}");
        assert!(sandbox.read("out.safetensors") == checkpoint, "{damage}");
        assert_eq!(cached(&sandbox, TINY), (21, 21), "{damage}");
        fs::write(&rows_path, &rows).unwrap();
        fs::write(&keys_path, &keys).unwrap();
    }
    // What is no file at all, and what an earlier version left.
    fs::create_dir(keys_path.with_file_name("folder.keys")).unwrap();
    fs::write(keys_path.with_file_name("0123.safetensors"), "features").unwrap();
    assert_eq!(cached(&sandbox, TINY), (21, 21));
}

#[test]
fn the_environment_says_where_the_cache_is() {
    let sandbox = Sandbox::with_flowers();
    let cases = [
        ("mine", [("ENGRAFT_CACHE", "mine"), ("XDG_CACHE_HOME", "xdg")]),
        ("xdg/engraft", [("ENGRAFT_CACHE", ""), ("XDG_CACHE_HOME", "xdg")]),
        ("home/.cache/engraft", [("ENGRAFT_CACHE", ""), ("XDG_CACHE_HOME", "")]),
    ];
    for (folder, variables) in cases {
        let run = |line: &str| {
            let mut command = sandbox.engraft(&words(line));
            for (name, value) in variables {
                // A variable that is empty counts as not set.
                let value = if value.is_empty() { value.into() } else { sandbox.path(value) };
                command.env(name, value);
            }
            Run::of(&mut command).succeeded().objects()
        };
        let events = run(&format!("train flowers --json --epochs 1 {TINY}"));
        let place = sandbox.path(folder);
        assert_eq!(event(&events, "start")["cache"], place.to_str().unwrap());
        assert_eq!(images_and_cached(&events), (21, 0), "{folder}");
        assert_eq!(sandbox.files(&format!("{folder}/features")).len(), 3, "{folder}");
        assert_eq!(run("cache --json")[0]["path"], place.to_str().unwrap());
    }
}

#[test]
fn the_cache_can_be_measured_and_cleared() {
    let sandbox = Sandbox::with_flowers();
    let cache = |line: &str| -> Value { sandbox.run(line).succeeded().objects().remove(0) };
    assert_eq!(cache("cache --json")["features_bytes"], 0);
    cached(&sandbox, TINY);
    sandbox.write("cache/weights/some.pth", [0; 1000]);
    // Photos that were written just now are not remembered.
    assert!(sandbox.files("cache/index").is_empty());
    sandbox.write("cache/index/some", [0; 300]);
    let bytes: u64 =
        ["rows", "keys"].map(|extension| cache_file(&sandbox, extension).1.len() as u64).iter().sum();
    let before = cache("cache --json");
    assert_eq!(before["features_bytes"], bytes);
    assert_eq!(before["weights_bytes"], 1000);
    assert_eq!(before["index_bytes"], 300);
    assert_eq!(before["cleared"], false);

    let text = sandbox.run("cache clear").succeeded().stdout;
    assert_eq!(text.matches(", deleted").count(), 2, "{text}");
    assert!(sandbox.files("cache/features").is_empty() && sandbox.files("cache/index").is_empty());
    assert!(sandbox.path("cache/weights/some.pth").is_file(), "downloaded weights stay");
    let after = cache("cache clear --json");
    assert_eq!((&after["features_bytes"], &after["cleared"]), (&0.into(), &true.into()));
    assert_eq!(cached(&sandbox, TINY), (21, 0));
}
