//! The architectures by name.

use engraft_graph::{BatchNorm2d, Graph, GraphError};
use thiserror::Error;

use crate::blocks::tensorflow_norm;
use crate::resnet::BOTTLENECK;
use crate::resnet::Block::{Basic, Bottleneck};
use crate::swin::Version::{V1, V2};
use crate::vgg::{VGG11, VGG13, VGG16, VGG19};
use crate::{
    alexnet, convnext, densenet, efficientnet, googlenet, inception_v3, maxvit, mnasnet, mobilenet_v2,
    mobilenet_v3, regnet, resnet, shufflenet_v2, squeezenet, swin, vgg, vit,
};

/// Writes a graph down.
type Build = fn() -> Graph;
/// Writes a graph down for images of a size in pixels.
type BuildForSize = fn(usize) -> Graph;

/// Every architecture: torchvision's name and its graph.
const ARCHITECTURES: &[(&str, Build)] = &[
    ("alexnet", alexnet::alexnet),
    ("convnext_tiny", || convnext::convnext([3, 3, 9, 3], [96, 192, 384, 768], 0.1)),
    ("convnext_small", || convnext::convnext([3, 3, 27, 3], [96, 192, 384, 768], 0.4)),
    ("convnext_base", || convnext::convnext([3, 3, 27, 3], [128, 256, 512, 1024], 0.5)),
    ("convnext_large", || convnext::convnext([3, 3, 27, 3], [192, 384, 768, 1536], 0.5)),
    ("densenet121", || densenet::densenet(32, [6, 12, 24, 16], 64)),
    ("densenet161", || densenet::densenet(48, [6, 12, 36, 24], 96)),
    ("densenet169", || densenet::densenet(32, [6, 12, 32, 32], 64)),
    ("densenet201", || densenet::densenet(32, [6, 12, 48, 32], 64)),
    ("efficientnet_b0", || efficientnet::efficientnet([1.0, 1.0], 224, 0.2, BatchNorm2d::new)),
    ("efficientnet_b1", || efficientnet::efficientnet([1.0, 1.1], 240, 0.2, BatchNorm2d::new)),
    ("efficientnet_b2", || efficientnet::efficientnet([1.1, 1.2], 288, 0.3, BatchNorm2d::new)),
    ("efficientnet_b3", || efficientnet::efficientnet([1.2, 1.4], 300, 0.3, BatchNorm2d::new)),
    ("efficientnet_b4", || efficientnet::efficientnet([1.4, 1.8], 380, 0.4, BatchNorm2d::new)),
    ("efficientnet_b5", || efficientnet::efficientnet([1.6, 2.2], 456, 0.4, tensorflow_norm)),
    ("efficientnet_b6", || efficientnet::efficientnet([1.8, 2.6], 528, 0.5, tensorflow_norm)),
    ("efficientnet_b7", || efficientnet::efficientnet([2.0, 3.1], 600, 0.5, tensorflow_norm)),
    ("efficientnet_v2_s", || efficientnet::efficientnet_v2(&efficientnet::V2_S, 384, 0.2)),
    ("efficientnet_v2_m", || efficientnet::efficientnet_v2(&efficientnet::V2_M, 480, 0.3)),
    ("efficientnet_v2_l", || efficientnet::efficientnet_v2(&efficientnet::V2_L, 480, 0.4)),
    ("googlenet", googlenet::googlenet),
    ("inception_v3", inception_v3::inception_v3),
    ("mnasnet0_5", || mnasnet::mnasnet(0.5)),
    ("mnasnet0_75", || mnasnet::mnasnet(0.75)),
    ("mnasnet1_0", || mnasnet::mnasnet(1.0)),
    ("mnasnet1_3", || mnasnet::mnasnet(1.3)),
    ("mobilenet_v2", mobilenet_v2::mobilenet_v2),
    ("mobilenet_v3_large", || mobilenet_v3::mobilenet_v3(&mobilenet_v3::LARGE, 1280)),
    ("mobilenet_v3_small", || mobilenet_v3::mobilenet_v3(&mobilenet_v3::SMALL, 1024)),
    ("regnet_x_400mf", || regnet::regnet_x(22, 24, 24.48, 2.54, 16)),
    ("regnet_x_800mf", || regnet::regnet_x(16, 56, 35.73, 2.28, 16)),
    ("regnet_x_1_6gf", || regnet::regnet_x(18, 80, 34.01, 2.25, 24)),
    ("regnet_x_3_2gf", || regnet::regnet_x(25, 88, 26.31, 2.25, 48)),
    ("regnet_x_8gf", || regnet::regnet_x(23, 80, 49.56, 2.88, 120)),
    ("regnet_x_16gf", || regnet::regnet_x(22, 216, 55.59, 2.1, 128)),
    ("regnet_x_32gf", || regnet::regnet_x(23, 320, 69.86, 2.0, 168)),
    ("regnet_y_400mf", || regnet::regnet_y(16, 48, 27.89, 2.09, 8)),
    ("regnet_y_800mf", || regnet::regnet_y(14, 56, 38.84, 2.4, 16)),
    ("regnet_y_1_6gf", || regnet::regnet_y(27, 48, 20.71, 2.65, 24)),
    ("regnet_y_3_2gf", || regnet::regnet_y(21, 80, 42.63, 2.66, 24)),
    ("regnet_y_8gf", || regnet::regnet_y(17, 192, 76.82, 2.19, 56)),
    ("regnet_y_16gf", || regnet::regnet_y(18, 200, 106.23, 2.48, 112)),
    ("regnet_y_32gf", || regnet::regnet_y(20, 232, 115.89, 2.53, 232)),
    ("regnet_y_128gf", || regnet::regnet_y(27, 456, 160.83, 2.52, 264)),
    ("resnet18", || resnet::resnet(Basic, [2, 2, 2, 2])),
    ("resnet34", || resnet::resnet(Basic, [3, 4, 6, 3])),
    ("resnet50", || resnet::resnet(BOTTLENECK, [3, 4, 6, 3])),
    ("resnet101", || resnet::resnet(BOTTLENECK, [3, 4, 23, 3])),
    ("resnet152", || resnet::resnet(BOTTLENECK, [3, 8, 36, 3])),
    ("resnext50_32x4d", || resnet::resnet(Bottleneck { groups: 32, width: 4 }, [3, 4, 6, 3])),
    ("resnext101_32x8d", || resnet::resnet(Bottleneck { groups: 32, width: 8 }, [3, 4, 23, 3])),
    ("resnext101_64x4d", || resnet::resnet(Bottleneck { groups: 64, width: 4 }, [3, 4, 23, 3])),
    ("shufflenet_v2_x0_5", || shufflenet_v2::shufflenet_v2([48, 96, 192, 1024])),
    ("shufflenet_v2_x1_0", || shufflenet_v2::shufflenet_v2([116, 232, 464, 1024])),
    ("shufflenet_v2_x1_5", || shufflenet_v2::shufflenet_v2([176, 352, 704, 1024])),
    ("shufflenet_v2_x2_0", || shufflenet_v2::shufflenet_v2([244, 488, 976, 2048])),
    ("squeezenet1_0", || squeezenet::squeezenet(squeezenet::version_1_0())),
    ("squeezenet1_1", || squeezenet::squeezenet(squeezenet::version_1_1())),
    ("swin_t", || swin::swin(V1, 96, [2, 2, 6, 2], 3, 0.2)),
    ("swin_s", || swin::swin(V1, 96, [2, 2, 18, 2], 3, 0.3)),
    ("swin_b", || swin::swin(V1, 128, [2, 2, 18, 2], 4, 0.5)),
    ("swin_v2_t", || swin::swin(V2, 96, [2, 2, 6, 2], 3, 0.2)),
    ("swin_v2_s", || swin::swin(V2, 96, [2, 2, 18, 2], 3, 0.3)),
    ("swin_v2_b", || swin::swin(V2, 128, [2, 2, 18, 2], 4, 0.5)),
    ("vgg11", || vgg::vgg(VGG11, false)),
    ("vgg11_bn", || vgg::vgg(VGG11, true)),
    ("vgg13", || vgg::vgg(VGG13, false)),
    ("vgg13_bn", || vgg::vgg(VGG13, true)),
    ("vgg16", || vgg::vgg(VGG16, false)),
    ("vgg16_bn", || vgg::vgg(VGG16, true)),
    ("vgg19", || vgg::vgg(VGG19, false)),
    ("vgg19_bn", || vgg::vgg(VGG19, true)),
    ("wide_resnet50_2", || resnet::resnet(Bottleneck { groups: 1, width: 128 }, [3, 4, 6, 3])),
    ("wide_resnet101_2", || resnet::resnet(Bottleneck { groups: 1, width: 128 }, [3, 4, 23, 3])),
];

/// The architectures that are built for images of one size: their name, what the size must be a multiple of, and their graph.
const ARCHITECTURES_OF_A_SIZE: &[(&str, usize, BuildForSize)] = &[
    ("maxvit_t", 224, maxvit::maxvit_t),
    ("vit_b_16", 16, |size| vit::vit(size, 16, 12, 12, 768)),
    ("vit_b_32", 32, |size| vit::vit(size, 32, 12, 12, 768)),
    ("vit_l_16", 16, |size| vit::vit(size, 16, 24, 16, 1024)),
    ("vit_l_32", 32, |size| vit::vit(size, 32, 24, 16, 1024)),
    ("vit_h_14", 14, |size| vit::vit(size, 14, 32, 16, 1280)),
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

/// Why there is no graph for images of a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SizeError {
    /// There is no graph at all.
    #[error(transparent)]
    UnknownArchitecture(#[from] UnknownArchitecture),
    /// The network cuts images into squares, which would not fill this one.
    #[error(
        "{architecture} takes images whose side is a multiple of {of} pixels, which {size} is not; the nearest are {} and {}",
        (size / of).max(1) * of, (size / of + 1).max(2) * of
    )]
    NoMultiple {
        /// As given.
        architecture: String,
        /// As given.
        size: usize,
        /// What it should be a multiple of.
        of: usize,
    },
    /// Most often: too small for the network's windows.
    #[error("{architecture} cannot take images of {size}x{size} pixels: {reason}")]
    Shape {
        /// As given.
        architecture: String,
        /// As given.
        size: usize,
        /// The first operation that cannot take its input.
        reason: Box<GraphError>,
    },
}

/// torchvision's names of all architectures, families together.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    let any_size = ARCHITECTURES.iter().map(|(name, _)| *name);
    any_size.chain(ARCHITECTURES_OF_A_SIZE.iter().map(|(name, ..)| *name))
}

/// The graph of an architecture by torchvision's name, with its ImageNet head of 1000 classes.
///
/// # Errors
/// When there is none of that name.
pub fn architecture(name: &str) -> Result<Graph, UnknownArchitecture> {
    if let Some((_, build)) = ARCHITECTURES.iter().find(|(known, _)| *known == name) {
        return Ok(build());
    }
    if let Some((_, build)) = of_a_size(name) {
        return Ok(build(224));
    }
    let likeness = |known: &str| strsim::jaro_winkler(known, name);
    let nearest = architectures().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    Err(UnknownArchitecture {
        name: name.into(),
        nearest: nearest.unwrap_or_default(),
        known: architectures().collect(),
    })
}

/// The graph of an architecture for square images of `size` pixels a side, which need not be torchvision's size for it.
///
/// Networks of convolutions and the Swins are the same graph for every size. A Vision Transformer is another one, with an embedding
/// for each of its patches; weights for another number of patches must be interpolated
/// (`engraft_weights::interpolate_positions`). A MaxViT has other grids, and the same tensors.
///
/// ```
/// let network = engraft_zoo::architecture_of_size("vit_b_16", 384)?;
/// assert_eq!(network.input(), [3, 384, 384]);
/// let error = engraft_zoo::architecture_of_size("vit_b_16", 300).unwrap_err();
/// assert!(error.to_string().contains("a multiple of 16 pixels, which 300 is not; the nearest are 288 and 304"));
/// # Ok::<(), engraft_zoo::SizeError>(())
/// ```
///
/// # Errors
/// When there is no architecture of that name, or it cannot take such images.
pub fn architecture_of_size(name: &str, size: usize) -> Result<Graph, SizeError> {
    let architecture = name.to_string();
    if let Some((of, build)) = of_a_size(name) {
        return match size > 0 && size.is_multiple_of(of) {
            true => Ok(build(size)),
            false => Err(SizeError::NoMultiple { architecture, size, of }),
        };
    }
    let network = self::architecture(name)?.for_input(&[3, size, size]);
    network.map_err(|reason| SizeError::Shape { architecture, size, reason: Box::new(reason) })
}

fn of_a_size(name: &str) -> Option<(usize, BuildForSize)> {
    let mut rows = ARCHITECTURES_OF_A_SIZE.iter();
    rows.find(|(known, ..)| *known == name).map(|(_, of, build)| (*of, *build))
}
