//! `engraft models`, and the weights and sizes that it offers.

mod common;

use common::{Sandbox, event};
use serde_json::Value;

fn rows(line: &str) -> Vec<Value> {
    let run = Sandbox::new().run(line).succeeded();
    serde_json::from_str(run.stdout.trim()).unwrap()
}

#[test]
fn all_published_weights_of_all_80_networks_are_listed() {
    let rows = rows("models --json");
    assert_eq!(rows.len(), 115);
    let mut names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 80);
    assert_eq!(rows.iter().filter(|row| row["default"] == true).count(), 80);
    let fields = "default file gmac input licence megabytes name parameters top1 top5 url weights";
    for row in &rows {
        let keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys.join(" "), fields);
    }
    // https://docs.pytorch.org/vision/stable/models.html
    let resnet50 =
        rows.iter().find(|row| row["weights"] == "IMAGENET1K_V2" && row["name"] == "resnet50").unwrap();
    assert_eq!((&resnet50["top1"], &resnet50["gmac"]), (&80.858.into(), &4.089.into()));
    let swag = rows.iter().filter(|row| row["weights"].as_str().unwrap().contains("SWAG"));
    assert!(swag.clone().count() > 0 && swag.clone().all(|row| row["licence"] == "CC-BY-NC-4.0"));
}

#[test]
fn rows_are_chosen_by_name_and_sorted() {
    assert!(rows("models vit --json").iter().all(|row| row["name"].as_str().unwrap().contains("vit")));
    let top1: Vec<f64> =
        rows("models --sort top-1 --json").iter().filter_map(|row| row["top1"].as_f64()).collect();
    assert!(top1.is_sorted_by(|a, b| a >= b) && top1.len() == 114);
    let parameters: Vec<u64> =
        rows("models --sort parameters --json").iter().filter_map(|row| row["parameters"].as_u64()).collect();
    assert!(parameters.is_sorted() && parameters.len() == 115);
    let table = Sandbox::new().run("models resnet50").succeeded().stdout;
    assert!(table.contains("IMAGENET1K_V2 *") && table.contains("80.86"), "{table}");
    Sandbox::new().run("models nothing").failed(1, &["no network has a name with `nothing` in it"]);
    Sandbox::new().run("models --sort price").failed(2, &["top-1"]);
}

#[test]
fn weights_are_chosen_by_the_name_of_their_publication() {
    let sandbox = Sandbox::with_flowers();
    let words =
        ["the weights IMAGENET1K_V7", "no such published weights of resnet18, which are: IMAGENET1K_V1"];
    sandbox.run("train flowers --arch resnet18 --weights IMAGENET1K_V7").failed(1, &words);
    // No network is in reach: the error says which file was wanted.
    for (weights, file) in [("IMAGENET1K_V1", "resnet50-0676ba61.pth"), ("DEFAULT", "resnet50-11ad3fa6.pth")]
    {
        sandbox
            .run(&format!("train flowers --arch resnet50 --weights {weights}"))
            .failed(1, &[file, "--weights"]);
    }
    let note = "licensed CC-BY-NC-4.0";
    sandbox.run("train flowers --arch vit_b_16 --weights IMAGENET1K_SWAG_LINEAR_V1").failed(1, &[note]);
}

#[test]
fn an_image_size_is_taken_where_the_network_can_take_it() {
    let sandbox = Sandbox::with_flowers();
    let events =
        sandbox.train("flowers --arch squeezenet1_1 --weights random --train head --size 64 --epochs 1");
    let transform = &event(&events, "start")["transform"];
    assert_eq!((&transform["crop"], &transform["resize"]), (&64.into(), &73.into()));
    // The checkpoint remembers it.
    let checkpoint = event(&events, "end")["checkpoint"].as_str().unwrap().to_string();
    sandbox.run(&format!("predict {checkpoint} flowers/test")).succeeded();
    sandbox
        .run("predict --arch vit_b_16 --weights random --size 100 flowers/test")
        .failed(1, &["a multiple of 16 pixels, which 100 is not; the nearest are 96 and 112"]);
    sandbox.run("predict --arch alexnet --weights random --size 30 flowers/test").failed(1, &["alexnet"]);
    sandbox.run(&format!("predict {checkpoint} --size 64 flowers/test")).failed(2, &["--size needs --arch"]);
    sandbox.run("predict --arch alexnet --weights random --size 0 flowers/test").failed(2, &["--size"]);
}

#[test]
fn own_weights_may_have_been_trained_with_transform_input() {
    let sandbox = Sandbox::with_flowers();
    // An early module, so that there is next to nothing to compute.
    let line = "flowers --arch googlenet --train head --cut maxpool1 --size 64 --epochs 1 --weights random";
    for (option, mean, std) in
        [("", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ("--transform-input", [0.5; 3], [0.5; 3])]
    {
        let events = sandbox.train(&format!("{line} {option} --out net.safetensors"));
        let about = sandbox.metadata("net.safetensors", "engraft");
        for transform in [&event(&events, "start")["transform"], &about["transform"]] {
            let values = |name: &str| -> Vec<f64> {
                transform[name].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
            };
            for (found, expected) in [(values("mean"), mean), (values("std"), std)] {
                assert!(
                    found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
                    "{found:?} {expected:?}"
                );
            }
        }
    }
}
