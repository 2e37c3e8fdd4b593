//! `engraft predict`: a checkpoint, or a pretrained network as it is.

mod common;

use common::{LEARNS, Run, Sandbox, words};
use serde_json::{Value, json};

/// Photos and a network that tells them apart, in `net.safetensors`.
fn trained() -> Sandbox {
    let sandbox = Sandbox::with_flowers();
    sandbox.train(&format!("{LEARNS} flowers --out net.safetensors"));
    sandbox
}

fn probabilities(object: &Value) -> Vec<f64> {
    object["top"].as_array().unwrap().iter().map(|guess| guess["probability"].as_f64().unwrap()).collect()
}

#[test]
fn an_image_gets_its_most_probable_classes() {
    let sandbox = trained();
    let objects = sandbox.run("predict net.safetensors flowers/test/2/0.ppm --json").succeeded().objects();
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0]["path"], "flowers/test/2/0.ppm");
    assert_eq!(objects[0]["top"][0]["class"], "2");
    assert_eq!(objects[0]["top"][0]["name"], "2");
    let all = probabilities(&objects[0]);
    assert_eq!(all.len(), 3);
    assert!(all.is_sorted_by(|a, b| a >= b), "{all:?}");
    assert!((all.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{all:?}");

    let one =
        sandbox.run("predict net.safetensors flowers/test/2/0.ppm --json --top_k 1").succeeded().objects();
    assert_eq!(probabilities(&one[0]), all[..1]);
}

#[test]
fn classes_have_names_if_a_file_names_them() {
    let sandbox = trained();
    sandbox.write("cat_to_name.json", r#"{"1": "pink primrose", "10": "globe thistle"}"#);
    let line = "predict net.safetensors --category_names cat_to_name.json flowers/test/1 flowers/test/2";
    let objects = sandbox.run(&format!("{line} --json --top-k 1")).succeeded().objects();
    let first = |object: &Value| (object["top"][0]["class"].clone(), object["top"][0]["name"].clone());
    assert_eq!(first(&objects[0]), (json!("1"), json!("pink primrose")));
    assert_eq!(first(&objects[1]), (json!("2"), json!("2")), "a class that the file does not name");

    let text = sandbox.run(&format!("{line} --top-k 1")).succeeded().stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!([lines[0], lines[2]], ["flowers/test/1/0.ppm", "flowers/test/2/0.ppm"]);
    assert!(lines[1].ends_with(" %  pink primrose"), "{text}");
    assert_eq!(lines.len(), 4);
}

#[test]
fn images_come_out_in_the_order_in_which_they_were_given() {
    let sandbox = trained();
    sandbox.write("flowers/test/.hidden.ppm", "");
    sandbox.write("flowers/test/notes.txt", "");
    let line = "predict net.safetensors --json flowers/valid/2/1.ppm flowers/test flowers/train/1/3.ppm flowers/valid/2/1.ppm";
    let objects = sandbox.run(line).succeeded().objects();
    let paths: Vec<&str> = objects.iter().map(|object| object["path"].as_str().unwrap()).collect();
    let expected = [
        "flowers/valid/2/1.ppm",
        "flowers/test/1/0.ppm",
        "flowers/test/10/0.ppm",
        "flowers/test/2/0.ppm",
        "flowers/train/1/3.ppm",
        "flowers/valid/2/1.ppm",
    ];
    assert_eq!(paths, expected);
    let classes: Vec<&str> =
        objects.iter().map(|object| object["top"][0]["class"].as_str().unwrap()).collect();
    assert_eq!(classes, ["2", "1", "10", "2", "1", "2"]);
    // More than a batch of them.
    let objects = sandbox.run("predict net.safetensors --json flowers").succeeded().objects();
    assert_eq!(objects.len(), 21);
    for object in objects {
        let path = object["path"].as_str().unwrap();
        assert_eq!(path.split('/').nth(2), object["top"][0]["class"].as_str(), "{path}");
    }
}

#[test]
fn a_pretrained_network_names_the_classes_of_imagenet() {
    let sandbox = Sandbox::with_flowers();
    sandbox.weights("weights.safetensors", "shufflenet_v2_x0_5", 1);
    let line = "predict --arch shufflenet_v2_x0_5 --weights weights.safetensors flowers/test/1/0.ppm --json --top-k 1000";
    let objects = sandbox.run(line).succeeded().objects();
    let mut names: Vec<&str> =
        objects[0]["top"].as_array().unwrap().iter().map(|guess| guess["name"].as_str().unwrap()).collect();
    let mut imagenet = engraft_zoo::imagenet_classes();
    names.sort();
    imagenet.sort();
    assert_eq!(names, imagenet);
    assert!(names.contains(&"daisy"));
    assert!((probabilities(&objects[0]).iter().sum::<f64>() - 1.0).abs() < 1e-5);
}

#[test]
fn an_image_that_cannot_be_used_does_not_hide_the_others() {
    let sandbox = trained();
    let line = "predict net.safetensors flowers/test/1/0.ppm none.jpg flowers/test/2/0.ppm";
    let json = sandbox.run(&format!("{line} --json")).failed(1, &["1 image could not be used"]);
    let objects = json.objects();
    let mut paths: Vec<&str> = objects.iter().map(|object| object["path"].as_str().unwrap()).collect();
    paths.sort();
    assert_eq!(paths, ["flowers/test/1/0.ppm", "flowers/test/2/0.ppm", "none.jpg"]);
    let failed = objects.iter().find(|object| object["path"] == "none.jpg").unwrap();
    assert!(failed["error"].as_str().unwrap().contains("cannot read the file"), "{failed}");
    assert_eq!(failed.get("top"), None);

    let text = sandbox.run(line).failed(1, &["none.jpg: cannot read the file", "1 image could not be used"]);
    assert_eq!(text.stdout.lines().filter(|line| line.starts_with("flowers/")).count(), 2);
}

#[test]
fn images_of_one_pixel_and_of_a_hundred_million_are_images() {
    let sandbox = trained();
    sandbox.write("one.ppm", b"P6 1 1 255\n\xc8\x28\x28");
    // Black and white, eight pixels a byte.
    sandbox.write("large.pbm", [&b"P4 12000 9000\n"[..], &vec![0; 1500 * 9000]].concat());
    let objects = sandbox.run("predict net.safetensors one.ppm large.pbm --json").succeeded().objects();
    assert_eq!(objects[0]["top"][0]["class"], "1", "one red pixel");
    assert_eq!(probabilities(&objects[1]).len(), 3);
}

#[test]
fn a_file_may_be_called_anything() {
    let sandbox = trained();
    sandbox.photo("--a_b.ppm", 0);
    let objects = sandbox.run("predict net.safetensors --json -- --a_b.ppm").succeeded().objects();
    assert_eq!(objects[0]["path"], "--a_b.ppm");
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_no_unicode_can_be_printed() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = trained();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.ppm");
    std::fs::copy(sandbox.path("flowers/test/1/0.ppm"), sandbox.path("").join(name)).unwrap();
    let mut command = sandbox.engraft(&words("predict net.safetensors --json"));
    let objects = Run::of(command.arg(name)).succeeded().objects();
    assert_eq!(objects[0]["path"], "caf\u{fffd}.ppm");
    assert_eq!(objects[0]["top"][0]["class"], "1");
}

#[test]
fn what_is_asked_must_be_there() {
    let sandbox = trained();
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    let photo = "flowers/test/1/0.ppm";
    sandbox.run("predict net.safetensors empty").failed(1, &["there are no images in empty"]);
    sandbox.run("predict net.safetensors").failed(2, &["which images?"]);
    sandbox.run("predict").failed(2, &["CHECKPOINT"]);
    sandbox
        .run(&format!("predict --weights net.safetensors {photo}"))
        .failed(2, &["--weights needs --arch, the architecture that they belong to"]);
    sandbox
        .run(&format!("predict net.safetensors {photo} --category-names none.json"))
        .failed(1, &["cannot read the category names none.json"]);
    sandbox.write("names.json", "[1]");
    sandbox
        .run(&format!("predict net.safetensors {photo} --category-names names.json"))
        .failed(1, &["names.json: a JSON object of names is needed", r#"{"1": "daisy"}"#]);
    sandbox
        .run(&format!("predict net.safetensors {photo} --gpu"))
        .failed(1, &["leave --gpu away to run on the CPU"]);
}

#[test]
fn what_the_pixels_do_not_show_is_said_once_with_a_count() {
    let sandbox = trained();
    for name in ["a.jpg", "b.jpg"] {
        sandbox.write(&format!("new/{name}"), common::fixture("orientation6.jpg"));
    }
    sandbox.write("new/c.png", common::fixture("grey16.png"));
    let notes = [
        "note: 2 photos, each as the first (new/a.jpg) is turned or mirrored by its EXIF orientation; they are taken as they lie in the file",
        "note: 1 photo (new/c.png) has samples of more than 8 bits, of which 8 are kept",
    ];
    for command in
        ["predict", "predict --json", "features --out f.safetensors", "features --json --out f.safetensors"]
    {
        let run = sandbox.run(&format!("{command} net.safetensors new")).succeeded();
        for note in notes {
            assert_eq!(run.stderr.matches(note).count(), 1, "{command}: {}", run.stderr);
        }
        assert_eq!(run.stderr.lines().count(), 2, "{command}: {}", run.stderr);
        if command.contains("json") {
            run.objects();
        }
    }
    // A checkpoint that was trained on turned photos turns these.
    sandbox.train(&format!("{LEARNS} flowers --exif-orientation --out turning.safetensors"));
    let run = sandbox.run("predict turning.safetensors new").succeeded();
    assert!(run.stderr.contains("by its EXIF orientation, and is taken so"), "{}", run.stderr);
}

/// ESC and a bell, and CSI as one character, in names of photos and of classes.
#[cfg(unix)]
#[test]
fn names_do_not_reach_the_terminal_as_commands() {
    let sandbox = Sandbox::new();
    for split in ["train", "valid"] {
        sandbox.photos(&format!("flowers/{split}"), &["re\u{1b}[31md", "2"], 3);
    }
    sandbox.photo("flowers/train/2/\u{1b}]0;owned\u{7}\u{9b}.ppm", 1);
    sandbox.write("flowers/train/2/bad\u{1b}[2J.ppm", "no photo");
    sandbox.write("flowers/train/2/turned\u{1b}c.jpg", common::fixture("orientation6.jpg"));
    let runs = [
        sandbox.run(&format!("train {LEARNS} flowers --out net.safetensors")).succeeded(),
        sandbox.run("predict net.safetensors flowers/train/2").failed(1, &["bad\\u{1b}[2J.ppm: "]),
        sandbox.run("info net.safetensors").succeeded(),
        sandbox.run("features --out \u{1b}.safetensors net.safetensors flowers/valid").succeeded(),
    ];
    for run in &runs {
        let is_control = |character: char| character.is_control() && character != '\n';
        assert!(
            !run.stdout.contains(is_control) && !run.stderr.contains(is_control),
            "{}{}",
            run.stdout,
            run.stderr
        );
        assert!(run.stdout.contains("\\u{1b}"), "{}", run.stdout);
    }
    assert!(runs[1].stdout.contains("\\u{1b}]0;owned\\u{7}\\u{9b}.ppm"), "{}", runs[1].stdout);
    // Machines get the name as it is.
    let objects = sandbox.run("predict net.safetensors --json flowers/valid").succeeded().objects();
    assert!(objects[3]["path"].as_str().unwrap().contains("re\u{1b}[31md"), "{objects:?}");
}
