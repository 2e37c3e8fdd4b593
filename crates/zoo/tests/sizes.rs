//! Architectures for images of another size than torchvision's.

use engraft_graph::{Graph, TensorKind};
use engraft_zoo::{WEIGHTS, architecture, architecture_of_size, architectures};

fn of_size(name: &str, size: usize) -> Graph {
    architecture_of_size(name, size).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn at_its_own_size_an_architecture_is_what_it_is() {
    for name in architectures() {
        let network = architecture(name).unwrap();
        assert_eq!(of_size(name, network.input()[1]), network, "{name}");
    }
}

/// Those of a vit's fine-tuning at 384, 512 and 518 pixels among them.
#[test]
fn every_published_file_has_its_network() {
    for entry in WEIGHTS {
        let network = of_size(entry.architecture, entry.crop as usize);
        let size = entry.crop as usize;
        assert_eq!(network.input(), [3, size, size], "{entry:?}");
        assert_eq!(network.output_shape(), Ok(vec![1000]), "{entry:?}");
        // torchvision counts the auxiliary heads of Inception, but not those of GoogLeNet.
        let counts = [&network, &network.without_aux()].map(parameters);
        assert!(counts.contains(&entry.parameters), "{entry:?}");
    }
}

fn parameters(network: &Graph) -> u64 {
    let state = network.state().into_iter();
    state.filter(|tensor| tensor.kind == TensorKind::Parameter).map(|tensor| tensor.len() as u64).sum()
}

#[test]
fn other_sizes_change_the_embeddings_of_a_vit_and_nothing_else() {
    for name in architectures() {
        let (small, large) = (of_size(name, 224), of_size(name, 448));
        let (small, large) = (small.state(), large.state());
        assert_eq!(small.len(), large.len(), "{name}");
        let changed: Vec<&str> = small
            .iter()
            .zip(&large)
            .filter(|(small, large)| small != large)
            .map(|(small, _)| small.name.as_str())
            .collect();
        let expected: &[&str] = if name.starts_with("vit") { &["encoder.pos_embedding"] } else { &[] };
        assert_eq!(changed, expected, "{name}");
    }
    let vit = of_size("vit_l_32", 512).state();
    let embedding = vit.iter().find(|tensor| tensor.name == "encoder.pos_embedding").unwrap();
    assert_eq!(embedding.shape, [1, 16 * 16 + 1, 1024]);
}

#[test]
fn sizes_that_a_network_cannot_take_are_refused() {
    let message = |name: &str, size| architecture_of_size(name, size).unwrap_err().to_string();
    let multiple = |of: usize, size: usize, nearest: &str| {
        format!(
            "takes images whose side is a multiple of {of} pixels, which {size} is not; the nearest are {nearest}"
        )
    };
    assert_eq!(message("vit_b_16", 300), format!("vit_b_16 {}", multiple(16, 300, "288 and 304")));
    assert_eq!(message("vit_h_14", 0), format!("vit_h_14 {}", multiple(14, 0, "14 and 28")));
    assert_eq!(message("maxvit_t", 256), format!("maxvit_t {}", multiple(224, 256, "224 and 448")));
    assert_eq!(
        message("alexnet", 40),
        "alexnet cannot take images of 40x40 pixels: features.12 (MaxPool2d) needs an input of at least 3 pixels a side, but \
         gets [1, 256, 1, 1]: its window must fit into the padded image"
    );
    assert!(message("resnet5O", 224).starts_with("there is no architecture `resnet5O`"));
}
