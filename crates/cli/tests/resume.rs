//! A run that ends early goes on to the same bits.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Run, Sandbox, event, words};
use engraft_engine::SplitMix64;
use serde_json::Value;

/// A hidden layer with dropout on a frozen network, by Adam.
const HEAD: &str = "flowers --arch squeezenet1_1 --weights random --train head --cut features.3 --hidden-units 64 \
                    --dropout 0.5 --epochs 40 --learning-rate 0.01 --batch-size 5";

/// A whole network with batch norms, on images.
const WHOLE: &str =
    "flowers --arch shufflenet_v2_x0_5 --weights random --train all --size 64 --epochs 3 --batch-size 4";

/// Parts of a network, on features that are computed once and on images.
const PARTS: [&str; 5] =
    ["last:1 --norm live", "from:stage4.2", "norm", "head+last:2", "head+last:1 --hidden-units 8"];

/// A training of a part.
fn part(part: &str, epochs: u32) -> String {
    format!(
        "flowers --arch shufflenet_v2_x0_5 --weights random --train {part} --size 64 --epochs {epochs} --batch-size 4"
    )
}

/// Starts a run named `run`, which writes `run.safetensors`.
fn start(sandbox: &Sandbox, line: &str, run: &str) -> Command {
    let line = format!("train --json {line} --run {run} --out {run}.safetensors");
    let mut command = sandbox.engraft(&words(&line));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn resume(sandbox: &Sandbox, run: &str, more: &str) -> Run {
    sandbox.run(&format!("train --json --resume runs/{run} --out {run}.safetensors {more}"))
}

fn kill_after(mut child: Child, time: Duration) {
    sleep(time);
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().unwrap();
}

/// Kills runs at random moments, resumes each until it is done, and compares all that is written.
fn kills(line: &str, runs: u32, threads: &[&str]) {
    let sandbox = Sandbox::with_flowers();
    sandbox.photos("flowers/train", &["1", "2", "10"], 12);
    let begin = Instant::now();
    Run::of(&mut start(&sandbox, line, "whole")).succeeded();
    let duration = begin.elapsed();
    let checkpoint = sandbox.read("whole.safetensors");
    let ledger = sandbox.read("runs/whole/ledger.jsonl");
    let mut random = SplitMix64::new(7);
    for run in 0..runs {
        let run = format!("run{run}");
        kill_after(start(&sandbox, line, &run).spawn().unwrap(), duration.mul_f64(1.1 * random.uniform()));
        // A kill before the run has a folder leaves nothing to go on with.
        if !sandbox.path(&format!("runs/{run}/config.toml")).exists() {
            continue;
        }
        // Killed once more on the way.
        let line = format!("train --json --resume runs/{run} --out {run}.safetensors");
        let mut command = sandbox.engraft(&words(&line));
        let again = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        kill_after(again, duration.mul_f64(random.uniform()));
        resume(&sandbox, &run, threads[random.below(threads.len())]).succeeded();
        assert!(sandbox.read(&format!("{run}.safetensors")) == checkpoint, "{run} ended in other bits");
        assert!(sandbox.read(&format!("runs/{run}/ledger.jsonl")) == ledger, "{run} has another ledger");
        let left = sandbox.files(&format!("runs/{run}"));
        assert!(!left.iter().any(|file| file.extension().is_some_and(|extension| extension == "part")));
        std::fs::remove_dir_all(sandbox.path(&format!("runs/{run}"))).unwrap();
    }
}

#[test]
fn a_head_that_was_killed_ends_in_the_same_bits() {
    kills(HEAD, 6, &["", "--threads 1"]);
}

#[test]
fn a_whole_network_that_was_killed_ends_in_the_same_bits() {
    kills(WHOLE, 3, &["", "--threads 1"]);
}

#[test]
fn a_part_that_was_killed_ends_in_the_same_bits() {
    for name in PARTS {
        kills(&part(name, 6), 2, &["", "--threads 1"]);
    }
}

#[test]
#[ignore = "takes minutes: 200 runs"]
fn two_hundred_runs_that_were_killed_end_in_the_same_bits() {
    kills(HEAD, 150, &["", "--threads 1"]);
    kills(WHOLE, 25, &["", "--threads 1"]);
    for name in PARTS {
        kills(&part(name, 6), 5, &["", "--threads 1"]);
    }
}

/// Waits for an epoch, then sends a signal.
fn signal_in_epoch(child: &mut Child, epoch: u32, signal: &str) -> Vec<Value> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let wanted = format!(r#""epoch":{epoch},"#);
    assert!(lines.any(|line| line.contains(&wanted)));
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    lines.map(|line| serde_json::from_str(&line).unwrap()).collect()
}

#[cfg(unix)]
#[test]
fn ctrl_c_and_sigterm_save_at_once_and_the_run_goes_on_to_the_same_bits() {
    let sandbox = Sandbox::with_flowers();
    Run::of(&mut start(&sandbox, WHOLE, "whole")).succeeded();
    stop_and_go_on(&sandbox, WHOLE, &[("-INT", "interrupted"), ("-TERM", "terminated")]);
}

#[cfg(unix)]
#[test]
fn a_part_that_was_stopped_ends_in_the_same_bits() {
    for name in PARTS {
        let sandbox = Sandbox::with_flowers();
        // Long enough for the signal to come on the way. The head with a hidden layer is stopped while it is looked for.
        let line = part(name, 100);
        Run::of(&mut start(&sandbox, &line, "whole")).succeeded();
        stop_and_go_on(&sandbox, &line, &[("-INT", "interrupted")]);
    }
}

/// Stops runs in their first epoch, and compares what they give in the end with a run named `whole`.
#[cfg(unix)]
fn stop_and_go_on(sandbox: &Sandbox, line: &str, runs: &[(&str, &str)]) {
    for (signal, run) in runs {
        let mut child = start(sandbox, line, run).spawn().unwrap();
        let rest = signal_in_epoch(&mut child, 1, signal);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert!(stderr.contains("stopping after this batch"), "{stderr}");
        let end = event(&rest, "end");
        assert_eq!(end["ended"], "stopped");
        // What the first epoch gave can be used at once.
        sandbox.run(&format!("predict {run}.safetensors flowers/test --json")).succeeded();
        resume(sandbox, run, "").succeeded();
        assert!(sandbox.read(&format!("{run}.safetensors")) == sandbox.read("whole.safetensors"));
    }
}

#[test]
fn a_run_that_is_done_stays_as_it_is() {
    let sandbox = Sandbox::with_flowers();
    Run::of(&mut start(&sandbox, HEAD, "run")).succeeded();
    let checkpoint = sandbox.read("run.safetensors");
    let again = resume(&sandbox, "run", "").succeeded();
    assert!(sandbox.read("run.safetensors") == checkpoint);
    assert_eq!(event(&again.objects(), "start")["resumed"], 40);
}

#[cfg(unix)]
#[test]
fn changed_photos_and_options_are_refused_with_the_difference() {
    let sandbox = Sandbox::with_flowers();
    let mut child = start(&sandbox, WHOLE, "run").spawn().unwrap();
    signal_in_epoch(&mut child, 1, "-INT");
    child.wait().unwrap();

    resume(&sandbox, "run", "--epochs 5").failed(1, &["epochs: 3 became 5", "force"]);
    sandbox.photo("flowers/train/1/new.ppm", 0);
    resume(&sandbox, "run", "").failed(1, &["1 new (train/1/new.ppm)", "force"]);
    std::fs::remove_file(sandbox.path("flowers/train/1/new.ppm")).unwrap();

    let old = sandbox.read("flowers/train/1/0.ppm");
    sandbox.photo("flowers/train/1/0.ppm", 1);
    resume(&sandbox, "run", "").failed(1, &["1 with another content (train/1/0.ppm)", "force"]);
    sandbox.write("flowers/train/1/0.ppm", old);

    let events = resume(&sandbox, "run", "--epochs 5 --force").succeeded().objects();
    let epochs: Vec<_> = events.iter().filter(|event| event["event"] == "epoch").collect();
    assert_eq!(epochs.last().unwrap()["epoch"], 5);
}

#[cfg(unix)]
#[test]
fn a_photo_that_vanished_changes_nothing_where_its_features_are_known() {
    let sandbox = Sandbox::with_flowers();
    let line = HEAD.replace("--epochs 40", "--epochs 400");
    Run::of(&mut start(&sandbox, &line, "whole")).succeeded();
    let mut child = start(&sandbox, &line, "run").spawn().unwrap();
    signal_in_epoch(&mut child, 1, "-INT");
    child.wait().unwrap();
    std::fs::remove_file(sandbox.path("flowers/train/1/3.ppm")).unwrap();
    let resumed = resume(&sandbox, "run", "").succeeded();
    assert!(resumed.stderr.contains("train/1/3.ppm is gone"), "{}", resumed.stderr);
    assert!(sandbox.read("run.safetensors") == sandbox.read("whole.safetensors"));
}

#[test]
fn what_is_no_run_is_said() {
    let sandbox = Sandbox::with_flowers();
    resume(&sandbox, "nothing", "").failed(1, &["there is no run in runs/nothing"]);
    Run::of(&mut start(&sandbox, HEAD, "run")).succeeded();
    Run::of(&mut start(&sandbox, HEAD, "run")).failed(1, &["there is a run in runs/run already"]);
    sandbox.run("train flowers --run a/b --arch resnet18").failed(2, &["--run a/b: a name is needed"]);
    let config = Path::new("runs/run/config.toml");
    let copy = format!("train --json --config {} --run copy --out copy.safetensors", config.display());
    sandbox.run(&copy).succeeded();
    assert!(sandbox.read("copy.safetensors") == sandbox.read("run.safetensors"));
    sandbox.write("broken.toml", "epochs = many");
    sandbox.run("train --config broken.toml").failed(1, &["broken.toml", "epochs"]);
}
