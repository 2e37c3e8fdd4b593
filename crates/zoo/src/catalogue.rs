//! The published weights of the architectures, as torchvision 0.29 lists them.

/// A published weights file: where it is, and what images its network was evaluated on.
///
/// The preprocessing belongs to the weights, not to the architecture. All of these were evaluated on the central
/// 224 x 224 pixels of an image whose shorter side was resized bilinearly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedWeights {
    /// torchvision's name of the architecture.
    pub architecture: &'static str,
    /// torchvision's name of the weights, as in `IMAGENET1K_V1`.
    pub tag: &'static str,
    /// The file's name, which ends in the first digits of its SHA-256.
    pub file_name: &'static str,
    /// To how many pixels the shorter side of an image is resized.
    pub resize: u32,
}

impl PublishedWeights {
    /// Where the file can be downloaded.
    pub fn url(&self) -> String {
        format!("https://download.pytorch.org/models/{}", self.file_name)
    }

    /// The first hexadecimal digits of the file's SHA-256.
    pub fn sha256_prefix(&self) -> &'static str {
        let stem = self.file_name.trim_end_matches(".pth");
        stem.rsplit_once('-').map_or("", |(_, hash)| hash)
    }
}

/// The weights that torchvision takes for an architecture if asked for its `DEFAULT`: the newest.
pub fn default_weights(architecture: &str) -> Option<&'static PublishedWeights> {
    WEIGHTS.iter().rev().find(|entry| entry.architecture == architecture)
}

/// The published weights of a file name, as in `resnet50-0676ba61.pth`.
pub fn weights_of_file(file_name: &str) -> Option<&'static PublishedWeights> {
    WEIGHTS.iter().find(|entry| entry.file_name == file_name)
}

/// All published weights, those of one architecture from the oldest to the newest.
pub const WEIGHTS: &[PublishedWeights] = &[
    entry("alexnet", "IMAGENET1K_V1", "alexnet-owt-7be5be79.pth", 256),
    entry("densenet121", "IMAGENET1K_V1", "densenet121-a639ec97.pth", 256),
    entry("densenet161", "IMAGENET1K_V1", "densenet161-8d451a50.pth", 256),
    entry("densenet169", "IMAGENET1K_V1", "densenet169-b2777c0a.pth", 256),
    entry("densenet201", "IMAGENET1K_V1", "densenet201-c1103571.pth", 256),
    entry("mobilenet_v2", "IMAGENET1K_V1", "mobilenet_v2-b0353104.pth", 256),
    entry("mobilenet_v2", "IMAGENET1K_V2", "mobilenet_v2-7ebf99e0.pth", 232),
    entry("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth", 256),
    entry("resnet34", "IMAGENET1K_V1", "resnet34-b627a593.pth", 256),
    entry("resnet50", "IMAGENET1K_V1", "resnet50-0676ba61.pth", 256),
    entry("resnet50", "IMAGENET1K_V2", "resnet50-11ad3fa6.pth", 232),
    entry("resnet101", "IMAGENET1K_V1", "resnet101-63fe2227.pth", 256),
    entry("resnet101", "IMAGENET1K_V2", "resnet101-cd907fc2.pth", 232),
    entry("resnet152", "IMAGENET1K_V1", "resnet152-394f9c45.pth", 256),
    entry("resnet152", "IMAGENET1K_V2", "resnet152-f82ba261.pth", 232),
    entry("shufflenet_v2_x0_5", "IMAGENET1K_V1", "shufflenetv2_x0.5-f707e7126e.pth", 256),
    entry("shufflenet_v2_x1_0", "IMAGENET1K_V1", "shufflenetv2_x1-5666bf0f80.pth", 256),
    entry("shufflenet_v2_x1_5", "IMAGENET1K_V1", "shufflenetv2_x1_5-3c479a10.pth", 232),
    entry("shufflenet_v2_x2_0", "IMAGENET1K_V1", "shufflenetv2_x2_0-8be3c8ee.pth", 232),
    entry("squeezenet1_0", "IMAGENET1K_V1", "squeezenet1_0-b66bff10.pth", 256),
    entry("squeezenet1_1", "IMAGENET1K_V1", "squeezenet1_1-b8a52dc0.pth", 256),
    entry("vgg11", "IMAGENET1K_V1", "vgg11-8a719046.pth", 256),
    entry("vgg11_bn", "IMAGENET1K_V1", "vgg11_bn-6002323d.pth", 256),
    entry("vgg13", "IMAGENET1K_V1", "vgg13-19584684.pth", 256),
    entry("vgg13_bn", "IMAGENET1K_V1", "vgg13_bn-abd245e5.pth", 256),
    entry("vgg16", "IMAGENET1K_V1", "vgg16-397923af.pth", 256),
    entry("vgg16_bn", "IMAGENET1K_V1", "vgg16_bn-6c64b313.pth", 256),
    entry("vgg19", "IMAGENET1K_V1", "vgg19-dcbb9e9d.pth", 256),
    entry("vgg19_bn", "IMAGENET1K_V1", "vgg19_bn-c79401a0.pth", 256),
];

const fn entry(
    architecture: &'static str,
    tag: &'static str,
    file_name: &'static str,
    resize: u32,
) -> PublishedWeights {
    PublishedWeights { architecture, tag, file_name, resize }
}
