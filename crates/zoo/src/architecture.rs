//! The architectures by name.

use engraft_graph::Graph;
use thiserror::Error;

use crate::resnet::Block::{Basic, Bottleneck};
use crate::vgg::{VGG11, VGG13, VGG16, VGG19};
use crate::{alexnet, densenet, mobilenet_v2, resnet, shufflenet_v2, squeezenet, vgg};

/// Writes a graph down.
type Build = fn() -> Graph;

/// Every architecture: torchvision's name and its graph.
const ARCHITECTURES: &[(&str, Build)] = &[
    ("alexnet", alexnet::alexnet),
    ("densenet121", || densenet::densenet(32, [6, 12, 24, 16], 64)),
    ("densenet161", || densenet::densenet(48, [6, 12, 36, 24], 96)),
    ("densenet169", || densenet::densenet(32, [6, 12, 32, 32], 64)),
    ("densenet201", || densenet::densenet(32, [6, 12, 48, 32], 64)),
    ("mobilenet_v2", mobilenet_v2::mobilenet_v2),
    ("resnet18", || resnet::resnet(Basic, [2, 2, 2, 2])),
    ("resnet34", || resnet::resnet(Basic, [3, 4, 6, 3])),
    ("resnet50", || resnet::resnet(Bottleneck, [3, 4, 6, 3])),
    ("resnet101", || resnet::resnet(Bottleneck, [3, 4, 23, 3])),
    ("resnet152", || resnet::resnet(Bottleneck, [3, 8, 36, 3])),
    ("shufflenet_v2_x0_5", || shufflenet_v2::shufflenet_v2([48, 96, 192, 1024])),
    ("shufflenet_v2_x1_0", || shufflenet_v2::shufflenet_v2([116, 232, 464, 1024])),
    ("shufflenet_v2_x1_5", || shufflenet_v2::shufflenet_v2([176, 352, 704, 1024])),
    ("shufflenet_v2_x2_0", || shufflenet_v2::shufflenet_v2([244, 488, 976, 2048])),
    ("squeezenet1_0", || squeezenet::squeezenet(squeezenet::version_1_0())),
    ("squeezenet1_1", || squeezenet::squeezenet(squeezenet::version_1_1())),
    ("vgg11", || vgg::vgg(VGG11, false)),
    ("vgg11_bn", || vgg::vgg(VGG11, true)),
    ("vgg13", || vgg::vgg(VGG13, false)),
    ("vgg13_bn", || vgg::vgg(VGG13, true)),
    ("vgg16", || vgg::vgg(VGG16, false)),
    ("vgg16_bn", || vgg::vgg(VGG16, true)),
    ("vgg19", || vgg::vgg(VGG19, false)),
    ("vgg19_bn", || vgg::vgg(VGG19, true)),
];

/// A name that no architecture has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no architecture `{name}`; the nearest name is `{nearest}`. There are: {}", known.join(", "))]
pub struct UnknownArchitecture {
    /// As given.
    pub name: String,
    /// The architecture whose name is most like it.
    pub nearest: &'static str,
    /// All names.
    pub known: Vec<&'static str>,
}

/// torchvision's names of all architectures, families together.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|(name, _)| *name)
}

/// The graph of an architecture by torchvision's name, with its ImageNet head of 1000 classes.
///
/// # Errors
/// When there is none of that name.
pub fn architecture(name: &str) -> Result<Graph, UnknownArchitecture> {
    if let Some((_, build)) = ARCHITECTURES.iter().find(|(known, _)| *known == name) {
        return Ok(build());
    }
    let likeness = |known: &str| strsim::jaro_winkler(known, name);
    let nearest = architectures().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    Err(UnknownArchitecture {
        name: name.into(),
        nearest: nearest.unwrap_or_default(),
        known: architectures().collect(),
    })
}
