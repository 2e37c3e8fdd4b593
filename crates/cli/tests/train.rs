//! `engraft train`: what is typed, what is printed, what is trained and what is not.

mod common;

use std::process::Stdio;

use common::{LEARNS, Run, Sandbox, TINY, event, words};
use engraft_tensor::{StateDict, TensorData};
use serde_json::json;

#[test]
fn the_command_of_the_seed_works_as_written() {
    let sandbox = Sandbox::new();
    sandbox.photos("flowers/train", &["1", "2"], 1);
    sandbox.photos("flowers/valid", &["1", "2"], 1);
    let run = sandbox
        .run(
            "train --weights random --train head \
             --arch vgg13 --dropout 0.2 --epochs 1 --hidden_units 1024 512 256 --learning_rate 0.003 flowers",
        )
        .succeeded();
    assert!(
        run.stdout.contains(
            "classifier: Linear 25088->4096 ... 4096->1000 replaced by 25088->1024->512->256->2, dropout 0.2"
        ),
        "{}",
        run.stdout
    );
    assert!(sandbox.path("flowers-vgg13.safetensors").is_file());
}

#[test]
fn a_gpu_that_is_not_there_is_no_silent_run_on_the_cpu() {
    let sandbox = Sandbox::with_flowers();
    sandbox
        .run(&format!("train {TINY} --gpu flowers --out out.safetensors"))
        .failed(1, &["GPU", "--features vulkan", "leave --gpu away to run on the CPU"]);
    sandbox.assert_nothing_written();
}

#[test]
fn the_folder_may_follow_the_hidden_units() {
    let sandbox = Sandbox::with_flowers();
    sandbox.photos("a, b/c,d", &["1", "2"], 4);
    for typed in [
        "--hidden_units 8 4 flowers",
        "--hidden-units 8,4 flowers",
        "--hidden-units=8,4 flowers",
        "--hidden-units 8 4 -- flowers",
        "--hidden_units 8 --hidden_units 4 flowers",
        "flowers --hidden-units 8 4",
    ] {
        let events = sandbox.train(&format!("{TINY} --epochs 1 {typed}"));
        assert_eq!(event(&events, "start")["hidden_units"], json!([8, 4]), "{typed}");
        assert_eq!(event(&events, "start")["data"], "flowers", "{typed}");
    }
    let line = format!("train --json {TINY} --epochs 1 --hidden-units 8 4");
    let with_commas = Run::of(&mut sandbox.engraft(&[words(&line), vec!["a, b/c,d"]].concat()));
    assert_eq!(event(&with_commas.succeeded().objects(), "start")["data"], "a, b/c,d");
}

#[test]
fn the_banner_comes_first_then_a_line_an_epoch_then_the_test() {
    let sandbox = Sandbox::with_flowers();
    let line =
        format!("train {TINY} flowers --hidden_units 8 4 --dropout 0.3 --epochs 3 --learning_rate 0.01");
    let run = sandbox.run(&line).succeeded();
    let banner = [
        ("data", "flowers: 3 classes, 12 images for training, 6 for validation, 3 for the test"),
        ("read as", "train/ 12, valid/ 6, test/ 3; 1 7, 10 7, 2 7"),
        ("architecture", "squeezenet1_1, weights random"),
        (
            "head",
            "features.3 and all behind it: Conv2d 64->16 ... 512->1000 replaced by 64->8->4->3, dropout 0.3",
        ),
        ("hidden units", "8 4"),
        ("dropout", "0.3"),
        ("epochs", "3"),
        ("learning rate", "0.01"),
        ("device", "cpu"),
        ("trained", "the new head, features.3: 571 of 2,363 parameters"),
        ("run", "runs/flowers-squeezenet1_1"),
        ("features", "21 images, 0 of them from the cache"),
    ];
    let mut lines = run.stdout.lines();
    for (name, value) in banner {
        let line = lines.next().unwrap();
        assert!(line.starts_with(&format!("{name:<14} {value}")), "{line}");
    }
    for epoch in 1..=3 {
        let line = lines.next().unwrap();
        assert!(line.starts_with(&format!("epoch     {epoch}/3  train loss ")), "{line}");
        assert!(line.contains("  validation loss ") && line.contains(" %  "), "{line}");
    }
    let names: Vec<&str> = lines.map(|line| line[..14].trim()).filter(|name| !name.is_empty()).collect();
    for wanted in ["best", "test", "margin", "baseline", "recall", "saved", "try it"] {
        assert!(names.contains(&wanted), "{names:?}");
    }
    assert_eq!(names.last(), Some(&"try it"));
    assert!(run.stdout.contains("engraft predict flowers-squeezenet1_1.safetensors IMAGE..."));
    assert_eq!(run.stderr, "");
}

#[test]
fn colours_are_learnt() {
    let sandbox = Sandbox::with_flowers();
    let events = sandbox.train(&format!("{LEARNS} flowers"));
    let end = event(&events, "end");
    assert_eq!(end["best_valid_accuracy"], 1.0);
    assert_eq!(end["test_accuracy"], 1.0);
    let losses: Vec<f64> = events.iter().filter_map(|event| event["train_loss"].as_f64()).collect();
    assert_eq!(losses.len(), 60);
    assert!(losses[59] < 0.01 * losses[0], "{losses:?}");
}

#[test]
fn a_folder_without_splits_is_split() {
    let sandbox = Sandbox::new();
    sandbox.photos("photos", &["ants", "bees"], 10);
    let events = sandbox.train(&format!("{TINY} --epochs 1 photos --valid 0.3 --test 0.1"));
    let start = event(&events, "start");
    assert_eq!(start["images"], json!({"train": 12, "valid": 6, "test": 2}));
    assert_eq!(start["classes"], json!(["ants", "bees"]));
}

#[test]
fn a_list_with_mapped_labels_is_data_too() {
    let sandbox = Sandbox::new();
    sandbox.photos("cells", &["good", "bad"], 6);
    let rows = |class: &str, label: &str| -> String {
        (0..6).map(|i| format!("{class}/{i}.ppm,{label}\n")).collect()
    };
    sandbox.write("cells/labels.csv", rows("good", "0.3333333") + &rows("bad", "1.0"));
    for data in ["cells/labels.csv", "cells --labels cells/labels.csv"] {
        let line = format!("{LEARNS} --map 0=ok,0.333=ok,1=defective --out cells.safetensors");
        let events = sandbox.train(&format!("{line} {data}"));
        assert_eq!(event(&events, "start")["classes"], json!(["defective", "ok"]), "{data}");
        assert_eq!(event(&events, "end")["test_accuracy"], 1.0, "{data}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let sandbox = Sandbox::with_flowers();
    sandbox.weights("weights.safetensors", "shufflenet_v2_x0_5", 1);
    let common = "train flowers --arch shufflenet_v2_x0_5 --weights weights.safetensors --hidden-units 8 --epochs 2 \
                  --batch-size 5";
    for part in ["head", "all", "last:1", "head+last:1"] {
        let run = |out: &str, cache: &str, seed: u64| {
            let line = format!("{common} --train {part} --seed {seed} --out {out}");
            let mut command = sandbox.engraft(&words(&line));
            Run::of(command.env("ENGRAFT_CACHE", sandbox.path(cache))).succeeded();
            sandbox.read(out)
        };
        let first = run("first", "cache1", 0);
        assert!(first == run("cold", "cache2", 0), "{part}: another cache");
        assert!(first == run("cached", "cache1", 0), "{part}: from the cache");
        assert!(first != run("other", "cache1", 1), "{part}: another seed");
    }
}

/// Tensors of a checkpoint that differ from the weights that it was trained from.
fn changed(trained: &StateDict, given: &StateDict) -> Vec<String> {
    let is_changed = |(name, tensor): &(&str, _)| given.get(name) != Some(*tensor);
    trained.iter().filter(is_changed).map(|(name, _)| name.to_string()).collect()
}

#[test]
fn frozen_means_frozen() {
    let sandbox = Sandbox::with_flowers();
    let mut given = sandbox.weights("weights.safetensors", "shufflenet_v2_x0_5", 1);
    // What so many random layers give is of 10^25, whose squares are too large for Adam.
    if let Some(TensorData::F32(values)) = given.get_mut("conv5.1.weight").map(|tensor| &mut tensor.data) {
        values.iter_mut().for_each(|value| *value *= 1e-25);
    }
    sandbox.save("weights.safetensors", &given);
    let line = "flowers --arch shufflenet_v2_x0_5 --weights weights.safetensors --batch-size 4 --out out.safetensors";
    let names: Vec<String> = given.names().map(String::from).collect();

    let events = sandbox.train(&format!("{line} --epochs 3"));
    assert_eq!(event(&events, "start")["freeze"], "backbone");
    let trained = sandbox.tensors("out.safetensors");
    assert!(trained.names().all(|name| given.get(name).is_some()) && trained.len() == names.len());
    assert_eq!(changed(&trained, &given), ["fc.bias", "fc.weight"]);
    assert_eq!(trained.get("fc.weight").unwrap().shape, [3, 1024]);
    // The values of the head that training began with are those of one that learns nothing.
    sandbox.train(&format!("{line} --epochs 1 --learning-rate 1e-30"));
    let untrained = sandbox.tensors("out.safetensors");
    assert_eq!(changed(&trained, &untrained), ["fc.bias", "fc.weight"]);

    let events = sandbox.train(&format!("{line} --epochs 1 --train all --norm live"));
    assert_eq!(event(&events, "start")["freeze"], "none");
    let trained = sandbox.tensors("out.safetensors");
    assert_eq!(changed(&trained, &given).len(), trained.len(), "not all tensors were trained");
    let counter = trained.get("conv1.1.num_batches_tracked").unwrap();
    assert_eq!(*counter, engraft_tensor::Tensor::counter(1234 + 3));
}

#[test]
fn random_weights_are_trained_unless_something_else_is_said() {
    let sandbox = Sandbox::with_flowers();
    let line = "train flowers --arch squeezenet1_1 --weights random --cut features.3 --epochs 1 --out out.safetensors";
    let run = sandbox.run(line).succeeded();
    assert!(run.stdout.contains("trained        the whole network: 1,987 parameters\n"), "{}", run.stdout);
}

#[test]
fn a_weights_file_needs_no_head_that_fits() {
    let sandbox = Sandbox::with_flowers();
    let mut weights = sandbox.weights("whole.safetensors", "shufflenet_v2_x0_5", 1);
    let line = "flowers --arch shufflenet_v2_x0_5 --epochs 1 --out out.safetensors --weights";
    sandbox.train(&format!("{line} whole.safetensors"));
    let expected = sandbox.tensors("out.safetensors");
    weights.insert("fc.bias", engraft_tensor::Tensor::f32([5], vec![0.0; 5]));
    weights.remove("fc.weight");
    sandbox.save("part.safetensors", &weights);
    sandbox.train(&format!("{line} part.safetensors"));
    assert!(expected == sandbox.tensors("out.safetensors"));
}

#[test]
fn published_weights_are_found_where_pytorch_keeps_them() {
    let sandbox = Sandbox::with_flowers();
    let line = "flowers --arch squeezenet1_1 --cut features.3 --epochs 1 --out out.safetensors";
    for folder in ["torch/hub/checkpoints", "cache/weights"] {
        let name = format!("{folder}/squeezenet1_1-b8a52dc0.pth");
        sandbox.weights(&name, "squeezenet1_1", 5);
        let events = sandbox.train(line);
        assert_eq!(event(&events, "start")["weights"], "squeezenet1_1-b8a52dc0.pth", "{folder}");
        std::fs::remove_file(sandbox.path(&name)).unwrap();
    }
}

#[test]
fn nobody_needs_to_listen() {
    let sandbox = Sandbox::with_flowers();
    for json in ["", "--json"] {
        let out = format!("out{json}.safetensors");
        let line = format!("train {TINY} flowers --epochs 2 --out {out} {json}");
        let mut child =
            sandbox.engraft(&words(&line)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{json}");
        assert!(sandbox.path(&out).is_file());
    }
}

#[test]
fn auxiliary_heads_train_along_if_asked_to() {
    let sandbox = Sandbox::with_flowers();
    let line =
        "flowers --arch googlenet --weights random --size 64 --batch-size 4 --epochs 1 --out net.safetensors";
    sandbox.train(&format!("{line} --aux train"));
    let with_aux = sandbox.tensors("net.safetensors");
    let classes = with_aux.get("fc.weight").unwrap().shape[0];
    assert_eq!(with_aux.get("aux1.fc2.weight").unwrap().shape, [classes, 1024]);
    sandbox.run("predict net.safetensors flowers/test").succeeded();
    sandbox.train(line);
    assert!(sandbox.tensors("net.safetensors").get("aux1.fc2.weight").is_none());

    sandbox
        .run(&format!("train {line} --aux train --train head"))
        .failed(1, &["auxiliary heads help to train the layers before them", "hint: --train all"]);
    sandbox
        .run("train flowers --arch resnet18 --weights random --aux train")
        .failed(1, &["there are no auxiliary heads"]);
}
