//! `kill -9` at any moment costs what was not written yet, and nothing else.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Instant;

use common::{Run, Sandbox, TINY, event, images_and_cached, words};

#[test]
fn after_a_kill_the_next_run_ends_as_if_nothing_had_been() {
    const MOMENTS: u32 = 8;
    let sandbox = Sandbox::with_flowers();
    sandbox.photos("flowers/train", &["1", "2", "10"], 12);
    let line = format!("train flowers --json {TINY} --epochs 5 --learning-rate 0.05 --out out.safetensors");
    let command = |cache: &str| {
        let mut command = sandbox.engraft(&words(&line));
        command.env("ENGRAFT_CACHE", sandbox.path(cache)).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let start = Instant::now();
    let undisturbed = Run::of(&mut command("cache")).succeeded().objects();
    let duration = start.elapsed();
    let checkpoint = sandbox.read("out.safetensors");
    let (images, _) = images_and_cached(&undisturbed);

    for moment in 0..MOMENTS {
        let cache = format!("cache{moment}");
        std::fs::remove_file(sandbox.path("out.safetensors")).unwrap();
        let mut child = command(&cache).spawn().unwrap();
        // The later moments, in which files are written, lie closer together.
        let left = f64::from(MOMENTS - moment) / f64::from(MOMENTS);
        sleep(duration.mul_f64(1.0 - left * left));
        child.kill().unwrap();
        child.wait().unwrap();
        if sandbox.path("out.safetensors").exists() {
            assert!(sandbox.read("out.safetensors") == checkpoint, "half a checkpoint after kill {moment}");
        }

        let resumed = Run::of(&mut command(&cache)).succeeded().objects();
        let (images_again, cached) = images_and_cached(&resumed);
        assert!(images_again == images && cached <= images);
        assert!(sandbox.read("out.safetensors") == checkpoint, "another checkpoint after kill {moment}");
        assert_eq!(event(&resumed, "end")["test_accuracy"], event(&undisturbed, "end")["test_accuracy"]);
    }
}

#[test]
fn a_checkpoint_that_was_being_written_is_not_there() {
    let sandbox = Sandbox::with_flowers();
    // Some megabytes, so that writing takes a while.
    let line =
        format!("train flowers --json {TINY} --hidden-units 20000 --epochs 1 --out net/out.safetensors");
    sandbox.write("net/out.safetensors", "the old one");
    for kill in 0..5 {
        let mut child =
            sandbox.engraft(&words(&line)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains(r#""event":"epoch""#)));
        let before = (sandbox.files("net"), sandbox.read("net/out.safetensors"));
        while child.try_wait().unwrap().is_none() {
            if (sandbox.files("net"), sandbox.read("net/out.safetensors")) != before {
                child.kill().unwrap();
            }
        }
        match sandbox.read("net/out.safetensors").as_slice() {
            b"the old one" => {}
            _ => assert_eq!(sandbox.metadata("net/out.safetensors", "engraft")["format"], 2, "kill {kill}"),
        }
        sandbox.write("net/out.safetensors", "the old one");
    }
    sandbox.run(&line).succeeded();
    sandbox.run("predict net/out.safetensors flowers/test").succeeded();
}
