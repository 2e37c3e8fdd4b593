//! What `--json` prints: fields that, once published, are only added to.

mod common;

use common::{Sandbox, TINY, event};
use serde_json::Value;

/// The name of a field, and what its value must be.
type Field = (&'static str, fn(&Value) -> bool);

/// Asserts that an object has fields of these types, and that the docs name each of its fields.
#[track_caller]
fn assert_fields(object: &Value, fields: &[Field]) {
    for (name, is_right) in fields {
        let value = object.get(name).unwrap_or_else(|| panic!("no {name} in {object}"));
        assert!(is_right(value), "{name} in {object}");
    }
    let docs = include_str!("../../../docs/json.md");
    for name in object.as_object().unwrap().keys() {
        assert!(docs.contains(&format!("`{name}`")), "docs/json.md does not name `{name}`");
    }
}

fn is_words(value: &Value) -> bool {
    value.as_array().is_some_and(|values| values.iter().all(Value::is_string))
}

fn is_share(value: &Value) -> bool {
    value.as_f64().is_some_and(|share| (0.0..=1.0).contains(&share))
}

#[test]
fn a_training_is_start_features_epochs_end() {
    let sandbox = Sandbox::with_flowers();
    let run = sandbox.run(&format!("train --json {TINY} flowers --epochs 2 --hidden-units 8")).succeeded();
    assert_eq!(run.stderr, "");
    let events = run.objects();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["start", "features", "epoch", "epoch", "end"]);
    assert_fields(
        event(&events, "start"),
        &[
            ("architecture", Value::is_string),
            ("weights", Value::is_string),
            ("graft", Value::is_string),
            ("cut", Value::is_string),
            ("hidden_units", Value::is_array),
            ("dropout", Value::is_f64),
            ("train", Value::is_string),
            ("trained_modules", is_words),
            ("trained_parameters", Value::is_u64),
            ("norm", Value::is_string),
            ("freeze", Value::is_string),
            ("epochs", Value::is_u64),
            ("learning_rate", Value::is_f64),
            ("backbone_learning_rate", Value::is_null),
            ("schedule", Value::is_string),
            ("batch_size", Value::is_u64),
            ("seed", Value::is_u64),
            ("device", Value::is_string),
            ("data", Value::is_string),
            ("classes", is_words),
            ("images", Value::is_object),
            ("transform", Value::is_object),
            ("cache", Value::is_string),
            ("strict", Value::is_boolean),
            ("checkpoint", Value::is_string),
        ],
    );
    assert_fields(
        event(&events, "features"),
        &[("images", Value::is_u64), ("cached", Value::is_u64), ("seconds", Value::is_f64)],
    );
    for (i, epoch) in events[2..4].iter().enumerate() {
        assert_eq!(epoch["epoch"], i + 1);
        assert_fields(
            epoch,
            &[
                ("train_loss", Value::is_f64),
                ("valid_loss", Value::is_f64),
                ("valid_accuracy", is_share),
                ("seconds", Value::is_f64),
            ],
        );
    }
    assert_fields(
        event(&events, "end"),
        &[
            ("best_epoch", Value::is_u64),
            ("best_valid_accuracy", is_share),
            ("test_accuracy", is_share),
            ("checkpoint", Value::is_string),
            ("seconds", Value::is_f64),
            ("images_skipped", Value::is_u64),
        ],
    );
}

#[test]
fn what_there_is_not_is_null() {
    let sandbox = Sandbox::with_flowers();
    std::fs::remove_dir_all(sandbox.path("flowers/test")).unwrap();
    let events = sandbox.train(&format!("{TINY} flowers --epochs 1 --no-cache"));
    assert!(event(&events, "start")["cache"].is_null());
    assert!(event(&events, "end")["test_accuracy"].is_null());
    // Where nothing is frozen, no features are computed.
    let line = "flowers --arch squeezenet1_1 --weights random --cut features.3 --epochs 1";
    assert!(sandbox.train(line).iter().all(|event| event["event"] != "features"));
}

#[test]
fn a_prediction_is_an_object_an_image() {
    let sandbox = Sandbox::with_flowers();
    sandbox.train(&format!("{TINY} flowers --epochs 1 --out net.safetensors"));
    let run = sandbox.run("predict net.safetensors flowers/test/1/0.ppm none.jpg --json").failed(1, &[]);
    let objects = run.objects();
    let (failed, image): (Vec<&Value>, Vec<&Value>) =
        objects.iter().partition(|object| object["path"] == "none.jpg");
    assert_fields(image[0], &[("path", Value::is_string), ("top", Value::is_array)]);
    assert_fields(
        &image[0]["top"][0],
        &[("class", Value::is_string), ("name", Value::is_string), ("probability", is_share)],
    );
    assert_fields(failed[0], &[("path", Value::is_string), ("error", Value::is_string)]);

    let line = "features net.safetensors flowers/test --out features.safetensors --json";
    let events = sandbox.run(line).succeeded().objects();
    assert_fields(event(&events, "end"), &[("out", Value::is_string), ("shape", Value::is_array)]);
}

#[test]
fn the_cache_is_an_object() {
    let sandbox = Sandbox::new();
    let objects = sandbox.run("cache --json").succeeded().objects();
    assert_eq!(objects.len(), 1);
    assert_fields(
        &objects[0],
        &[
            ("path", Value::is_string),
            ("features_bytes", Value::is_u64),
            ("weights_bytes", Value::is_u64),
            ("cleared", Value::is_boolean),
        ],
    );
}

#[test]
fn a_module_is_an_object() {
    let sandbox = Sandbox::new();
    let objects = sandbox.run("show shufflenet_v2_x0_5 --shapes --json").succeeded().objects();
    let fields: [Field; 2] = [("module", Value::is_string), ("class", Value::is_string)];
    objects.iter().for_each(|object| assert_fields(object, &fields));
    assert_eq!(objects[0]["shape"], serde_json::json!([1, 1000]));
    assert!(objects.iter().any(|object| object["shape"].is_null()));

    let run = sandbox.run("show resnet18 --summary --json --graft --classes 3").succeeded();
    assert!(run.stderr.starts_with("fc: Linear 512->1000 replaced by 512->3"), "{}", run.stderr);
    let total = run.objects().pop().unwrap();
    assert_fields(
        &total,
        &[
            ("module", |path| path == ""),
            ("class", Value::is_string),
            ("parameters", Value::is_u64),
            ("trainable", |count| count == 512 * 3 + 3),
            ("multiply_adds", Value::is_u64),
            ("activation_bytes", Value::is_u64),
        ],
    );
}
