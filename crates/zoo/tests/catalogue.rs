//! The catalogue against torchvision's own metadata, and against what must hold without it.

use std::collections::{HashMap, HashSet};
use std::fs;

use engraft_zoo::{
    IMAGENET, Interpolation, Normalisation, PublishedWeights, TRANSFORM_INPUT, WEIGHTS, architectures,
    default_weights, has_transform_input, weights_by_tag, weights_of_file, weights_of_sha256,
};
use serde_json::Value;

#[test]
fn there_are_115_weights_of_80_architectures() {
    let architectures: HashSet<_> = WEIGHTS.iter().map(|entry| entry.architecture).collect();
    assert_eq!((WEIGHTS.len(), architectures.len()), (115, 80));
}

#[test]
fn every_architecture_has_weights() {
    for name in architectures() {
        assert!(default_weights(name).is_some(), "{name}");
    }
}

#[test]
fn an_entry_is_found_by_its_file_and_by_its_tag() {
    for entry in WEIGHTS {
        assert_eq!(weights_of_file(entry.file_name), Some(entry), "a second {}", entry.file_name);
        assert_eq!(weights_by_tag(entry.architecture, entry.tag), Some(entry), "a second {}", entry.tag);
    }
    assert_eq!(weights_of_file("resnet50.pth"), None);
    assert_eq!(weights_by_tag("alexnet", "IMAGENET1K_V2"), None);
}

#[test]
fn architectures_are_not_scattered() {
    let mut seen = HashSet::new();
    for run in WEIGHTS.chunk_by(|a, b| a.architecture == b.architecture) {
        assert!(seen.insert(run[0].architecture), "{} is in two places", run[0].architecture);
    }
}

#[test]
fn every_file_name_ends_in_a_hash() {
    for entry in WEIGHTS {
        let hash = entry.sha256_prefix();
        assert!(hash.len() >= 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{entry:?}");
        assert!(entry.file_name.ends_with(&format!("-{hash}.pth")), "{entry:?}");
    }
    let resnet18 = default_weights("resnet18").unwrap();
    assert_eq!(resnet18.sha256_prefix(), "f37072fd");
    assert_eq!(resnet18.url(), "https://download.pytorch.org/models/resnet18-f37072fd.pth");
}

/// Every entry is the one, and the only one, of the hashes that begin as its file name says.
#[test]
fn an_entry_is_found_by_its_hash() {
    for entry in WEIGHTS {
        let sha256 = format!("{:0<64}", entry.sha256_prefix());
        assert_eq!(weights_of_sha256(&sha256), Some(entry));
        assert_eq!(WEIGHTS.iter().filter(|other| other.is_file_of(&sha256)).count(), 1, "{entry:?}");
    }
    assert_eq!(weights_of_sha256(&"0".repeat(64)), None);
    assert_eq!(weights_of_sha256(""), None);
    let nameless = PublishedWeights { file_name: "weights.pth", ..WEIGHTS[0] };
    assert!(!nameless.is_file_of(&"0".repeat(64)), "a name without a hash is no file's");
}

#[test]
fn defaults_are_torchvisions() {
    let tag = |architecture| default_weights(architecture).map(|entry| entry.tag);
    assert_eq!(tag("alexnet"), Some("IMAGENET1K_V1"));
    assert_eq!(tag("resnet50"), Some("IMAGENET1K_V2"));
    assert_eq!(tag("vgg16"), Some("IMAGENET1K_V1"), "not the later IMAGENET1K_FEATURES");
    assert_eq!(tag("regnet_y_16gf"), Some("IMAGENET1K_V2"), "not the later SWAG");
    assert_eq!(tag("vit_h_14"), Some("IMAGENET1K_SWAG_E2E_V1"));
    assert_eq!(tag("lenet"), None);
}

/// An f32 takes four bytes, an f16 two; buffers and the format itself add a little.
#[test]
fn files_are_as_large_as_their_parameters() {
    for entry in WEIGHTS {
        let (parameters, bytes) = match (entry.architecture, entry.tag) {
            // The file has the auxiliary heads too.
            ("googlenet", _) => (13_004_888, 4.0),
            ("wide_resnet50_2" | "wide_resnet101_2", "IMAGENET1K_V1") => (entry.parameters, 2.0),
            _ => (entry.parameters, 4.0),
        };
        let ratio = entry.file_mib * 1024.0 * 1024.0 / (parameters as f64 * bytes);
        assert!((0.99..1.04).contains(&ratio), "{}: {ratio}", entry.file_name);
    }
}

#[test]
fn figures_are_in_their_ranges() {
    for entry in WEIGHTS {
        assert!(entry.crop <= entry.resize, "{entry:?}");
        if let (Some(acc1), Some(acc5)) = (entry.acc1, entry.acc5) {
            assert!(50.0 < acc1 && acc1 < acc5 && acc5 < 100.0, "{entry:?}");
        }
        assert_eq!(entry.licence.is_some(), entry.tag.contains("SWAG"), "{entry:?}");
    }
}

/// `facts/torchvision_weights.json` is what torchvision's `Weights` objects say, written out.
#[test]
fn every_row_is_what_torchvision_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/facts/torchvision_weights.json");
    let Ok(text) = fs::read_to_string(path) else {
        println!("skipped: there is no {path}");
        return;
    };
    let facts: Value = serde_json::from_str(&text).unwrap();
    let mut rows: HashMap<_, _> =
        WEIGHTS.iter().map(|entry| ((entry.architecture, entry.tag), entry)).collect();
    for (architecture, model) in facts["models"].as_object().unwrap() {
        let default = default_weights(architecture).map(|entry| entry.tag);
        assert_eq!(default, model["default"].as_str(), "{architecture}");
        for (tag, weights) in model["weights"].as_object().unwrap() {
            if weights["is_alias"] == false {
                let entry = rows.remove(&(architecture.as_str(), tag.as_str()));
                compare(entry.unwrap_or_else(|| panic!("{architecture}, {tag}")), weights);
            }
        }
    }
    assert!(rows.is_empty(), "{:?}", rows.keys());
}

fn compare(entry: &PublishedWeights, weights: &Value) {
    let context = &format!("{}, {}", entry.architecture, entry.tag);
    assert_eq!(entry.url(), weights["url"], "{context}");
    assert_eq!(entry.file_name, weights["file_name"], "{context}");
    assert_eq!(entry.acc1, weights["acc1"].as_f64(), "{context}");
    assert_eq!(entry.acc5, weights["acc5"].as_f64(), "{context}");
    assert_eq!(entry.parameters, weights["num_params"], "{context}");
    assert_eq!(entry.gmac, weights["gflops"], "{context}");
    assert_eq!(entry.file_mib, weights["file_size_mb"], "{context}");
    assert_eq!(entry.licence.is_some(), weights["license"].is_string(), "{context}");
    assert_eq!(entry.acc1.is_none(), weights["n_categories"].is_null(), "{context}");

    let transform = &weights["transforms"];
    assert_eq!(transform["class"], "ImageClassification", "{context}");
    assert_eq!(transform["antialias"], true, "{context}");
    assert_eq!(transform["resize_size"], Value::from(vec![entry.resize]), "{context}");
    assert_eq!(transform["crop_size"], Value::from(vec![entry.crop]), "{context}");
    let interpolation = match entry.interpolation {
        Interpolation::Bilinear => "bilinear",
        Interpolation::Bicubic => "bicubic",
    };
    assert_eq!(transform["interpolation"], interpolation, "{context}");
    let of_channels =
        |key: &str| -> [f32; 3] { serde_json::from_value(transform[key].clone()).expect("three numbers") };
    let preset = Normalisation { mean: of_channels("mean"), std: of_channels("std") };
    // torchvision's builders set `transform_input` for published weights; `engraft_engine`'s suite compares logits.
    let transforms_input = ["googlenet", "inception_v3"].contains(&entry.architecture);
    let expected = if transforms_input { TRANSFORM_INPUT } else { preset };
    assert_eq!(Normalisation { mean: entry.mean, std: entry.std }, expected, "{context}");
    assert!(!transforms_input || preset == IMAGENET, "{context}");
    assert_eq!(has_transform_input(entry.architecture), transforms_input, "{context}");
}
