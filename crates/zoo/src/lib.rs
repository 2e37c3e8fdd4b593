//! torchvision's architectures as graphs, and the catalogue of their published weights.
//!
//! A family of networks is a file: a table of numbers and the block that reads it. Paths of modules, names and shapes of
//! parameters, and the printed text are torchvision's.
//!
//! ```
//! let network = engraft_zoo::architecture("resnet18")?;
//! assert_eq!(network.head()?.path, "fc");
//! assert!(network.to_string().starts_with("ResNet(\n  (conv1): Conv2d(3, 64, kernel_size=(7, 7)"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod alexnet;
mod architecture;
mod blocks;
mod catalogue;
mod convnext;
mod densenet;
mod efficientnet;
mod googlenet;
mod inception_v3;
mod maxvit;
mod mnasnet;
mod mobilenet_v2;
mod mobilenet_v3;
mod regnet;
mod resnet;
mod shufflenet_v2;
mod squeezenet;
mod swin;
mod vgg;
mod vit;

pub use architecture::{SizeError, UnknownArchitecture, architecture, architecture_of_size, architectures};
pub use catalogue::{
    IMAGENET, Interpolation, Normalisation, PublishedWeights, TRANSFORM_INPUT, WEIGHTS, default_weights,
    has_transform_input, weights_by_tag, weights_of_file, weights_of_sha256,
};

/// The names of ImageNet's 1000 classes in the order of the logits, as torchvision writes them.
pub fn imagenet_classes() -> Vec<&'static str> {
    include_str!("imagenet_classes.txt").lines().collect()
}
