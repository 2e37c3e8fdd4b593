//! The file that training writes: what it says of itself, and its tensors.

mod common;

use common::{LEARNS, Sandbox, TINY, event};
use engraft_data::Transform;
use engraft_tensor::read_metadata;
use serde_json::{Value, json};

#[test]
fn a_checkpoint_says_all_that_is_needed_to_use_it() {
    let sandbox = Sandbox::with_flowers();
    let line = "flowers --arch shufflenet_v2_x0_5 --weights random --train head --hidden_units 16 8 --dropout 0.4 \
                --epochs 2 --learning_rate 0.01 --batch-size 5 --seed 7 --out out.safetensors";
    let events = sandbox.train(line);
    let about = sandbox.metadata("out.safetensors", "engraft");
    assert_eq!(about["format"], 2);
    assert_eq!(about["architecture"], "shufflenet_v2_x0_5");
    assert_eq!(about["cut"], "fc");
    assert_eq!(about["head"], json!({"hidden_units": [16, 8], "classes": 3, "dropout": 0.4}));
    assert_eq!(about["classes"], json!(["1", "10", "2"]), "sorted as torchvision sorts them");
    let transform = |value: &Value| serde_json::from_value::<Transform>(value.clone()).unwrap();
    assert_eq!(transform(&about["transform"]), Transform::imagenet());
    assert_eq!(transform(&event(&events, "start")["transform"]), Transform::imagenet());
    let training = &about["training"];
    let options =
        json!({"epochs": 2, "learning_rate": 0.01, "schedule": "constant", "batch_size": 5, "seed": 7});
    assert_eq!(training["options"], options);
    assert_eq!(training["frozen"], true);
    assert_eq!(training["engraft_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(training["best_epoch"], event(&events, "end")["best_epoch"]);
    assert_eq!(training["valid"]["accuracy"], event(&events, "end")["best_valid_accuracy"]);
    assert_eq!(training["test"]["accuracy"], event(&events, "end")["test_accuracy"]);
    assert_eq!(training["train_images"], 12);
    // What PyTorch's and Hugging Face's readers look for.
    assert_eq!(read_metadata(&sandbox.path("out.safetensors")).unwrap()["format"], "pt");
}

#[test]
fn tensors_have_the_names_of_torchvision() {
    let sandbox = Sandbox::with_flowers();
    let line =
        "flowers --arch shufflenet_v2_x0_5 --weights random --train head --epochs 1 --out out.safetensors";
    let names = |of: &str| -> Vec<String> { sandbox.tensors(of).names().map(String::from).collect() };
    sandbox.weights("torchvision.safetensors", "shufflenet_v2_x0_5", 0);
    sandbox.train(line);
    assert_eq!(names("out.safetensors"), names("torchvision.safetensors"));

    sandbox.train(&format!("{line} --hidden-units 8 4"));
    let head: Vec<_> = names("out.safetensors").into_iter().filter(|name| name.starts_with("fc")).collect();
    // What `nn.Sequential(Linear, ReLU, Dropout, Linear, ReLU, Dropout, Linear)` calls its tensors.
    let sequential = ["fc.0.bias", "fc.0.weight", "fc.3.bias", "fc.3.weight", "fc.6.bias", "fc.6.weight"];
    assert_eq!(head, sequential);
}

#[test]
fn the_best_epoch_is_kept() {
    let sandbox = Sandbox::with_flowers();
    let line = "flowers --arch shufflenet_v2_x0_5 --weights random --train all --batch-size 4 --learning-rate 0.01 \
                --out out.safetensors --epochs";
    let events = sandbox.train(&format!("{line} 6"));
    let score =
        |event: &&Value| (event["valid_accuracy"].as_f64().unwrap(), -event["valid_loss"].as_f64().unwrap());
    let epochs: Vec<_> = events.iter().filter(|event| event["event"] == "epoch").collect();
    let best = epochs.iter().copied().max_by(|a, b| score(a).partial_cmp(&score(b)).unwrap()).unwrap();
    assert_eq!(event(&events, "end")["best_epoch"], best["epoch"]);
    assert_eq!(event(&events, "end")["best_valid_accuracy"], best["valid_accuracy"]);
    let kept = sandbox.tensors("out.safetensors");
    // A run that ends with that epoch has the same tensors, for the epochs before are the same.
    sandbox.train(&format!("{line} {}", best["epoch"]));
    assert_eq!(kept, sandbox.tensors("out.safetensors"));
}

#[test]
fn predictions_of_a_checkpoint_are_what_was_trained() {
    let sandbox = Sandbox::with_flowers();
    sandbox.train(&format!("{LEARNS} flowers --hidden-units 16 --out out.safetensors"));
    for class in ["1", "2", "10"] {
        let line = format!("predict out.safetensors --json flowers/test/{class}");
        let objects = sandbox.run(&line).succeeded().objects();
        assert_eq!(objects[0]["top"][0]["class"], class);
    }
}

#[test]
fn an_older_checkpoint_is_replaced() {
    let sandbox = Sandbox::with_flowers();
    sandbox.write("out.safetensors", "something else");
    sandbox.train(&format!("{TINY} flowers --epochs 1 --out out.safetensors"));
    assert_eq!(sandbox.metadata("out.safetensors", "engraft")["format"], 2);
}
