//! Training within a limit on memory: `--memory` and `--batch-size auto`.

mod common;

use common::{Sandbox, event};

const WHOLE: &str = "flowers --weights random --size 64 --epochs 1";

/// Bytes that training a network on batches of so many images takes.
fn bytes(sandbox: &Sandbox, arch: &str, batch: usize, norm: &str) -> u64 {
    let line = format!("bench {arch} --size 64 --batch {batch} --train --norm {norm} --json");
    sandbox.run(&line).succeeded().objects()[0]["peak_memory_bytes"].as_u64().unwrap()
}

#[test]
fn the_batch_is_the_largest_that_fits() {
    let sandbox = Sandbox::with_flowers();
    let line = format!("train --json {WHOLE} --arch shufflenet_v2_x0_5 --batch-size auto");
    let run = sandbox.run(&format!("{line} --memory 8GB --run large")).succeeded();
    assert!(run.stderr.contains("note: batches of 64 images\n"), "{}", run.stderr);
    assert_eq!(event(&run.objects(), "start")["batch_size"], 64);
    // With three classes it takes less than with a thousand.
    let limit = bytes(&sandbox, "shufflenet_v2_x0_5", 16, "live");
    let run = sandbox.run(&format!("{line} --memory {limit} --run small")).succeeded();
    let batch = event(&run.objects(), "start")["batch_size"].as_u64().unwrap();
    assert!([16, 32].contains(&batch), "{batch}");
    assert!(run.stderr.contains(&format!("note: batches of {batch} images, the most that fit into ")));
    // It is the run's from then on.
    let config = String::from_utf8(sandbox.read("runs/small/config.toml")).unwrap();
    assert!(config.contains(&format!("batch_size = {batch}\n")), "{config}");
    sandbox.run("train --json --resume runs/small --batch-size auto").succeeded();
    // Features are small.
    let line = "flowers --arch squeezenet1_1 --weights random --train head --epochs 1 --batch-size auto";
    assert_eq!(event(&sandbox.train(&format!("{line} --solver adam")), "start")["batch_size"], 64);
}

/// The bytes that a command needs at least, by its own word.
fn least(sandbox: &Sandbox, line: &str) -> u64 {
    let error = sandbox.run(&format!("{line} --memory 1MB")).failed(1, &[" needs at least "]).stderr;
    let megabytes = error.split(" needs at least ").nth(1).and_then(|rest| rest.split(" MB").next());
    (megabytes.unwrap().parse::<u64>().unwrap() + 1) * 1_000_000
}

#[test]
fn what_does_not_fit_is_computed_in_parts_or_twice() {
    let sandbox = Sandbox::new();
    sandbox.photos("flowers/train", &["a", "b"], 32);
    sandbox.photos("flowers/valid", &["a", "b"], 2);
    for (arch, norm, said) in [
        (
            "squeezenet1_1",
            "frozen",
            "batches of 64 go through the network 2 at a time, which changes last bits",
        ),
        ("shufflenet_v2_x0_5", "live", " parts of the network are computed a second time"),
    ] {
        let line = format!("train --json {WHOLE} --arch {arch} --run {arch}");
        let limit = least(&sandbox, &line);
        let run = sandbox.run(&format!("{line} --memory {limit}")).succeeded();
        for words in ["note: To stay within ", said] {
            assert!(run.stderr.contains(words), "{words:?} is not in {}", run.stderr);
        }
        let config = String::from_utf8(sandbox.read(&format!("runs/{arch}/config.toml"))).unwrap();
        assert!(config.contains(&format!("memory = {limit}\n")), "{config}");
        sandbox.run(&format!("train --json --resume runs/{arch}")).succeeded();
        // A benchmark says the same.
        let line = format!("bench {arch} --size 64 --batch 64 --train --norm {norm} --json");
        let limit = least(&sandbox, &line);
        let run = sandbox.run(&format!("{line} --memory {limit}")).succeeded();
        assert!(run.stderr.contains("To stay within "), "{}", run.stderr);
        assert!(run.objects()[0]["peak_memory_bytes"].as_u64().unwrap() <= limit);
    }
}

#[test]
fn too_little_memory_is_an_error_before_anything_is_written() {
    let sandbox = Sandbox::with_flowers();
    let words = ["training on batches of ", " images needs at least ", "but may take 1 MB", "--memory"];
    for batch in ["auto", "8"] {
        let line = format!("train {WHOLE} --arch shufflenet_v2_x0_5 --batch-size {batch} --memory 1MB");
        sandbox.run(&format!("{line} --out out.safetensors")).failed(1, &words);
    }
    sandbox.assert_nothing_written();
    sandbox.run("bench shufflenet_v2_x0_5 --size 64 --train --memory 1MB").failed(1, &words);
    sandbox.run("bench shufflenet_v2_x0_5 --memory 1GB").failed(2, &["--train"]);
}
