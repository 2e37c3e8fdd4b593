//! `engraft features`: what a network makes of images.

mod common;

use common::{Sandbox, event};
use engraft_tensor::Tensor;
use serde_json::json;

/// Weights, and a head trained on them with the backbone frozen.
fn trained() -> Sandbox {
    let sandbox = Sandbox::with_flowers();
    sandbox.weights("weights.safetensors", "squeezenet1_1", 3);
    let line = "flowers --arch squeezenet1_1 --weights weights.safetensors --epochs 3 --learning-rate 0.1";
    sandbox.train(&format!("{line} --out net.safetensors"));
    sandbox
}

fn features(sandbox: &Sandbox, line: &str) -> Tensor {
    sandbox.run(&format!("features --out features.safetensors {line}")).succeeded();
    let tensors = sandbox.tensors("features.safetensors");
    assert_eq!(tensors.names().collect::<Vec<_>>(), ["features"]);
    tensors.get("features").unwrap().clone()
}

#[test]
fn the_head_sees_the_same_in_a_checkpoint_as_in_the_weights_file() {
    let sandbox = trained();
    let of_checkpoint = features(&sandbox, "net.safetensors flowers/test");
    assert_eq!(of_checkpoint.shape, [3, 512]);
    let of_weights = features(&sandbox, "--arch squeezenet1_1 --weights weights.safetensors flowers/test");
    assert_eq!(of_checkpoint, of_weights);
}

#[test]
fn any_module_can_be_looked_at() {
    let sandbox = trained();
    let arch = "--arch squeezenet1_1 --weights weights.safetensors flowers/test/1/0.ppm flowers/test/2/0.ppm";
    for (path, shape) in [
        ("features.0", &[2, 64, 111, 111][..]),
        ("features.3", &[2, 128, 55, 55]),
        ("features.3.squeeze", &[2, 16, 55, 55]),
        ("features", &[2, 512, 13, 13]),
        ("output", &[2, 1000]),
    ] {
        assert_eq!(features(&sandbox, &format!("{arch} --at {path}")).shape, shape, "{path}");
    }
    // The module's own padding and pooling are in it, as in the network without the option.
    let module = features(&sandbox, &format!("{arch} --at features"));
    let pooled: Vec<f32> =
        module.as_f32().unwrap().chunks(13 * 13).map(|map| map.iter().sum::<f32>() / 169.0).collect();
    let head_sees = features(&sandbox, arch);
    for (a, b) in pooled.iter().zip(head_sees.as_f32().unwrap()) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn logits_are_the_head_applied_to_the_features() {
    let sandbox = trained();
    let features_of = features(&sandbox, "net.safetensors flowers/test");
    let logits = features(&sandbox, "net.safetensors flowers/test --at output");
    assert_eq!(logits.shape, [3, 3]);
    let net = sandbox.tensors("net.safetensors");
    let values = |name: &str| net.get(name).unwrap().as_f32().unwrap();
    let objects = sandbox.run("predict net.safetensors flowers/test --json").succeeded().objects();
    let classes = sandbox.metadata("net.safetensors", "engraft")["classes"].clone();
    for (i, row) in features_of.as_f32().unwrap().chunks(512).enumerate() {
        let by_hand: Vec<f32> = (0..3)
            .map(|class| {
                let weights = &values("classifier.weight")[512 * class..512 * (class + 1)];
                row.iter().zip(weights).map(|(a, b)| a * b).sum::<f32>() + values("classifier.bias")[class]
            })
            .collect();
        let logits = &logits.as_f32().unwrap()[3 * i..3 * (i + 1)];
        for (a, b) in by_hand.iter().zip(logits) {
            assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{a} {b}");
        }
        // And their softmax is what `predict` says.
        let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
        for guess in objects[i]["top"].as_array().unwrap() {
            let class = (0..3).find(|class| classes[class] == guess["class"]).unwrap();
            let probability = guess["probability"].as_f64().unwrap();
            assert!((probability - f64::from(logits[class].exp() / sum)).abs() < 1e-5, "{guess}");
        }
    }
}

#[test]
fn the_file_says_which_row_is_which_image() {
    let sandbox = trained();
    let line =
        "features --json --out features.safetensors net.safetensors flowers/valid/2/1.ppm flowers/test";
    let events = sandbox.run(line).succeeded().objects();
    assert_eq!(events.len(), 1);
    assert_eq!(
        *event(&events, "end"),
        json!({"event": "end", "out": "features.safetensors", "shape": [4, 512]})
    );
    let paths =
        ["flowers/valid/2/1.ppm", "flowers/test/1/0.ppm", "flowers/test/10/0.ppm", "flowers/test/2/0.ppm"];
    assert_eq!(sandbox.metadata("features.safetensors", "paths"), json!(paths));
    let all = sandbox.tensors("features.safetensors");
    let all = all.get("features").unwrap().as_f32().unwrap();
    for (i, path) in paths.iter().enumerate() {
        let alone = features(&sandbox, &format!("net.safetensors {path}"));
        let row = &all[512 * i..512 * (i + 1)];
        let largest = row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        for (a, b) in alone.as_f32().unwrap().iter().zip(row) {
            assert!((a - b).abs() <= 1e-5 * largest, "{path}: {a} {b}");
        }
    }
}

#[test]
fn what_cannot_be_used_is_said_and_left_out() {
    let sandbox = trained();
    sandbox.write("words.jpg", "These are no pixels.");
    let line = "features net.safetensors flowers/test/1/0.ppm words.jpg --out features.safetensors";
    sandbox
        .run(line)
        .failed(1, &["words.jpg: it is no image", "1 of 2 images could not be used and are not in the file"]);
    assert_eq!(sandbox.metadata("features.safetensors", "paths"), json!(["flowers/test/1/0.ppm"]));
    assert_eq!(sandbox.tensors("features.safetensors").get("features").unwrap().shape, [1, 512]);

    let line = "features net.safetensors flowers/test";
    sandbox.run(line).failed(2, &["--out"]);
    sandbox
        .run(&format!("{line} --out out.safetensors --at feature.3"))
        .failed(1, &["no module `feature.3`; the nearest name is `features.3`"]);
    sandbox.run(&format!("{line} --out none/out.safetensors")).failed(1, &["the folder none does not exist"]);
    sandbox.run(&format!("{line} --out flowers")).failed(1, &["cannot write flowers: it is a folder"]);
    sandbox.assert_nothing_written();
}
