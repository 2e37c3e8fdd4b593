//! Folders and photos that are not what they should be.

mod common;

use std::fs;

use common::{Run, Sandbox, TINY, event, fixture};

impl Sandbox {
    /// Training must fail with these words, and leave nothing behind.
    #[track_caller]
    fn cannot_train(&self, data: &str, words: &[&str]) {
        self.run(&format!("train {data} {TINY} --epochs 1 --out out.safetensors")).failed(1, words);
        self.assert_nothing_written();
    }

    /// Training must succeed, leave out these files, and say so.
    #[track_caller]
    fn trains_without(&self, files: &[(&str, &str)]) -> Run {
        let line = format!("train flowers --epochs 1 --out net.safetensors {TINY}");
        let run = self.run(&line).succeeded();
        for (file, reason) in files {
            assert!(run.stderr.contains(&format!("left out {file}: {reason}")), "{file}: {}", run.stderr);
        }
        let count = files.len();
        let summary = format!("left out       {count} images that cannot be used");
        assert!(run.stdout.contains(&summary), "{}", run.stdout);
        let json = self.run(&format!("{line} --json")).succeeded();
        assert_eq!(event(&json.objects(), "end")["images_skipped"], count);
        assert!(json.stderr.contains(files[0].0), "{}", json.stderr);
        assert_eq!(self.metadata("net.safetensors", "engraft")["training"]["skipped_images"], count);

        let strict = self.run(&format!("train flowers --strict {TINY} --out out.safetensors"));
        strict.failed(
            1,
            &[&format!("{count} images cannot be used (the first is {}", files[0].0), "without --strict"],
        );
        self.assert_nothing_written();
        run
    }
}

#[test]
fn one_class_is_nothing_to_tell_apart() {
    let sandbox = Sandbox::new();
    sandbox.photos("photos", &["ants"], 9);
    sandbox.cannot_train("photos", &["there is only one class, \"ants\": at least two are needed"]);
}

#[test]
fn an_empty_class_cannot_be_learnt() {
    let sandbox = Sandbox::with_flowers();
    fs::create_dir(sandbox.path("flowers/train/3")).unwrap();
    sandbox.cannot_train("flowers", &["class \"3\" has no images to train on in flowers/train/3"]);
    sandbox.write("flowers/train/3/notes.txt", "none yet");
    sandbox
        .cannot_train("flowers", &["class \"3\" has no images to train on", "add some, or remove the class"]);
}

#[test]
fn validation_cannot_have_classes_of_its_own() {
    let sandbox = Sandbox::with_flowers();
    sandbox.photo("flowers/valid/11/0.ppm", 0);
    let message = "class \"11\" of flowers/valid is not in train/, whose classes are 1, 10, 2";
    sandbox.cannot_train("flowers", &[message]);
}

#[test]
fn data_must_be_a_folder_of_classes_or_a_list() {
    let sandbox = Sandbox::with_flowers();
    sandbox.cannot_train("none", &["none does not exist"]);
    sandbox.cannot_train("flowers/train/1/0.ppm", &["is no list of images", "or a folder of class folders"]);
    sandbox.write("words.txt", "These\nare\nwords.\n");
    sandbox
        .cannot_train("words.txt", &["words.txt is no list of images: a text file with a path and a label"]);
    fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox
        .cannot_train("empty", &["empty has no class folders: put the images of each class into a folder"]);
    sandbox.write("list.csv", "flowers/train/1/0.ppm,a\nflowers/train/1/none.ppm,b\n");
    sandbox.cannot_train(
        "list.csv",
        &["list.csv: 1 of 2 files are not in ", "flowers/train/1/none.ppm (line 2)"],
    );
    sandbox.cannot_train("flowers --labels none.csv", &["none.csv does not exist"]);
    sandbox.photos("few", &["a", "b"], 2);
    sandbox.cannot_train("few", &["class \"a\" has too few images to be split: 2, and 3 are needed"]);
    sandbox.cannot_train("few --valid 0.6 --test 0.5", &["validation (0.6) and test (0.5)", "less than 1"]);
}

#[test]
fn truncated_photos_and_words_are_left_out() {
    let sandbox = Sandbox::with_flowers();
    let half = |name: &str| {
        let bytes = fixture(name);
        bytes[..bytes.len() / 2].to_vec()
    };
    sandbox.write("flowers/train/1/cut.jpg", half("rgb420.jpg"));
    sandbox.write("flowers/train/2/words.jpg", "These are no pixels.");
    sandbox.write("flowers/valid/10/cut.png", half("rgb.png"));
    sandbox.write("flowers/test/10/empty.jpg", "");
    let run = sandbox.trains_without(&[
        ("flowers/train/1/cut.jpg", "the image file is truncated: the JPEG data end"),
        ("flowers/train/2/words.jpg", "it is no image that can be read"),
        ("flowers/valid/10/cut.png", "the image file is truncated: the PNG data end"),
        ("flowers/test/10/empty.jpg", "the file is empty"),
    ]);
    assert!(run.stdout.contains("25 images, 0 of them from the cache"), "{}", run.stdout);
    assert_eq!(sandbox.metadata("net.safetensors", "engraft")["training"]["train_images"], 12);
}

#[test]
fn a_network_that_is_trained_as_a_whole_leaves_them_out_too() {
    let sandbox = Sandbox::with_flowers();
    sandbox.write("flowers/train/1/words.jpg", "These are no pixels.");
    let line = "train flowers --arch squeezenet1_1 --weights random --cut features.3 --epochs 2 --out net.safetensors";
    let run = sandbox.run(line).succeeded();
    assert!(run.stderr.contains("left out flowers/train/1/words.jpg: it is no image"), "{}", run.stderr);
    assert!(run.stdout.contains("left out       1 images"), "{}", run.stdout);
    sandbox.run(&format!("{line} --strict")).failed(1, &["flowers/train/1/words.jpg"]);
}

#[test]
fn every_copy_of_a_bad_photo_is_named() {
    let sandbox = Sandbox::with_flowers();
    for name in ["flowers/train/1/a.jpg", "flowers/train/2/b.jpg", "flowers/valid/1/a.jpg"] {
        sandbox.write(name, "These are no pixels.");
    }
    sandbox.trains_without(&[
        ("flowers/train/1/a.jpg", "it is no image"),
        ("flowers/train/2/b.jpg", "it is no image"),
        ("flowers/valid/1/a.jpg", "it is no image"),
    ]);
}

#[test]
fn a_class_of_which_nothing_is_left_cannot_be_learnt() {
    let sandbox = Sandbox::with_flowers();
    sandbox.write("flowers/train/3/words.jpg", "These are no pixels.");
    sandbox.cannot_train("flowers", &["no usable image is left to train the class `3`"]);

    let sandbox = Sandbox::with_flowers();
    for class in ["1", "2", "10"] {
        fs::remove_dir_all(sandbox.path(&format!("flowers/valid/{class}"))).unwrap();
    }
    sandbox.write("flowers/valid/1/words.jpg", "These are no pixels.");
    sandbox.cannot_train("flowers", &["no usable image is left for validation"]);
}

#[test]
fn what_is_no_photo_by_its_name_is_ignored_and_named() {
    let sandbox = Sandbox::with_flowers();
    sandbox.write("flowers/train/1/moving.gif", fixture("palette.gif"));
    sandbox.write("flowers/train/1/notes.txt", "notes");
    sandbox.write("flowers/train/1/.DS_Store", "hidden");
    sandbox.write("flowers/train/.ipynb_checkpoints/1.ppm", "hidden");
    let run = sandbox.run(&format!("train flowers --json --epochs 1 {TINY} --strict")).succeeded();
    let events = run.objects();
    assert_eq!(event(&events, "start")["images"]["train"], 12);
    assert_eq!(event(&events, "end")["images_skipped"], 0);
    let mut lines: Vec<&str> = run.stderr.lines().collect();
    lines.sort();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("note: train/.ipynb_checkpoints is not used: it is hidden"), "{lines:?}");
    assert!(lines[1].starts_with("note: train/1/moving.gif is not used: it is a GIF"), "{lines:?}");
    assert!(
        lines[2].starts_with("note: train/1/notes.txt is not used: it is no image by its name"),
        "{lines:?}"
    );
}

#[test]
fn photos_of_any_size_can_be_trained_on() {
    let sandbox = Sandbox::with_flowers();
    sandbox.write("flowers/train/1/one.ppm", b"P6 1 1 255\n\xc8\x28\x28");
    sandbox.write("flowers/train/1/line.ppm", [&b"P6 5000 1 255\n"[..], &[40; 15000]].concat());
    let events = sandbox.train(&format!("flowers {TINY} --epochs 1"));
    assert_eq!(event(&events, "end")["images_skipped"], 0);
}
