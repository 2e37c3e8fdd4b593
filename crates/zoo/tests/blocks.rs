//! The blocks of all architectures, and what trains with the last of them.

use engraft_graph::{HeadSpec, Part};
use engraft_zoo::{architecture, architectures};

fn head() -> HeadSpec {
    HeadSpec { hidden_units: Vec::new(), classes: 2, dropout: 0.0 }
}

/// One of each family: how many blocks, the modules of the last, and how many parameters they have by torchvision's modules. (The norms before the heads
/// of ConvNeXt and MaxViT are of the last block, and count, but are named with the head: their `classifier` trains as a whole.)
const LAST: &[(&str, usize, &[&str], usize)] = &[
    ("alexnet", 5, &["features.10"], 590080),
    ("vgg13", 10, &["features.22"], 2359808),
    ("vgg13_bn", 10, &["features.31", "features.32"], 2360832),
    ("resnet50", 5, &["layer4"], 14964736),
    ("mobilenet_v2", 19, &["features.18"], 412160),
    ("densenet121", 8, &["features.denseblock4", "features.norm5"], 2160128),
    ("vit_b_16", 13, &["encoder.layers.encoder_layer_11", "encoder.ln"], 7089408),
    ("swin_t", 8, &["features.7", "norm"], 14185392),
    ("swin_v2_t", 8, &["features.7", "norm"], 14204976),
    ("convnext_tiny", 8, &["features.7"], 14290944),
    ("maxvit_t", 5, &["blocks.3"], 17531712),
    ("efficientnet_b0", 9, &["features.8"], 412160),
    ("efficientnet_v2_s", 8, &["features.7"], 330240),
    ("googlenet", 12, &["inception5b"], 1347040),
    ("inception_v3", 16, &["Mixed_7c"], 6076800),
    ("mnasnet1_0", 10, &["layers.14", "layers.15"], 412160),
    ("mobilenet_v3_small", 13, &["features.12"], 56448),
    ("regnet_y_400mf", 5, &["trunk_output.block4"], 3052442),
    ("shufflenet_v2_x1_0", 5, &["conv5"], 477184),
    ("squeezenet1_0", 9, &["features.12"], 197184),
];

#[test]
fn the_last_block_is_what_torchvision_calls_so() {
    for (arch, blocks, modules, parameters) in LAST {
        let graft = architecture(arch).unwrap().graft(&head(), None).unwrap();
        assert_eq!(graft.blocks().len(), *blocks, "{arch}");
        let trained = graft.trained(&Part::Last(1)).unwrap();
        let mut found = trained.modules.clone();
        found.pop();
        assert_eq!(found, *modules, "{arch}");
        let of_head = graft.trained(&Part::Head).unwrap().parameters;
        assert_eq!(trained.parameters - of_head, *parameters, "{arch}");
    }
}

#[test]
fn every_architecture_has_blocks_that_can_be_trained_from_the_last_to_the_first() {
    for arch in architectures() {
        let graft = architecture(arch).unwrap().graft(&head(), None).unwrap();
        let blocks = graft.blocks().len();
        assert!((5..=80).contains(&blocks), "{arch}: {blocks}");
        let mut before = graft.trained(&Part::Head).unwrap().parameters;
        for count in 1..=blocks {
            let trained = graft.trained(&Part::Last(count)).unwrap();
            assert!(trained.parameters > before, "{arch}: block {count} from the end trains nothing");
            before = trained.parameters;
            // Where it begins the network can be cut in two, and nothing before trains.
            let frontier = graft.graph.frontier(|name| trained.contains(name));
            let (frozen, _) = graft.graph.split(frontier).unwrap_or_else(|error| panic!("{arch}: {error}"));
            assert!(frozen.state().iter().all(|tensor| !trained.contains(&tensor.name)), "{arch}");
        }
        assert_eq!(before, graft.trained(&Part::All).unwrap().parameters, "{arch}: not all is in a block");
        assert!(graft.trained(&Part::Last(blocks + 1)).is_err(), "{arch}");
    }
}
