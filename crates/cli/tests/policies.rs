//! `engraft train --train`: what each policy trains, what it computes once, what it prints.

mod common;

use common::{Sandbox, event, images_and_cached};
use engraft_tensor::{StateDict, TensorData};

const LINE: &str =
    "flowers --arch shufflenet_v2_x0_5 --weights weights.safetensors --size 64 --batch-size 4 --epochs 2";

const OUT: &str = "--out out.safetensors";

/// Flowers, and weights that give numbers of a usual size.
fn sandbox() -> (Sandbox, StateDict) {
    let sandbox = Sandbox::with_flowers();
    let mut given = sandbox.weights("weights.safetensors", "shufflenet_v2_x0_5", 1);
    let names: Vec<String> =
        given.names().filter(|name| name.ends_with("running_var")).map(String::from).collect();
    for name in names {
        if let Some(TensorData::F32(values)) = given.get_mut(&name).map(|tensor| &mut tensor.data) {
            values.iter_mut().for_each(|value| *value *= 15.0);
        }
    }
    sandbox.save("weights.safetensors", &given);
    (sandbox, given)
}

/// The tensors that a training has changed.
fn changed(sandbox: &Sandbox, given: &StateDict, options: &str) -> Vec<String> {
    sandbox.train(&format!("{LINE} {OUT} {options}"));
    let trained = sandbox.tensors("out.safetensors");
    let is_changed = |(name, tensor): &(&str, _)| given.get(name) != Some(*tensor);
    let mut changed: Vec<String> =
        trained.iter().filter(is_changed).map(|(name, _)| name.to_string()).collect();
    changed.sort();
    changed
}

#[test]
fn what_is_not_named_stays_as_it_was() {
    let (sandbox, given) = sandbox();
    let last = ["conv5.0.weight", "conv5.1.bias", "conv5.1.weight", "fc.bias", "fc.weight"];
    assert_eq!(changed(&sandbox, &given, "--train head"), ["fc.bias", "fc.weight"]);
    assert_eq!(changed(&sandbox, &given, "--train last:1"), last);
    assert_eq!(changed(&sandbox, &given, "--train from:conv5.1 --force"), last[1..]);
    let live = changed(&sandbox, &given, "--train last:1 --norm live --force");
    let statistics = ["conv5.1.num_batches_tracked", "conv5.1.running_mean", "conv5.1.running_var"];
    let mut expected = [&last[..], &statistics].concat();
    expected.sort();
    assert_eq!(live, expected);
    let counter = sandbox.tensors("out.safetensors");
    assert_eq!(counter.get(statistics[0]), Some(&engraft_tensor::Tensor::counter(1234 + 2 * 3)));

    let norms = changed(&sandbox, &given, "--train norm --force");
    let is_norm = |name: &str| {
        let module = name.rsplit_once('.').unwrap().0;
        given.get(&format!("{module}.running_mean")).is_some() && !name.contains("running")
    };
    assert!(norms.iter().all(|name| is_norm(name) || name.starts_with("fc.")), "{norms:?}");
    assert!(norms.contains(&"conv5.1.bias".to_string()), "{norms:?}");
}

#[test]
fn what_is_frozen_is_computed_once() {
    let (sandbox, _) = sandbox();
    for (options, cached) in [
        ("--train last:1", 0),
        ("--train last:1 --norm live", 21),
        ("--train last:2", 0),
        ("--train from:conv5", 21),
    ] {
        let events = sandbox.train(&format!("{LINE} {OUT} {options} --force"));
        assert_eq!(images_and_cached(&events), (21, cached), "{options}");
    }
    // Nothing is frozen.
    let events = sandbox.train(&format!("{LINE} {OUT} --train all --force"));
    assert!(events.iter().all(|event| event["event"] != "features"));
}

#[test]
fn features_for_which_the_cache_is_too_small_are_computed_in_every_epoch() {
    let sandbox = Sandbox::with_flowers();
    let line =
        "train flowers --arch squeezenet1_1 --weights random --cut features.5 --train last:1 --epochs 1";
    sandbox.run(&format!("{line} --out kept.safetensors")).succeeded();
    std::fs::remove_dir_all(sandbox.path("cache/features")).unwrap();
    let run = sandbox.run(&format!("{line} --cache-size 1MB --out computed.safetensors")).succeeded();
    // 128 maps of 55 x 55, 21 times.
    let note = "note: the features would take 32.52 MB, and the cache may take 1.00 MB: the frozen part is computed in every epoch";
    assert!(run.stderr.contains(note), "{}", run.stderr);
    assert!(run.stdout.contains("\ntrained        features.4, features.5: "), "{}", run.stdout);
    assert!(sandbox.read("kept.safetensors") == sandbox.read("computed.safetensors"));
    assert!(sandbox.files("cache/features").iter().all(|file| !file.ends_with("rows")));
}

#[test]
fn the_head_is_found_first_as_if_it_were_to_be_trained_alone() {
    let (sandbox, _) = sandbox();
    sandbox.train(&format!("{LINE} --train head --solver lbfgs --out head.safetensors"));
    let events = sandbox.train(&format!("{LINE} {OUT} --train head+last:1"));
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["start", "features", "features", "solved", "head", "epoch", "epoch", "end"]);
    assert_eq!((&events[1]["of_head"], &events[1]["cached"]), (&false.into(), &0.into()));
    assert_eq!((&events[2]["of_head"], &events[2]["cached"]), (&true.into(), &21.into()));
    let alone = sandbox.metadata("head.safetensors", "engraft");
    let both = sandbox.metadata("out.safetensors", "engraft");
    assert_eq!(both["training"]["solution"], alone["training"]["solution"]);
    assert_eq!(both["training"]["policy"], "head+last:1");
    let accuracy = |about: &serde_json::Value| about["training"]["valid"]["accuracy"].as_f64().unwrap();
    assert!(accuracy(&both) >= accuracy(&alone));
    let found = sandbox.tensors("runs/flowers-shufflenet_v2_x0_5-2/head/last.safetensors");
    assert!(found == sandbox.tensors("head.safetensors"));
    // What is no better than the head alone is not kept.
    let options = "--train head+last:1 --backbone-learning-rate 1e-30 --force";
    let run = sandbox.run(&format!("train {LINE} {OUT} {options}")).succeeded();
    assert!(run.stdout.contains("best           the head alone: no epoch was better"), "{}", run.stdout);
    assert!(sandbox.tensors("out.safetensors") == found);
    sandbox.run("info out.safetensors").succeeded();
}

#[test]
fn what_trains_is_printed() {
    let (sandbox, _) = sandbox();
    let run = sandbox.run(&format!("train {LINE} {OUT} --train head+last:1")).succeeded();
    for line in [
        "trained        the head first, then conv5, fc: 201,731 of 344,867 parameters",
        "batch norms    frozen statistics",
        "learning rate  0.0001, falling to zero",
        "for the head   21 images, 0 of them from the cache",
        "head found     validation loss ",
    ] {
        assert!(run.stdout.contains(&format!("\n{line}")), "{line}: {}", run.stdout);
    }
    let run =
        sandbox.run(&format!("train {LINE} {OUT} --train norm --learning-rate 0.003 --force")).succeeded();
    for line in [
        "trained        57 modules (conv1.1, stage2.0.branch1.1, ... fc): ",
        "learning rate  0.003 for the head, 0.0003 for the rest, falling to zero",
    ] {
        assert!(run.stdout.contains(&format!("\n{line}")), "{line}: {}", run.stdout);
    }
    let info = sandbox.run("info out.safetensors").succeeded();
    assert!(info.stdout.contains("norm"), "{}", info.stdout);
}

#[test]
fn what_cannot_train_is_said_before_anything_is_written() {
    let (sandbox, _) = sandbox();
    for (options, code, words) in [
        ("--train last:0", 2, "no block would train"),
        ("--train last:99", 1, "the last 99 blocks before the head cannot be trained, as there are 5"),
        ("--train from:nothing", 1, "no module `nothing`; the nearest name is `"),
        ("--train from:stage5", 1, "the nearest name is `stage"),
        ("--train head+head", 2, "what trains after the head, as in head+last:1"),
        ("--train last:1 --solver lbfgs", 1, "L-BFGS finds linear heads on frozen networks alone"),
        ("--train head+last:1 --solver lbfgs --hidden-units 8", 1, "L-BFGS finds linear heads"),
        ("--train last:1 --aux train", 1, "auxiliary heads help to train the layers before them"),
        ("--norm batch", 2, "'batch'"),
        ("--backbone-learning-rate 0", 2, "a number above 0 is needed"),
        ("--freeze none", 2, "unexpected argument '--freeze'"),
    ] {
        sandbox.run(&format!("train {LINE} {OUT} {options}")).failed(code, &[words]);
        assert!(!sandbox.path("runs").exists(), "{options}");
    }
    sandbox.write("bad.toml", "data = \"flowers\"\narch = \"squeezenet1_1\"\ntrain = \"last\"\n");
    sandbox.run("train --config bad.toml").failed(1, &["bad.toml", "head, last:N, from:PATH, norm or all"]);
    sandbox.assert_nothing_written();
}

#[test]
fn a_run_of_an_older_version_goes_on_as_it_was() {
    let (sandbox, _) = sandbox();
    let same = "--backbone-learning-rate 0.001 --norm live";
    for (freeze, options) in [("none", format!("--train all {same}")), ("backbone", "--train head".into())] {
        sandbox.train(&format!("{LINE} {OUT} {options} --run {freeze} --learning-rate 0.001 --force"));
        let new = String::from_utf8(sandbox.read(&format!("runs/{freeze}/config.toml"))).unwrap();
        let is_new = |line: &&str| {
            let names = ["train =", "norm =", "schedule =", "backbone_learning_rate ="];
            names.iter().any(|name| line.starts_with(name))
        };
        assert_eq!(new.lines().filter(is_new).count(), if freeze == "none" { 4 } else { 3 });
        let old: String = new.lines().filter(|line| !is_new(line)).flat_map(|line| [line, "\n"]).collect();
        sandbox.write(&format!("runs/{freeze}/config.toml"), format!("freeze = \"{freeze}\"\n{old}"));
        let resumed = sandbox.run(&format!("train --json --resume runs/{freeze} --out out.safetensors"));
        if freeze == "none" {
            // The new default of a pretrained network is a cosine, that of the old one was none.
            assert_eq!(event(&resumed.succeeded().objects(), "start")["schedule"], "constant");
        } else {
            assert_eq!(event(&resumed.succeeded().objects(), "start")["train"], "head");
        }
    }
    sandbox.write("old.toml", "data = \"flowers\"\narch = \"squeezenet1_1\"\nfreeze = \"all\"\n");
    sandbox.run("train --config old.toml").failed(1, &["freeze: this was `backbone` or `none`"]);
}
