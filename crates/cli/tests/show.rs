//! `engraft show`.

mod common;

use std::process::Stdio;

use common::Sandbox;

#[test]
fn a_network_is_printed_as_pytorch_prints_it() {
    let sandbox = Sandbox::new();
    for arch in engraft_zoo::architectures() {
        let text = sandbox.run(&format!("show {arch}")).succeeded().stdout;
        assert_eq!(text, format!("{}\n", engraft_zoo::architecture(arch).unwrap()), "{arch}");
    }
    let text = sandbox.run("show resnet18").succeeded().stdout;
    assert!(
        text.starts_with("ResNet(\n  (conv1): Conv2d(3, 64, kernel_size=(7, 7), stride=(2, 2)"),
        "{text}"
    );
    assert!(text.ends_with("  (fc): Linear(in_features=512, out_features=1000, bias=True)\n)\n"), "{text}");
}

#[test]
fn an_unknown_architecture_is_wrong_usage() {
    let sandbox = Sandbox::new();
    sandbox.run("show resnet19").failed(2, &["invalid value 'resnet19'", "'resnet18'", "vgg13"]);
    sandbox.run("show").failed(2, &["<ARCH>"]);
}

#[test]
fn a_reader_may_stop_reading() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.engraft(&["show", "densenet201"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
