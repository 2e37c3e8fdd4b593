//! Weights and checkpoints that are not what they should be.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{Sandbox, TINY};
use engraft_tensor::{Tensor, TensorData, read_metadata};
use serde_json::{Value, json};

impl Sandbox {
    /// Neither training nor prediction is possible with these weights.
    #[track_caller]
    fn cannot_use(&self, arch: &str, weights: &str, words: &[&str]) {
        let words = &[&[weights], words].concat();
        self.run(&format!("train flowers --arch {arch} --weights {weights} --out out.safetensors"))
            .failed(1, words);
        self.run(&format!("predict --arch {arch} --weights {weights} flowers/test")).failed(1, words);
        let line = format!("features --arch {arch} --weights {weights} flowers/test --out out.safetensors");
        self.run(&line).failed(1, words);
        self.assert_nothing_written();
    }

    /// Nothing is possible with this checkpoint.
    #[track_caller]
    fn is_no_checkpoint(&self, checkpoint: &str, words: &[&str]) {
        let words = &[&[checkpoint], words].concat();
        self.run(&format!("predict {checkpoint} flowers/test")).failed(1, words);
        self.run(&format!("features {checkpoint} flowers/test --out out.safetensors")).failed(1, words);
        self.assert_nothing_written();
    }
}

#[test]
fn a_weights_file_that_is_cut_short() {
    let sandbox = Sandbox::with_flowers();
    sandbox.weights("weights.safetensors", "squeezenet1_1", 1);
    let whole = sandbox.read("weights.safetensors");
    for length in [whole.len() - 1, whole.len() / 2, 100, 9] {
        sandbox.write("weights.safetensors", &whole[..length]);
        let words = ["is damaged or cut short", "delete it and fetch it again"];
        sandbox.cannot_use("squeezenet1_1", "weights.safetensors", &words);
    }
    sandbox.write("weights.safetensors", "");
    sandbox.cannot_use("squeezenet1_1", "weights.safetensors", &["is empty"]);
    sandbox.write("page.pth", "<!DOCTYPE html>\n<title>404</title>");
    sandbox.cannot_use(
        "squeezenet1_1",
        "page.pth",
        &["is no weights file: it begins with `<!DOCTYPE html>`"],
    );
    sandbox.cannot_use(
        "squeezenet1_1",
        "none.pth",
        &["the weights none.pth: there is no such file", "hint: --weights"],
    );
}

#[test]
fn a_weights_file_of_another_network() {
    let sandbox = Sandbox::with_flowers();
    sandbox.weights("weights.safetensors", "squeezenet1_1", 1);
    let words = [
        "does not fit the network",
        "tensors are missing (conv1.0.weight",
        "It looks like a file of squeezenet1_1",
    ];
    sandbox.cannot_use("shufflenet_v2_x0_5", "weights.safetensors", &words);
    // Of the same family, so that many names are the same.
    let words = ["tensors have another shape", "It looks like a file of squeezenet1_1"];
    sandbox.cannot_use("squeezenet1_0", "weights.safetensors", &words);
}

#[test]
fn a_weights_file_without_a_head_serves_training_alone() {
    let sandbox = Sandbox::with_flowers();
    let mut weights = sandbox.weights("weights.safetensors", "shufflenet_v2_x0_5", 1);
    weights.remove("fc.weight");
    sandbox.save("weights.safetensors", &weights);
    sandbox
        .run("predict --arch shufflenet_v2_x0_5 --weights weights.safetensors flowers/test")
        .failed(1, &["1 tensor is missing (fc.weight)"]);
}

#[test]
fn a_weights_file_with_nan() {
    let sandbox = Sandbox::with_flowers();
    let mut weights = sandbox.weights("weights.safetensors", "squeezenet1_1", 1);
    let Some(Tensor { data: TensorData::F32(values), .. }) = weights.get_mut("features.3.squeeze.weight")
    else {
        panic!("no such tensor")
    };
    (values[3], values[4]) = (f32::NAN, f32::INFINITY);
    sandbox.save("weights.safetensors", &weights);
    let words = ["contains 2 values that are NaN or infinite", "`features.3.squeeze.weight`"];
    sandbox.cannot_use("squeezenet1_1", "weights.safetensors", &words);
}

#[test]
fn a_classifier_of_nan_is_no_obstacle_to_its_replacement() {
    // As published for vgg16 under the name IMAGENET1K_FEATURES.
    let sandbox = Sandbox::with_flowers();
    let mut weights = sandbox.weights("weights.safetensors", "squeezenet1_1", 1);
    let Some(Tensor { data: TensorData::F32(values), .. }) = weights.get_mut("classifier.1.weight") else {
        panic!("no such tensor")
    };
    values.fill(f32::NAN);
    sandbox.save("weights.safetensors", &weights);
    sandbox
        .train("flowers --arch squeezenet1_1 --weights weights.safetensors --epochs 1 --out net.safetensors");
    sandbox
        .run("predict --arch squeezenet1_1 --weights weights.safetensors flowers/test")
        .failed(1, &["NaN or infinite", "`classifier.1.weight`"]);
}

#[test]
fn a_download_without_a_network_says_what_to_do() {
    let sandbox = Sandbox::with_flowers();
    let place = sandbox.path("cache/weights/squeezenet1_1-b8a52dc0.pth").display().to_string();
    let words = [
        "cannot download https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth: ",
        "put it at ",
        &place,
        "name a weights file of your own",
    ];
    sandbox.run("train flowers --arch squeezenet1_1 --out out.safetensors").failed(1, &words);
    sandbox.run("predict --arch squeezenet1_1 flowers/test").failed(1, &words);
    sandbox.assert_nothing_written();
    assert!(sandbox.files("cache").is_empty());
    // And what is said helps.
    sandbox.weights("cache/weights/squeezenet1_1-b8a52dc0.pth", "squeezenet1_1", 1);
    sandbox.run("predict --arch squeezenet1_1 flowers/test").succeeded();
}

#[test]
fn files_that_are_no_checkpoints() {
    let sandbox = Sandbox::with_flowers();
    sandbox.weights("weights.safetensors", "squeezenet1_1", 1);
    let words = ["is no checkpoint of engraft", "`--arch ARCH --weights FILE`"];
    sandbox.is_no_checkpoint("weights.safetensors", &words);
    sandbox.write("words.txt", "These are words.");
    sandbox.is_no_checkpoint("words.txt", &words);
    // A checkpoint that was forgotten: the first image is taken for one.
    sandbox.is_no_checkpoint("flowers/test/1/0.ppm", &words);
    sandbox.is_no_checkpoint("none.safetensors", &["the checkpoint none.safetensors does not exist"]);
    sandbox.write("empty.safetensors", "");
    sandbox.is_no_checkpoint("empty.safetensors", &["is damaged or cut short (it is empty)"]);
}

#[test]
fn checkpoints_that_are_damaged_or_of_another_version() {
    let sandbox = Sandbox::with_flowers();
    sandbox.train(&format!("flowers {TINY} --epochs 1 --out net.safetensors"));
    let state = sandbox.tensors("net.safetensors");
    let metadata = read_metadata(&sandbox.path("net.safetensors")).unwrap();
    let rewrite = |change: &dyn Fn(&mut Value)| {
        let mut about: Value = serde_json::from_str(&metadata["engraft"]).unwrap();
        change(&mut about);
        let metadata = BTreeMap::from([("engraft".to_string(), about.to_string())]);
        state.write_safetensors(&sandbox.path("changed.safetensors"), &metadata).unwrap();
    };
    rewrite(&|_| ());
    sandbox.run("predict changed.safetensors flowers/test").succeeded();
    rewrite(&|about| about["format"] = json!(3));
    let words =
        ["is a checkpoint of format 3", "reads format 2", "use the version that wrote it, or train again"];
    sandbox.is_no_checkpoint("changed.safetensors", &words);
    // What a later version adds to its description does not hide the reason.
    rewrite(&|about| *about = json!({"format": 3, "network": "something new"}));
    sandbox.is_no_checkpoint("changed.safetensors", &words);
    rewrite(&|about| about["classes"] = json!(7));
    sandbox.is_no_checkpoint("changed.safetensors", &["is damaged", "invalid type"]);
    rewrite(&|about| about["cut"] = json!("nowhere"));
    sandbox.run("predict changed.safetensors flowers/test").failed(1, &["no module `nowhere`"]);
    rewrite(&|about| about["architecture"] = json!("resnet19"));
    sandbox
        .run("predict changed.safetensors flowers/test")
        .failed(1, &["there is no architecture `resnet19`"]);
    rewrite(&|about| about["head"]["hidden_units"] = json!([3]));
    sandbox.run("predict changed.safetensors flowers/test").failed(1, &["needs the tensor `features.3"]);
    rewrite(&|about| about["head"]["classes"] = json!(4));
    sandbox.is_no_checkpoint("changed.safetensors", &["is damaged", "but its head has 4"]);
    for (field, value, words) in [
        ("crop", json!(0), "images of 0 pixels a side"),
        ("crop", json!(65_536), "images of 65536 pixels a side, and 4096 are the most"),
        ("resize", json!(65_536), "images of 65536 pixels a side, and 8192 are the most"),
        ("std", json!([0.0, 1.0, 1.0]), "divides by zero"),
    ] {
        rewrite(&|about| about["transform"][field] = value.clone());
        sandbox.is_no_checkpoint("changed.safetensors", &["is damaged", words]);
    }

    let whole = sandbox.read("net.safetensors");
    sandbox.write("cut.safetensors", &whole[..whole.len() / 2]);
    sandbox.is_no_checkpoint("cut.safetensors", &["the checkpoint cut.safetensors is damaged or cut short"]);
    fs::create_dir(sandbox.path("folder")).unwrap();
    sandbox.is_no_checkpoint("folder", &["cannot read"]);
}
