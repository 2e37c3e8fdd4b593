//! `engraft bench`.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::Sandbox;
use serde_json::Value;

/// They are no part of what is measured, nor are they left over.
#[test]
fn weights_with_auxiliary_heads_are_those_of_the_network() {
    let sandbox = Sandbox::new();
    sandbox.weights("googlenet.safetensors", "googlenet", 1);
    let run = sandbox.run("bench googlenet --weights googlenet.safetensors --size 64 --batch 1 --json");
    let objects = run.succeeded().objects();
    assert_eq!((objects.len(), objects[0]["arch"].as_str()), (1, Some("googlenet")));
}

/// Another instruction set than the machine's is named, too.
#[test]
fn the_machine_and_its_instruction_set_are_named() {
    let sandbox = Sandbox::new();
    let line = "bench squeezenet1_1 --size 64 --batch 1 --threads 1";
    let words: Vec<&str> = line.split(' ').collect();
    let portable = |more: &[&str]| {
        sandbox.engraft(&[&words, more].concat()).env("ENGRAFT_SIMD", "portable").output().unwrap()
    };
    let json: Value = serde_json::from_slice(&portable(&["--json"]).stdout).unwrap();
    assert_eq!((json["instruction_set"].as_str(), json["threads"].as_u64()), (Some("portable"), Some(1)));
    let machine = json["machine"].as_str().unwrap();
    assert!(!machine.is_empty());
    let text = String::from_utf8(portable(&[]).stdout).unwrap();
    assert!(text.starts_with(&format!("{machine}, portable, 1 threads, peak ")), "{text}");
}

/// As bench/compare.py asks.
#[test]
fn passes_are_timed_on_request() {
    let sandbox = Sandbox::new();
    let words: Vec<&str> = "bench squeezenet1_1 --size 64 --batch 2 --serve".split(' ').collect();
    let mut command = sandbox.engraft(&words);
    let mut program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    program.stdin.take().unwrap().write_all(b"time 0.01\ntime 0\n").unwrap();
    let output = program.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [facts, long, short] = &objects[..] else { panic!("{lines}") };
    // 2 images of 349 million multiply-adds at 224 pixels; a twelfth of that and less at 64.
    let gflop = facts["gflop"].as_f64().unwrap();
    assert!((0.05..0.12).contains(&gflop), "{gflop}");
    assert!(facts["first_pass_seconds"].as_f64().unwrap() > 0.0);
    let seconds = |answer: &Value| {
        answer["seconds"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).sum::<f64>()
    };
    assert!(seconds(long) >= 0.01 && seconds(short) > 0.0);
    assert_eq!(short["seconds"].as_array().unwrap().len(), 2);
    assert!(long["peak_gflops"].as_f64().unwrap() > 0.0);

    let wrong =
        sandbox.engraft(&words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut wrong = wrong.unwrap();
    wrong.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = wrong.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("the request is not `time SECONDS`: go"), "{error}");
}

/// Both passes and the update are timed, by every rule and with norms of both kinds; a profile has the steps of both passes.
#[test]
fn training_is_timed() {
    let sandbox = Sandbox::new();
    let line = "bench shufflenet_v2_x0_5 --size 64 --batch 2 --train";
    for options in ["", "--optimizer sgd --norm frozen"] {
        let run = sandbox.run(&format!("{line} {options} --json"));
        let objects = run.succeeded().objects();
        assert!(objects[0]["images_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{objects:?}");
    }
    let run = sandbox.run(&format!("{line} --profile"));
    let text = run.succeeded().stdout.clone();
    for step in ["conv1.0", "batch norm gradient", "< weight gradient"] {
        assert!(text.contains(step), "{step} is not in {text}");
    }
    sandbox.run("bench shufflenet_v2_x0_5 --norm frozen").failed(2, &["--train"]);
}
