//! Ctrl-C: what was learnt is kept.
#![cfg(unix)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{Sandbox, event, words};
use serde_json::Value;

#[test]
fn ctrl_c_ends_training_after_the_batch_and_saves() {
    let sandbox = Sandbox::with_flowers();
    let line = "train flowers --json --arch shufflenet_v2_x0_5 --weights random --train all --batch-size 4 \
                --epochs 100000 --out out.safetensors";
    let mut command = sandbox.engraft(&words(line));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let is_first_epoch = |line: &String| line.contains(r#""epoch":1,"#);
    assert!(lines.any(|line| is_first_epoch(&line)));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());

    let rest: Vec<Value> = lines.map(|line| serde_json::from_str(&line).unwrap()).collect();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("stopping after this batch; press Ctrl-C again to stop at once"), "{stderr}");
    let end = event(&rest, "end");
    assert_eq!(end["checkpoint"], "out.safetensors");

    let about = sandbox.metadata("out.safetensors", "engraft");
    assert_eq!(about["training"]["best_epoch"], end["best_epoch"]);
    assert_eq!(sandbox.run("predict out.safetensors flowers/test --json").succeeded().objects().len(), 3);
}
