//! How photos are read, what is said of them, and what is said of the result.

mod common;

use common::{LEARNS, Sandbox, TINY, event};
use serde_json::{Value, json};

/// The ledger of the only run.
fn ledger(sandbox: &Sandbox, run: &str) -> Vec<Value> {
    let text = String::from_utf8(sandbox.read(&format!("runs/{run}/ledger.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn splits_in_other_words_are_splits_and_it_is_said_how_a_folder_was_read() {
    let sandbox = Sandbox::new();
    sandbox.photos("pets/Training", &["cat", "dog"], 4);
    sandbox.photos("pets/Validation", &["cat", "dog"], 2);
    sandbox.photos("pets/TEST", &["cat", "dog"], 1);
    let run = sandbox.run(&format!("train {TINY} pets")).succeeded();
    let read = "read as        Training/ 8, Validation/ 4, TEST/ 2; cat 7, dog 7";
    assert!(run.stdout.contains(read), "{}", run.stdout);
    let start = sandbox.train(&format!("{TINY} pets"));
    assert_eq!(event(&start, "start")["images"], json!({"train": 8, "valid": 4, "test": 2}));
}

#[test]
fn two_possible_readings_are_an_error_that_shows_both() {
    let sandbox = Sandbox::new();
    sandbox.photos("mixed/train", &["cat", "dog"], 4);
    sandbox.photos("mixed", &["birds"], 4);
    sandbox.run(&format!("train {TINY} mixed --out out.safetensors")).failed(1, &["train", "birds"]);
    sandbox.assert_nothing_written();
}

#[test]
fn a_copy_in_another_split_is_said_and_not_measured_on() {
    let sandbox = Sandbox::with_flowers();
    let copy = sandbox.read("flowers/train/1/0.ppm");
    sandbox.write("flowers/valid/1/copy.ppm", &copy);
    sandbox.write("flowers/test/1/copy.ppm", &copy);
    let run = sandbox.run(&format!("train {TINY} --epochs 1 flowers --run twins")).succeeded();
    let words = "2 photos of one split are copies of photos of another and are left out";
    assert!(run.stderr.contains(words), "{}", run.stderr);
    let about = sandbox.metadata("flowers-squeezenet1_1.safetensors", "engraft");
    assert_eq!(about["training"]["test"]["examples"], 3);
    assert_eq!(about["training"]["split"]["valid"], 6);
    let faults: Vec<Value> =
        ledger(&sandbox, "twins").into_iter().filter(|entry| !entry["fault"].is_null()).collect();
    assert_eq!(faults.len(), 2);
    for entry in faults {
        assert!(entry["path"].as_str().unwrap().ends_with("copy.ppm"));
        assert_eq!(entry["fault"], "is a copy of train/1/0.ppm");
    }
}

#[test]
fn a_photo_under_two_labels_is_left_out_or_an_error() {
    let sandbox = Sandbox::with_flowers();
    let copy = sandbox.read("flowers/train/1/0.ppm");
    sandbox.write("flowers/train/2/copy.ppm", &copy);
    let words = ["train/1/0.ppm (1)", "train/2/copy.ppm (2)"];
    let run = sandbox.run(&format!("train {TINY} --epochs 1 flowers")).succeeded();
    for words in words {
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
    sandbox
        .run(&format!("train {TINY} --epochs 1 flowers --strict --out out.safetensors"))
        .failed(1, &[words[0], words[1], "without --strict"]);
    sandbox.assert_nothing_written();
}

#[test]
fn the_end_says_what_the_figures_are_worth() {
    let sandbox = Sandbox::new();
    // Photos of one colour: there is nothing to tell apart.
    for (class, count) in [("daisy", 40), ("tulip", 4)] {
        for i in 0..count {
            sandbox.photo(&format!("flowers/{class}/{i}.ppm"), 0);
        }
    }
    let run = sandbox.run(&format!("train {TINY} --epochs 3 flowers --valid 0.25 --test 0.25")).succeeded();
    for words in [
        "baseline       always saying daisy would give 90.9 %",
        "recall         daisy 100.0 % of 10, tulip 0.0 % of 1",
        "careful        this is no better than always saying daisy",
        "margin         by 11 test images the true accuracy lies between 62.3 % and 98.4 %",
        "wrong          1 of 11 test images",
        "tulip taken for daisy",
    ] {
        assert!(run.stdout.contains(words), "{words:?} is not in: {}", run.stdout);
    }
}

#[test]
fn info_says_what_a_checkpoint_is() {
    let sandbox = Sandbox::with_flowers();
    sandbox.run(&format!("train {LEARNS} flowers --out out.safetensors")).succeeded();
    let run = sandbox.run("info out.safetensors").succeeded();
    for words in [
        "classes        1, 10, 2",
        "architecture   squeezenet1_1",
        "weights        random",
        "photos         12 for training, 6 for validation, 3 for the test, 0 left out",
        "test           accuracy 100.0 %",
        "recall         1 100.0 % of 1, 10 100.0 % of 1, 2 100.0 % of 1",
    ] {
        assert!(run.stdout.contains(words), "{words:?} is not in: {}", run.stdout);
    }
    let about = &sandbox.run("info --json out.safetensors").succeeded().objects()[0]["about"];
    assert_eq!(about["training"]["split"]["train"], 12);
    sandbox.run("info flowers").failed(1, &["flowers"]);
    sandbox.run("info nothing.safetensors").failed(1, &["nothing.safetensors does not exist"]);
}

#[test]
fn a_checkpoint_of_other_classes_is_not_replaced_by_accident() {
    let sandbox = Sandbox::new();
    sandbox.photos("a/photos", &["ants", "bees"], 8);
    sandbox.photos("b/photos", &["cats", "dogs"], 8);
    sandbox.run(&format!("train {TINY} a/photos")).succeeded();
    let first = sandbox.read("photos-squeezenet1_1.safetensors");
    let run = sandbox.run(&format!("train {TINY} b/photos")).succeeded();
    assert!(
        run.stdout.contains("not replaced   photos-squeezenet1_1.safetensors tells other classes apart"),
        "{}",
        run.stdout
    );
    assert!(sandbox.read("photos-squeezenet1_1.safetensors") == first);
    sandbox.run("predict runs/photos-squeezenet1_1-2/best.safetensors b/photos/cats/0.ppm").succeeded();
    let named =
        sandbox.run(&format!("train {TINY} b/photos --out photos-squeezenet1_1.safetensors")).succeeded();
    assert!(named.stdout.contains("replaced       photos-squeezenet1_1.safetensors"), "{}", named.stdout);
}

#[test]
fn exif_orientation_is_said_and_applied_if_asked_for() {
    let sandbox = Sandbox::with_flowers();
    sandbox.write("flowers/train/1/turned.jpg", common::fixture("orientation6.jpg"));
    let said = "1 photo (flowers/train/1/turned.jpg) is turned or mirrored by its EXIF orientation";
    for (option, hint) in [("", true), ("--exif-orientation", false)] {
        let run = sandbox.run(&format!("train {TINY} flowers {option} --out out.safetensors")).succeeded();
        assert!(run.stderr.contains(said), "{}", run.stderr);
        assert_eq!(run.stderr.contains("--exif-orientation turns them"), hint, "{}", run.stderr);
        let about = sandbox.metadata("out.safetensors", "engraft");
        assert_eq!(about["transform"]["exif_orientation"], !hint);
    }
}
