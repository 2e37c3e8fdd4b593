//! A new head on every architecture, at its classifier and elsewhere.

use std::collections::HashSet;

use engraft_graph::{Graft, Graph, GraphError, HeadSpec, NodeId, Op};
use engraft_zoo::{architecture, architecture_of_size, architectures};

fn head(hidden_units: &[usize], classes: usize, dropout: f64) -> HeadSpec {
    HeadSpec { hidden_units: hidden_units.into(), classes, dropout }
}

fn graft(name: &str, spec: &HeadSpec, cut: Option<&str>) -> Graft {
    let graft = architecture(name).unwrap().graft(spec, cut);
    graft.unwrap_or_else(|error| panic!("{name}, cut at {cut:?}: {error}"))
}

fn names(graph: &Graph) -> Vec<String> {
    graph.state().into_iter().map(|tensor| tensor.name).collect()
}

/// What holds for every graft with one hidden layer of 64 units and 102 classes.
fn check(context: &str, original: &Graph, graft: &Graft) {
    let Graft { graph, features, report, .. } = graft;
    let shapes = graph.shapes(&[2, 3, 224, 224]).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(shapes[graph.output().0], [2, 102], "{context}");

    // The head reads the features, and nothing of the old classifier is behind them.
    let [batch, width] = shapes[features.0][..] else {
        panic!("{context}: features {:?}", shapes[features.0])
    };
    assert_eq!((batch, &report.widths[..]), (2, &[width, 64, 102][..]), "{context}");
    let readers: Vec<_> = graph.nodes().iter().filter(|node| node.inputs.contains(features)).collect();
    assert_eq!(readers.len(), 1, "{context}");
    assert_eq!(readers[0].module, format!("{}.0", report.path), "{context}");
    assert_eq!(
        graph.nodes().len(),
        features.0 + 5,
        "{context}: linear, ReLU, dropout, linear follow the features"
    );
    for op in graph.nodes().iter().filter_map(|node| node.op.widths()) {
        assert_ne!(op[1], 1000, "{context}");
    }
    let text = graph.to_string();
    assert!(!text.contains("_features=1000,") && !text.contains(" 1000,"), "{context}");

    // Nodes and modules agree, and what stays has its name and shape.
    let of_nodes: HashSet<String> =
        graph.nodes().iter().flat_map(|node| node.tensors()).map(|tensor| tensor.name).collect();
    let state = graph.state();
    assert_eq!(of_nodes, state.iter().map(|tensor| tensor.name.clone()).collect(), "{context}");
    let before: HashSet<_> = original.state().into_iter().collect();
    let (head, backbone): (Vec<_>, Vec<_>) =
        state.into_iter().partition(|tensor| graft.is_of_head(&tensor.name));
    assert!(backbone.iter().all(|tensor| before.contains(tensor)), "{context}");
    let head: Vec<String> = head.into_iter().map(|tensor| tensor.name).collect();
    let layers = ["0.weight", "0.bias", "3.weight", "3.bias"];
    assert_eq!(head, layers.map(|layer| format!("{}.{layer}", report.path)), "{context}");
}

#[test]
fn every_architecture_takes_a_head_in_the_place_of_its_own() {
    for name in architectures() {
        let original = architecture(name).unwrap().without_aux();
        let graft = graft(name, &head(&[64], 102, 0.2), None);
        check(name, &original, &graft);
        // All that stays is all but the classifier, in torchvision's order. That of a MaxViT ends beside the layer it begins with.
        let last = format!("{}.", original.head().unwrap().layer_path);
        let stays = |tensor: &String| !graft.is_of_head(tensor) && !tensor.starts_with(&last);
        let mut expected = names(&original);
        let mut found = names(&graft.graph);
        expected.retain(stays);
        found.retain(stays);
        assert_eq!(found, expected, "{name}");
        // What trains begins at the features, if only the head does.
        assert_eq!(graft.graph.frontier(|tensor| graft.is_of_head(tensor)), graft.features, "{name}");
    }
}

#[test]
fn every_architecture_can_be_cut_at_its_last_layer_and_in_the_middle() {
    for name in architectures() {
        let original = architecture(name).unwrap().without_aux();
        let last = original.head().unwrap().layer_path;
        let layers: Vec<_> = original.nodes().iter().filter(|node| node.op.widths().is_some()).collect();
        let middle = layers[layers.len() / 2].module.clone();
        for path in [last, middle] {
            let graft = graft(name, &head(&[64], 102, 0.2), Some(&path));
            check(&format!("{name}, cut at {path}"), &original, &graft);
            assert_eq!(graft.report.path, path);
        }
    }
}

/// One of each family, at every module it has.
#[test]
fn every_module_can_be_cut_at_or_says_why_not() {
    let families = [
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "googlenet",
        "inception_v3",
        "maxvit_t",
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "regnet_x_400mf",
        "regnet_y_400mf",
        "resnet18",
        "resnext50_32x4d",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "swin_t",
        "swin_v2_t",
        "vgg11_bn",
        "vit_b_32",
    ];
    for name in families {
        let original = architecture(name).unwrap();
        let paths = original.module_paths();
        let (mut grafted, mut parts) = (0, 0);
        for path in &paths {
            match original.graft(&head(&[64], 102, 0.2), Some(path)) {
                // Behind the last layer there is nothing to replace: the classes of ImageNet are the features.
                Ok(graft) if graft.report.widths[0] == 1000 => assert_eq!(graft.report.replaced, []),
                Ok(graft) => {
                    check(&format!("{name}, cut at {path}"), &original, &graft);
                    grafted += 1;
                }
                // The projections of an attention.
                Err(GraphError::PartOfModule { .. }) => parts += 1,
                // The first layer, a ReLU that is called twice, a branch that is empty, a layer that is not called.
                Err(
                    GraphError::NothingLeft { .. }
                    | GraphError::SeveralInputs { .. }
                    | GraphError::UnusedModule { .. },
                ) => {}
                Err(error) => panic!("{name}, cut at {path}: {error}"),
            }
        }
        let wholes = paths.len() - parts;
        assert!(grafted * 10 > wholes * 8, "{name}: {grafted} of {wholes}");
    }
}

/// Inception's auxiliary head has a kernel that does not fit into the maps of images below 299 pixels.
#[test]
fn an_image_too_small_for_an_auxiliary_head_is_no_reason_against_a_graft() {
    for size in [75, 224] {
        let inception = architecture_of_size("inception_v3", size).unwrap();
        let graft = inception.graft(&head(&[64], 102, 0.2), None).unwrap();
        assert_eq!(graft.graph.output_shape(), Ok(vec![102]), "{size}");
    }
    assert!(architecture_of_size("inception_v3", 74).is_err());
}

/// The node whose output the head sees.
fn features(name: &str, cut: Option<&str>) -> Op {
    let graft = graft(name, &head(&[], 2, 0.0), cut);
    graft.graph.nodes()[graft.features.0].op.clone()
}

#[test]
fn the_features_are_what_the_network_itself_made_a_vector() {
    let flatten = Op::Flatten { start: 1 };
    for name in ["alexnet", "densenet121", "mobilenet_v2", "resnet18", "squeezenet1_0", "vgg13"] {
        assert_eq!(features(name, None), flatten, "{name}");
    }
    assert_eq!(features("shufflenet_v2_x1_0", None), Op::Mean { axes: vec![2, 3] });
    assert_eq!(features("vgg13", Some("classifier.6")), Op::dropout(0.5));
    assert_eq!(features("resnet18", Some("layer3")), flatten);
}

#[test]
fn the_report_says_what_was_done() {
    let vgg = head(&[1024, 512, 256], 34, 0.2);
    let cases = [
        (
            "vgg13",
            &vgg,
            None,
            "classifier: Linear 25088->4096 ... 4096->1000 replaced by 25088->1024->512->256->34, dropout 0.2",
        ),
        (
            "vgg13",
            &head(&[], 34, 0.2),
            Some("classifier.6"),
            "classifier.6: Linear 4096->1000 replaced by 4096->34",
        ),
        (
            "vgg16",
            &head(&[10], 2, 0.5),
            Some("features.28"),
            "features.28 and all behind it: Conv2d 512->512 ... Linear 4096->1000 replaced by 512->10->2, dropout 0.5, after \
             global average pooling",
        ),
        ("resnet18", &head(&[], 2, 0.0), None, "fc: Linear 512->1000 replaced by 512->2"),
        (
            "resnet50",
            &head(&[256], 2, 0.1),
            Some("layer3"),
            "layer3 and all behind it: Conv2d 512->256 ... Linear 2048->1000 replaced by 512->256->2, dropout 0.1, after global \
             average pooling",
        ),
        (
            "squeezenet1_1",
            &head(&[256], 2, 0.1),
            None,
            "classifier: Conv2d 512->1000 replaced by 512->256->2, dropout 0.1, after global average pooling",
        ),
        (
            "mobilenet_v2",
            &head(&[256], 2, 0.0),
            None,
            "classifier: Linear 1280->1000 replaced by 1280->256->2, dropout 0",
        ),
        ("densenet161", &head(&[], 2, 0.0), None, "classifier: Linear 2208->1000 replaced by 2208->2"),
        ("shufflenet_v2_x2_0", &head(&[], 2, 0.0), None, "fc: Linear 2048->1000 replaced by 2048->2"),
        (
            "alexnet",
            &head(&[], 2, 0.0),
            None,
            "classifier: Linear 9216->4096 ... 4096->1000 replaced by 9216->2",
        ),
        ("swin_t", &head(&[], 2, 0.0), None, "head: Linear 768->1000 replaced by 768->2"),
        (
            "swin_v2_s",
            &head(&[256], 2, 0.0),
            Some("features.6"),
            "features.6 and all behind it: Linear 1536->768 ... 768->1000 replaced by 384->256->2, dropout 0, after global average \
             pooling",
        ),
        ("vit_b_16", &head(&[], 2, 0.0), None, "heads: Linear 768->1000 replaced by 768->2"),
        (
            "vit_b_16",
            &head(&[], 2, 0.0),
            Some("heads.head"),
            "heads.head: Linear 768->1000 replaced by 768->2",
        ),
        (
            "vit_h_14",
            &head(&[], 2, 0.0),
            Some("encoder.layers.encoder_layer_16"),
            "encoder.layers.encoder_layer_16 and all behind it: Linear 1280->5120 ... 1280->1000 replaced by 1280->2, after the mean \
             over tokens",
        ),
        (
            "maxvit_t",
            &head(&[], 2, 0.0),
            None,
            "classifier.3 and all behind it: Linear 512->512 ... 512->1000 replaced by 512->2",
        ),
        (
            "maxvit_t",
            &head(&[], 2, 0.0),
            Some("blocks.3.layers.1.layers.grid_attention.attn_layer"),
            "blocks.3.layers.1.layers.grid_attention.attn_layer and all behind it: Linear 512->2048 ... 512->1000 replaced by \
             512->2, after global average pooling",
        ),
        ("convnext_tiny", &head(&[], 2, 0.0), None, "classifier.2: Linear 768->1000 replaced by 768->2"),
        (
            "mobilenet_v3_large",
            &head(&[], 2, 0.0),
            None,
            "classifier: Linear 960->1280 ... 1280->1000 replaced by 960->2",
        ),
    ];
    for (name, spec, cut, report) in cases {
        assert_eq!(graft(name, spec, cut).report.to_string(), report);
    }
}

#[test]
fn a_grafted_network_prints_as_pytorch_would_print_it() {
    let original = architecture("vgg13").unwrap().to_string();
    let (features, _) = original.split_once("  (classifier)").unwrap();
    let classifier = "  (classifier): Sequential(
    (0): Linear(in_features=25088, out_features=1024, bias=True)
    (1): ReLU()
    (2): Dropout(p=0.2, inplace=False)
    (3): Linear(in_features=1024, out_features=512, bias=True)
    (4): ReLU()
    (5): Dropout(p=0.2, inplace=False)
    (6): Linear(in_features=512, out_features=256, bias=True)
    (7): ReLU()
    (8): Dropout(p=0.2, inplace=False)
    (9): Linear(in_features=256, out_features=34, bias=True)
  )
)";
    let graft = graft("vgg13", &head(&[1024, 512, 256], 34, 0.2), None);
    assert_eq!(graft.graph.to_string(), format!("{features}{classifier}"));
}

#[test]
fn after_a_cut_in_the_middle_all_behind_it_is_gone_from_the_text() {
    let original = architecture("resnet18").unwrap().to_string();
    let (kept, _) = original.split_once("  (layer3)").unwrap();
    let graft = graft("resnet18", &head(&[], 34, 0.2), Some("layer3"));
    let head = "  (layer3): Linear(in_features=128, out_features=34, bias=True)\n)";
    assert_eq!(graft.graph.to_string(), format!("{kept}{head}"));
}

#[test]
fn new_layers_are_named_as_in_the_classifier_that_they_replace() {
    let of_head = |name: &str, hidden: &[usize], dropout, cut: Option<&str>| {
        let graft = graft(name, &head(hidden, 34, dropout), cut);
        let mut names = names(&graft.graph);
        names.retain(|name| graft.is_of_head(name) && name.ends_with("weight"));
        names
    };
    assert_eq!(
        of_head("vgg13", &[1024, 512, 256], 0.2, None),
        ["classifier.0.weight", "classifier.3.weight", "classifier.6.weight", "classifier.9.weight"]
    );
    assert_eq!(of_head("vgg13", &[1024], 0.0, None), ["classifier.0.weight", "classifier.2.weight"]);
    assert_eq!(of_head("vgg13", &[], 0.2, None), ["classifier.weight"]);
    assert_eq!(of_head("vgg13", &[], 0.2, Some("classifier.6")), ["classifier.6.weight"]);
    assert_eq!(of_head("resnet18", &[], 0.2, None), ["fc.weight"]);
    assert_eq!(of_head("resnet18", &[64], 0.2, None), ["fc.0.weight", "fc.3.weight"]);
    assert_eq!(of_head("resnet18", &[], 0.2, Some("layer3.0")), ["layer3.0.weight"]);
}

#[test]
fn cuts_that_cannot_be_are_refused() {
    let message = |name: &str, cut: &str| {
        architecture(name).unwrap().graft(&head(&[], 2, 0.0), Some(cut)).unwrap_err().to_string()
    };
    let nearest = |cut: &str, nearest: &str| {
        format!("the network has no module `{cut}`; the nearest name is `{nearest}`")
    };
    assert_eq!(message("vgg13", "clasifier.6"), nearest("clasifier.6", "classifier.6"));
    assert_eq!(message("resnet18", "layer5"), nearest("layer5", "layer4"));
    assert_eq!(message("resnet18", "FC"), nearest("FC", "fc"));
    assert_eq!(message("resnet18", "layer3.0.con1"), nearest("layer3.0.con1", "layer3.0.conv1"));
    assert_eq!(
        message("swin_t", "features.1.0.attn.qkv"),
        "`features.1.0.attn.qkv` is computed as a part of `features.1.0.attn`; name that module instead"
    );
    let nothing_left = |cut: &str| {
        format!(
            "a cut at `{cut}` leaves no layer of the network to take features from; cut at a later module"
        )
    };
    assert_eq!(message("vgg13", "features"), nothing_left("features"));
    assert_eq!(message("vgg13", "features.0"), nothing_left("features.0"));
    assert_eq!(message("resnet18", "conv1"), nothing_left("conv1"));
}

/// A head on any of them: what is behind a cut is not needed to compute what is before it.
#[test]
fn the_part_before_the_head_is_the_original_network() {
    for name in architectures() {
        let original = architecture(name).unwrap().without_aux();
        let graft = graft(name, &head(&[64], 102, 0.2), None);
        let (trunk, rest) = graft.graph.split(graft.features).unwrap();
        let nodes = trunk.nodes();
        let same = nodes.iter().zip(original.nodes()).take_while(|(ours, theirs)| ours == theirs).count();
        // But for the pooling that a SqueezeNet does behind its classifier.
        let added = if name.starts_with("squeezenet") { 2 } else { 0 };
        assert_eq!(same, nodes.len() - added, "{name}");
        assert_eq!(trunk.output(), NodeId(nodes.len() - 1), "{name}");
        assert_eq!(rest.nodes().len(), 5, "{name}");
        assert_eq!(names(&graft.graph), [names(&trunk), names(&rest)].concat(), "{name}");
    }
}

#[test]
fn auxiliary_heads_are_dropped_or_get_the_new_classes() {
    for (name, layers) in
        [("googlenet", vec!["aux1.fc2", "aux2.fc2"]), ("inception_v3", vec!["AuxLogits.fc"])]
    {
        let network = architecture(name).unwrap();
        let spec = HeadSpec { hidden_units: vec![], classes: 102, dropout: 0.0 };
        let dropped = network.graft(&spec, None).unwrap();
        assert!(dropped.graph.aux().is_empty() && !dropped.graph.to_string().contains("Aux"), "{name}");

        let kept = network.graft_with_aux(&spec, None).unwrap();
        assert_eq!(kept.aux_heads, layers);
        let input = [&[2], kept.graph.input()].concat();
        let shapes = kept.graph.shapes(&input).unwrap();
        let outputs = [&[kept.graph.output()], kept.graph.aux()].concat();
        assert_eq!(outputs.len(), layers.len() + 1);
        assert!(outputs.iter().all(|output| shapes[output.0] == [2, 102]), "{name}");
        let state = kept.graph.state();
        for layer in layers {
            assert!(kept.is_of_head(&format!("{layer}.weight")));
            let weight = state.iter().find(|tensor| tensor.name == format!("{layer}.weight")).unwrap();
            assert_eq!(weight.shape[0], 102);
        }
        assert!(!kept.is_of_head("conv1.conv.weight"));
        // A cut before the branches leaves nothing of them; all that trains lies behind the input.
        let early = if name == "googlenet" { "inception4a" } else { "Mixed_6a" };
        assert_eq!(network.graft_with_aux(&spec, Some(early)).unwrap().aux_heads, Vec::<String>::new());
        let (_, rest) = kept.graph.split(kept.graph.frontier(|_| true)).unwrap();
        assert_eq!(rest.aux().len(), kept.aux_heads.len());
    }
}
