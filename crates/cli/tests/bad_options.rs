//! Command lines that cannot be meant.

mod common;

use common::{Run, Sandbox, TINY, words};

#[test]
fn values_out_of_range_are_wrong_usage() {
    let sandbox = Sandbox::with_flowers();
    for (options, words) in [
        (
            "--hidden-units 0",
            "--hidden-units 0: a hidden layer needs at least one unit; leave the option away",
        ),
        ("--hidden-units 512 0", "--hidden-units 0: a hidden layer"),
        ("--hidden-units -1", "--hidden-units -1: whole numbers are needed, as in --hidden-units 512 256"),
        ("--hidden-units 8 many", "--hidden-units many: whole numbers are needed"),
        ("--dropout 1.5", "'1.5' for '--dropout <P>': a probability from 0 to below 1 is needed"),
        ("--dropout 1", "a probability from 0 to below 1 is needed"),
        ("--dropout -0.1", "'-0.1' for '--dropout <P>': a probability"),
        ("--dropout nan", "a probability from 0 to below 1 is needed"),
        ("--learning-rate -1", "'-1' for '--learning-rate <LR>': a number above 0 is needed, as in 0.003"),
        ("--learning_rate 0", "a number above 0 is needed"),
        ("--learning-rate inf", "a number above 0 is needed"),
        ("--learning-rate fast", "'fast' for '--learning-rate <LR>': a number above 0 is needed"),
        ("--epochs 0", "'0' for '--epochs <N>': a whole number above 0 is needed"),
        ("--epochs -3", "'-3' for '--epochs <N>': a whole number above 0 is needed"),
        ("--epochs 1.5", "a whole number above 0 is needed"),
        ("--batch-size 0", "'0' for '--batch-size <N|auto>': a whole number above 0 is needed, or auto"),
        ("--batch-size most", "a whole number above 0 is needed, or auto"),
        ("--memory 0", "'0' for '--memory <SIZE>': a size is needed, as in 500MB or 4GB"),
        ("--memory much", "a size is needed, as in 500MB or 4GB"),
        ("--memory 4GB --gpu", "'--memory <SIZE>' cannot be used with '--gpu'"),
        ("--map 0", "bad map of labels: \"0\" is not LABEL=CLASS (example: 0=ok,1=defective)"),
        ("--seed x", "--seed"),
        ("--nonsense", "unexpected argument '--nonsense'"),
        ("--epoch 3", "a similar argument exists: '--epochs'"),
    ] {
        sandbox.run(&format!("train flowers {TINY} --out out.safetensors {options}")).failed(2, &[words]);
    }
    sandbox.assert_nothing_written();
}

#[test]
fn what_is_needed_must_be_given() {
    let sandbox = Sandbox::with_flowers();
    let words = ["which network? pass --arch ARCH", "\n    engraft train flowers --arch mobilenet_v2\n"];
    sandbox.run("train flowers").failed(2, &words);
    sandbox.run(&format!("train {TINY}")).failed(2, &["which images? pass a folder or a CSV file"]);
    sandbox.run(&format!("train {TINY} --hidden-units 8 4")).failed(2, &["which images?"]);
    sandbox
        .run("train flowers --arch resnet19")
        .failed(2, &["'resnet19'", "a similar value exists: 'resnet18'"]);
    sandbox
        .run("train flowers --arch vgg13 --train backbone")
        .failed(2, &["'backbone'", "head, last:N, from:PATH, norm or all is needed"]);
    sandbox.run("graft").failed(2, &["unrecognized subcommand 'graft'"]);
    let help = sandbox.run("");
    assert_eq!(help.code, Some(2));
    assert!(help.stderr.contains("Usage: engraft <COMMAND>"), "{}", help.stderr);
}

#[test]
fn a_cut_that_does_not_exist_suggests_the_nearest() {
    let sandbox = Sandbox::with_flowers();
    let line = "train flowers --arch squeezenet1_1 --weights random --train head --out out.safetensors --cut";
    for (cut, words) in [
        ("nope", "the network has no module `nope`; the nearest name is `"),
        ("classifer", "no module `classifer`; the nearest name is `classifier`"),
        ("feature.3", "the nearest name is `features.3`"),
        ("features.99", "no module `features.99`"),
        ("features.0", "a cut at `features.0` leaves no layer of the network"),
    ] {
        sandbox.run(&format!("{line} {cut}")).failed(1, &[words]);
    }
    let empty = Run::of(&mut sandbox.engraft(&[words(line), vec![""]].concat()));
    empty.failed(1, &["the network has no module ``"]);
    sandbox.assert_nothing_written();
}

#[test]
fn a_learning_rate_that_is_too_high_is_said_to_be() {
    let sandbox = Sandbox::with_flowers();
    for part in ["head", "all"] {
        let line = format!(
            "train flowers --arch squeezenet1_1 --weights random --cut features.3 --train {part} \
             --learning-rate 1e38 --batch-size 4 --epochs 3 --out out.safetensors"
        );
        let words = [
            "of epoch 1 ",
            "is no finite number any more; the photos of that step are train/",
            "Try a lower learning rate",
        ];
        sandbox.run(&line).failed(1, &words);
    }
    sandbox.assert_nothing_written();
}

#[test]
fn a_solver_that_cannot_find_the_head_is_refused_before_any_photo_is_read() {
    let sandbox = Sandbox::with_flowers();
    for options in ["--train head --hidden-units 8", "--train all"] {
        let line =
            "train flowers --arch squeezenet1_1 --weights random --cut features.3 --solver lbfgs --json";
        let run = sandbox.run(&format!("{line} {options}"));
        assert_eq!(run.stdout, "");
        run.failed(1, &["L-BFGS finds linear heads on frozen networks alone", "--solver adam"]);
        assert!(!sandbox.path("runs").exists() && !sandbox.path("cache").exists());
    }
}

#[test]
fn an_image_that_no_checkpoint_may_ask_for_is_not_trained_on() {
    let sandbox = Sandbox::with_flowers();
    sandbox.run(&format!("train flowers {TINY} --size 5000")).failed(2, &["5000 is not in 1..=4096"]);
    sandbox.write(
        "config.toml",
        "data = \"flowers\"\narch = \"squeezenet1_1\"\nweights = \"random\"\nsize = 5000\n",
    );
    sandbox
        .run("train --config config.toml")
        .failed(1, &["images of 5000 pixels a side are too large; 4096 are the most"]);
    sandbox.assert_nothing_written();
}
