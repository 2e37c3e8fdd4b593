//! `engraft show`.

mod common;

use std::process::Stdio;

use common::{Sandbox, words};

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

#[test]
fn shapes_stand_behind_the_modules() {
    let sandbox = Sandbox::new();
    let text = sandbox.run("show resnet18 --shapes --size 192x160").succeeded().stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "ResNet( -> [1, 1000]");
    assert!(lines[1].ends_with("bias=False) -> [1, 64, 96, 80]"), "{text}");
    assert!(lines.contains(&"  (layer2): Sequential( -> [1, 128, 24, 20]"), "{text}");
    assert!(lines.contains(&"    (0): BasicBlock( -> [1, 128, 24, 20]"), "{text}");
    assert!(
        lines.contains(&"  (avgpool): AdaptiveAvgPool2d(output_size=(1, 1)) -> [1, 512, 1, 1]"),
        "{text}"
    );
    for arch in engraft_zoo::architectures() {
        let text = sandbox.run(&format!("show {arch} --shapes")).succeeded().stdout;
        let bare: Vec<&str> = text.lines().map(|line| line.split(" -> ").next().unwrap()).collect();
        let plain = engraft_zoo::architecture(arch).unwrap().to_string();
        assert_eq!(bare, plain.lines().collect::<Vec<_>>(), "{arch}");
    }
    let text = sandbox.run("show inception_v3 --shapes --size 160").succeeded().stdout;
    assert!(
        text.contains("(Mixed_7c): InceptionE( -> [1, 2048, 3, 3]") && !text.contains("AuxLogits"),
        "{text}"
    );
    // An attention is one operation, whose parts have no outputs of their own.
    let text = sandbox.run("show swin_v2_t --shapes").succeeded().stdout;
    assert!(text.contains("        (attn): ShiftedWindowAttentionV2( -> [1, 64, 64, 96]\n"), "{text}");
    assert!(
        text.contains("          (proj): Linear(in_features=96, out_features=96, bias=True)\n"),
        "{text}"
    );
}

#[test]
fn a_summary_adds_up_to_what_torchvision_documents() {
    let sandbox = Sandbox::new();
    let text = sandbox.run("show resnet18 --summary").succeeded().stdout;
    let rows: Vec<Vec<&str>> = text.lines().map(words).collect();
    assert_eq!(rows[0], ["module", "class", "parameters", "GMAC", "activations,", "MB"]);
    assert_eq!(rows[1], ["conv1", "Conv2d", "9,408", "0.118", "3.21"]);
    assert_eq!(rows.last().unwrap(), &["total", "ResNet", "11,689,512", "1.814", "32.92"]);
    assert!(text.contains("layer4.1 ") && !text.contains("layer4.1.conv1 "), "{text}");
    let text = sandbox.run("show resnet18 --summary --depth 3").succeeded().stdout;
    assert!(text.contains("layer4.1.conv1 "), "{text}");

    for entry in engraft_zoo::architectures().filter_map(engraft_zoo::default_weights) {
        let (arch, size) = (entry.architecture, entry.crop);
        let line = format!("show {arch} --summary --depth 1 --json --size {size}");
        let objects = sandbox.run(&line).succeeded().objects();
        let [modules @ .., total] = objects.as_slice() else { panic!("{arch}") };
        let gmac = total["multiply_adds"].as_f64().unwrap() / 1e9;
        assert!((gmac - entry.gmac).abs() < 0.000_501, "{arch}: {gmac}, documented {}", entry.gmac);
        let parts: u64 = modules.iter().map(|module| module["multiply_adds"].as_u64().unwrap()).sum();
        assert_eq!(total["multiply_adds"], parts, "{arch}");
    }
}

#[test]
fn a_graft_is_shown_as_a_diff() {
    let sandbox = Sandbox::new();
    let line = "show vgg13 --graft --classes 102 --hidden-units 512 256 --dropout 0.3";
    let text = sandbox.run(line).succeeded().stdout;
    let report =
        "classifier: Linear 25088->4096 ... 4096->1000 replaced by 25088->512->256->102, dropout 0.3";
    assert_eq!(text.lines().next(), Some(report));
    let marked =
        |mark| text.lines().skip(2).filter_map(move |line| line.strip_prefix(mark)).collect::<Vec<_>>();
    assert_eq!(marked("- ").len(), 7);
    assert_eq!(
        marked("+ ").first(),
        Some(&"    (0): Linear(in_features=25088, out_features=512, bias=True)")
    );
    assert_eq!(marked("+ ").last(), Some(&"    (6): Linear(in_features=256, out_features=102, bias=True)"));
    // What is not new is what was there, and what is not old is what there is now.
    let without = |mark: char| {
        let kept = text.lines().skip(2).filter(|line| !line.starts_with(mark));
        kept.map(|line| line[2..].to_string() + "\n").collect::<String>()
    };
    assert_eq!(without('+'), sandbox.run("show vgg13").succeeded().stdout);
    assert!(!without('-').contains("1000"));

    let text = sandbox.run("show resnet18 --graft --cut layer4 --summary --depth 1").succeeded().stdout;
    let rows: Vec<Vec<&str>> = text.lines().map(words).collect();
    assert_eq!(rows[2][..4], ["module", "class", "trainable", "frozen"]);
    assert!(rows.contains(&vec!["layer4", "Linear", "2,570", "0", "0.000", "0.00"]), "{text}");
    assert_eq!(rows.last().unwrap()[2..4], ["2,570", "2,782,784"]);
}

#[test]
fn a_network_is_drawn() {
    let sandbox = Sandbox::new();
    let dot = sandbox.run("show resnet18 --dot").succeeded().stdout;
    assert!(dot.starts_with("digraph network {"), "{dot}");
    assert!(dot.contains(r#"layer1\n2 × BasicBlock\n148 k parameters · 462 M MAC"#), "{dot}");
    assert!(dot.contains(r#"label=" 64 × 56 × 56""#), "{dot}");

    let run = sandbox.run("show maxvit_t --svg net.svg --graft --cut blocks.3").succeeded();
    assert_eq!(run.stdout, "");
    assert!(run.stderr.starts_with("blocks.3 and all behind it:"), "{}", run.stderr);
    let svg = String::from_utf8(sandbox.read("net.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains(">frozen</text>") && svg.contains(">head</text>"));
    sandbox.run("show resnet18 --svg no/such/folder.svg").failed(1, &["folder.svg"]);
    for arch in engraft_zoo::architectures() {
        let dot = sandbox.run(&format!("show {arch} --dot")).succeeded().stdout;
        let blocks = dot.lines().filter(|line| line.contains("fillcolor")).count();
        assert!((7..40).contains(&blocks) || arch.starts_with("vit"), "{arch}: {blocks} blocks");
        assert_eq!(dot.matches("#fde8d0").count(), heads(arch), "{arch}");
    }
}

/// How many blocks the heads of a network are.
fn heads(arch: &str) -> usize {
    match arch {
        // Auxiliary heads.
        "googlenet" => 3,
        "inception_v3" => 2,
        // Two linear layers and the activation between them.
        "maxvit_t" => 2,
        _ => 1,
    }
}

#[test]
fn options_that_do_not_go_together_are_wrong_usage() {
    let sandbox = Sandbox::new();
    for (line, words) in [
        ("--shapes --summary", "cannot be used with"),
        ("--dot --svg a.svg", "cannot be used with"),
        ("--dot --json", "cannot be used with"),
        ("--json", "required"),
        ("--size 224", "required"),
        ("--cut layer4", "--graft"),
        ("--classes 7", "--graft"),
        ("--shapes --size 0", "pixels from 1 to 65535"),
        ("--shapes --size 20x", "pixels from 1 to 65535"),
    ] {
        sandbox.run(&format!("show resnet18 {line}")).failed(2, &[words]);
    }
    sandbox.run("show resnet18 --graft --cut layer5").failed(1, &["no module `layer5`", "`layer"]);
    sandbox.run("show vgg13 --shapes --size 20").failed(1, &["features.24 (MaxPool2d)", "pixels a side"]);
    sandbox.run("show vit_b_16 --shapes --size 300").failed(1, &["a multiple of 16 pixels"]);
}
