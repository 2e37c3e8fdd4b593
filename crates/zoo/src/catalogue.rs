//! The published weights of the architectures, as torchvision 0.29 lists them.

use Interpolation::{Bicubic, Bilinear};

/// A published weights file: where it is, what images its network expects, and what is known of it.
///
/// The preprocessing belongs to the weights, not to the architecture. It is torchvision's preset `ImageClassification`
/// (`torchvision/transforms/_presets.py`): an antialiased resize, the central square, values in [0, 1], normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PublishedWeights {
    /// torchvision's name of the architecture.
    pub architecture: &'static str,
    /// torchvision's name of the weights, as in `IMAGENET1K_V1`.
    pub tag: &'static str,
    /// The file's name, which ends in the first digits of its SHA-256.
    pub file_name: &'static str,
    /// To how many pixels the shorter side of an image is resized.
    pub resize: u32,
    /// Width and height of the square that is then cut from the centre, in pixels.
    pub crop: u32,
    /// The filter of the resize.
    pub interpolation: Interpolation,
    /// What is subtracted from red, green and blue, [`TRANSFORM_INPUT`] included where torchvision sets it for these weights.
    pub mean: [f32; 3],
    /// What red, green and blue are then divided by.
    pub std: [f32; 3],
    /// In how many of 100 ImageNet validation images the right class is the first. None if only the features are trained, and the
    /// values of the classifier mean nothing.
    pub acc1: Option<f64>,
    /// In how many of 100 ImageNet validation images the right class is among the first five; none likewise.
    pub acc5: Option<f64>,
    /// The number of parameters, without those of auxiliary heads if the file's are not trained (`googlenet`).
    pub parameters: u64,
    /// 10^9 multiply-adds for one image of `crop` x `crop` pixels.
    pub gmac: f64,
    /// Size of the file in MiB. Two files hold half floats: `IMAGENET1K_V1` of `wide_resnet50_2` and `wide_resnet101_2`.
    pub file_mib: f64,
    /// SPDX identifier of a licence of the file's own. None: torchvision's, BSD-3-Clause.
    pub licence: Option<&'static str>,
}

/// How pixels are interpolated in a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// Linear in both directions.
    Bilinear,
    /// Cubic in both directions.
    Bicubic,
}

/// How red, green and blue, from 0 to 1, become a network's input: `(value - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// What is subtracted.
    pub mean: [f32; 3],
    /// What is then divided by.
    pub std: [f32; 3],
}

/// The normalisation of torchvision's presets, by ImageNet's mean and standard deviation.
pub const IMAGENET: Normalisation = Normalisation { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

/// What `transform_input=True` (`_transform_input` in `torchvision/models/googlenet.py` and `inception.py`) makes of
/// [`IMAGENET`]: such a network takes ImageNet's normalisation back and normalises by a half instead, as the weights that were
/// ported from TensorFlow want it. So the two are one normalisation, and no part of the network.
///
/// torchvision sets the option for its published weights of these architectures alone. Who builds `googlenet()` for
/// weights of their own has [`IMAGENET`], unless they asked for the option.
pub const TRANSFORM_INPUT: Normalisation = Normalisation { mean: [0.5; 3], std: [0.5; 3] };

/// Whether torchvision's builder of an architecture has the option `transform_input`, so that for weights of a user's own it must be
/// said which of [`IMAGENET`] and [`TRANSFORM_INPUT`] they were trained with.
pub fn has_transform_input(architecture: &str) -> bool {
    ["googlenet", "inception_v3"].contains(&architecture)
}

impl PublishedWeights {
    /// Whether a file with this SHA-256, in lower-case hexadecimal, is the published one.
    pub fn is_file_of(&self, sha256: &str) -> bool {
        !self.sha256_prefix().is_empty() && sha256.starts_with(self.sha256_prefix())
    }

    const fn with_transform_input(self) -> Self {
        Self { mean: TRANSFORM_INPUT.mean, std: TRANSFORM_INPUT.std, ..self }
    }

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

/// The weights that torchvision takes for an architecture if asked for its `DEFAULT`: the newest of its own training,
/// and where it has trained none, the first.
pub fn default_weights(architecture: &str) -> Option<&'static PublishedWeights> {
    let of_tag = |training: &Training| weights_by_tag(architecture, training.tag);
    let first = || WEIGHTS.iter().find(|entry| entry.architecture == architecture);
    of_tag(&V2).or_else(|| of_tag(&V1)).or_else(first)
}

/// The published weights of an architecture by torchvision's name of them, as in `IMAGENET1K_V2`.
pub fn weights_by_tag(architecture: &str, tag: &str) -> Option<&'static PublishedWeights> {
    WEIGHTS.iter().find(|entry| entry.architecture == architecture && entry.tag == tag)
}

/// The published weights that a file holds, by the SHA-256 of all its bytes in lower-case hexadecimal (`engraft_weights::sha256_of`),
/// whatever the file is called.
pub fn weights_of_sha256(sha256: &str) -> Option<&'static PublishedWeights> {
    WEIGHTS.iter().find(|entry| entry.is_file_of(sha256))
}

/// The published weights of a file name, as in `resnet50-0676ba61.pth`. A name proves nothing: see [`weights_of_sha256`].
pub fn weights_of_file(file_name: &str) -> Option<&'static PublishedWeights> {
    WEIGHTS.iter().find(|entry| entry.file_name == file_name)
}

/// How a file's values were trained.
struct Training {
    tag: &'static str,
    licence: Option<&'static str>,
}

const V1: Training = Training { tag: "IMAGENET1K_V1", licence: None };
const V2: Training = Training { tag: "IMAGENET1K_V2", licence: None };
/// Pretrained on 3.6 billion photos and their hashtags (Singh et al., arXiv 2201.08371), then fine-tuned as a whole.
const SWAG_E2E: Training = Training { tag: "IMAGENET1K_SWAG_E2E_V1", licence: Some("CC-BY-NC-4.0") };
/// The same, but only a linear head was trained on its features.
const SWAG_LINEAR: Training = Training { tag: "IMAGENET1K_SWAG_LINEAR_V1", licence: Some("CC-BY-NC-4.0") };

/// An entry that is normalised with ImageNet's mean and standard deviation.
const fn row(
    architecture: &'static str,
    Training { tag, licence }: Training,
    file_name: &'static str,
    (resize, crop, interpolation): (u32, u32, Interpolation),
    (acc1, acc5): (f64, f64),
    (parameters, gmac, file_mib): (u64, f64, f64),
) -> PublishedWeights {
    PublishedWeights {
        architecture,
        tag,
        file_name,
        resize,
        crop,
        interpolation,
        mean: IMAGENET.mean,
        std: IMAGENET.std,
        acc1: Some(acc1),
        acc5: Some(acc5),
        parameters,
        gmac,
        file_mib,
        licence,
    }
}

/// All published weights: families together, those of one architecture in torchvision's order.
#[rustfmt::skip]
pub const WEIGHTS: &[PublishedWeights] = &[
    // architecture, training, file, (resize, crop, interpolation), (acc@1, acc@5), (parameters, GMAC, MiB)
    row("alexnet",            V1,          "alexnet-owt-7be5be79.pth",               (256, 224, Bilinear), (56.522, 79.066), ( 61_100_840,    0.714,  233.087)),
    row("convnext_tiny",      V1,          "convnext_tiny-983f1562.pth",             (236, 224, Bilinear), (82.520, 96.146), ( 28_589_128,    4.456,  109.119)),
    row("convnext_small",     V1,          "convnext_small-0c510722.pth",            (230, 224, Bilinear), (83.616, 96.650), ( 50_223_688,    8.684,  191.703)),
    row("convnext_base",      V1,          "convnext_base-6075fbad.pth",             (232, 224, Bilinear), (84.062, 96.870), ( 88_591_464,   15.355,  338.064)),
    row("convnext_large",     V1,          "convnext_large-ea097f82.pth",            (232, 224, Bilinear), (84.414, 96.976), (197_767_336,   34.361,  754.537)),
    row("densenet121",        V1,          "densenet121-a639ec97.pth",               (256, 224, Bilinear), (74.434, 91.972), (  7_978_856,    2.834,   30.845)),
    row("densenet161",        V1,          "densenet161-8d451a50.pth",               (256, 224, Bilinear), (77.138, 93.560), ( 28_681_000,    7.728,  110.369)),
    row("densenet169",        V1,          "densenet169-b2777c0a.pth",               (256, 224, Bilinear), (75.600, 92.806), ( 14_149_480,    3.360,   54.708)),
    row("densenet201",        V1,          "densenet201-c1103571.pth",               (256, 224, Bilinear), (76.896, 93.370), ( 20_013_928,    4.291,   77.373)),
    row("efficientnet_b0",    V1,          "efficientnet_b0_rwightman-7f5810bc.pth", (256, 224, Bicubic),  (77.692, 93.532), (  5_288_548,    0.386,   20.451)),
    row("efficientnet_b1",    V1,          "efficientnet_b1_rwightman-bac287d4.pth", (256, 240, Bicubic),  (78.642, 94.186), (  7_794_184,    0.687,   30.134)),
    row("efficientnet_b1",    V2,          "efficientnet_b1-c27df63c.pth",           (255, 240, Bilinear), (79.838, 94.934), (  7_794_184,    0.687,   30.136)),
    row("efficientnet_b2",    V1,          "efficientnet_b2_rwightman-c35c1473.pth", (288, 288, Bicubic),  (80.608, 95.310), (  9_109_994,    1.088,   35.174)),
    row("efficientnet_b3",    V1,          "efficientnet_b3_rwightman-b3899882.pth", (320, 300, Bicubic),  (82.008, 96.054), ( 12_233_232,    1.827,   47.184)),
    row("efficientnet_b4",    V1,          "efficientnet_b4_rwightman-23ab8bcd.pth", (384, 380, Bicubic),  (83.384, 96.594), ( 19_341_616,    4.394,   74.489)),
    row("efficientnet_b5",    V1,          "efficientnet_b5_lukemelas-1a07897c.pth", (456, 456, Bicubic),  (83.444, 96.628), ( 30_389_784,   10.266,  116.864)),
    row("efficientnet_b6",    V1,          "efficientnet_b6_lukemelas-24a108a5.pth", (528, 528, Bicubic),  (84.008, 96.916), ( 43_040_704,   19.068,  165.362)),
    row("efficientnet_b7",    V1,          "efficientnet_b7_lukemelas-c5b4e57e.pth", (600, 600, Bicubic),  (84.122, 96.908), ( 66_347_960,   37.746,  254.675)),
    row("efficientnet_v2_s",  V1,          "efficientnet_v2_s-dd5fe13b.pth",         (384, 384, Bilinear), (84.228, 96.878), ( 21_458_488,    8.366,   82.704)),
    row("efficientnet_v2_m",  V1,          "efficientnet_v2_m-dc08266a.pth",         (480, 480, Bilinear), (85.112, 97.156), ( 54_139_356,   24.582,  208.010)),
    PublishedWeights { mean: [0.5; 3], std: [0.5; 3], ..row("efficientnet_v2_l",  V1,          "efficientnet_v2_l-59c71312.pth",         (480, 480, Bicubic),  (85.808, 97.788), (118_515_272,   56.080,  454.573)) },
    row("googlenet",          V1,          "googlenet-1378be20.pth",                 (256, 224, Bilinear), (69.778, 89.530), (  6_624_904,    1.498,   49.731)).with_transform_input(),
    row("inception_v3",       V1,          "inception_v3_google-0cc3c7bd.pth",       (342, 299, Bilinear), (77.294, 93.450), ( 27_161_264,    5.713,  103.903)).with_transform_input(),
    row("maxvit_t",           V1,          "maxvit_t-bc5ab103.pth",                  (224, 224, Bicubic),  (83.700, 96.722), ( 30_919_624,    5.558,  118.769)),
    row("mnasnet0_5",         V1,          "mnasnet0.5_top1_67.823-3ffadce67e.pth",  (256, 224, Bilinear), (67.734, 87.490), (  2_218_512,    0.104,    8.591)),
    row("mnasnet0_75",        V1,          "mnasnet0_75-7090bc5f.pth",               (232, 224, Bilinear), (71.180, 90.496), (  3_170_208,    0.215,   12.303)),
    row("mnasnet1_0",         V1,          "mnasnet1.0_top1_73.512-f206786ef8.pth",  (256, 224, Bilinear), (73.456, 91.510), (  4_383_312,    0.314,   16.915)),
    row("mnasnet1_3",         V1,          "mnasnet1_3-a4c69d6f.pth",                (232, 224, Bilinear), (76.506, 93.522), (  6_282_256,    0.526,   24.246)),
    row("mobilenet_v2",       V1,          "mobilenet_v2-b0353104.pth",              (256, 224, Bilinear), (71.878, 90.286), (  3_504_872,    0.301,   13.555)),
    row("mobilenet_v2",       V2,          "mobilenet_v2-7ebf99e0.pth",              (232, 224, Bilinear), (72.154, 90.822), (  3_504_872,    0.301,   13.598)),
    row("mobilenet_v3_small", V1,          "mobilenet_v3_small-047dcff4.pth",        (256, 224, Bilinear), (67.668, 87.402), (  2_542_856,    0.057,    9.829)),
    row("mobilenet_v3_large", V1,          "mobilenet_v3_large-8738ca79.pth",        (256, 224, Bilinear), (74.042, 91.340), (  5_483_032,    0.217,   21.114)),
    row("mobilenet_v3_large", V2,          "mobilenet_v3_large-5c1a4163.pth",        (232, 224, Bilinear), (75.274, 92.566), (  5_483_032,    0.217,   21.107)),
    row("regnet_x_400mf",     V1,          "regnet_x_400mf-adf1edd5.pth",            (256, 224, Bilinear), (72.834, 90.950), (  5_495_976,    0.414,   21.258)),
    row("regnet_x_400mf",     V2,          "regnet_x_400mf-62229a5f.pth",            (232, 224, Bilinear), (74.864, 92.322), (  5_495_976,    0.414,   21.257)),
    row("regnet_x_800mf",     V1,          "regnet_x_800mf-ad17e45c.pth",            (256, 224, Bilinear), (75.212, 92.348), (  7_259_656,    0.800,   27.945)),
    row("regnet_x_800mf",     V2,          "regnet_x_800mf-94a99ebd.pth",            (232, 224, Bilinear), (77.522, 93.826), (  7_259_656,    0.800,   27.945)),
    row("regnet_x_1_6gf",     V1,          "regnet_x_1_6gf-e3633e7f.pth",            (256, 224, Bilinear), (77.040, 93.440), (  9_190_136,    1.603,   35.339)),
    row("regnet_x_1_6gf",     V2,          "regnet_x_1_6gf-a12f2b72.pth",            (232, 224, Bilinear), (79.668, 94.922), (  9_190_136,    1.603,   35.339)),
    row("regnet_x_3_2gf",     V1,          "regnet_x_3_2gf-f342aeae.pth",            (256, 224, Bilinear), (78.364, 93.992), ( 15_296_552,    3.177,   58.756)),
    row("regnet_x_3_2gf",     V2,          "regnet_x_3_2gf-7071aa85.pth",            (232, 224, Bilinear), (81.196, 95.430), ( 15_296_552,    3.177,   58.756)),
    row("regnet_x_8gf",       V1,          "regnet_x_8gf-03ceed89.pth",              (256, 224, Bilinear), (79.344, 94.686), ( 39_572_648,    7.995,  151.456)),
    row("regnet_x_8gf",       V2,          "regnet_x_8gf-2b70d774.pth",              (232, 224, Bilinear), (81.682, 95.678), ( 39_572_648,    7.995,  151.456)),
    row("regnet_x_16gf",      V1,          "regnet_x_16gf-2007eb11.pth",             (256, 224, Bilinear), (80.058, 94.944), ( 54_278_536,   15.941,  207.627)),
    row("regnet_x_16gf",      V2,          "regnet_x_16gf-ba3796d7.pth",             (232, 224, Bilinear), (82.716, 96.196), ( 54_278_536,   15.941,  207.627)),
    row("regnet_x_32gf",      V1,          "regnet_x_32gf-9d47f8d0.pth",             (256, 224, Bilinear), (80.622, 95.248), (107_811_560,   31.736,  412.039)),
    row("regnet_x_32gf",      V2,          "regnet_x_32gf-6eb8fdc6.pth",             (232, 224, Bilinear), (83.014, 96.288), (107_811_560,   31.736,  412.039)),
    row("regnet_y_400mf",     V1,          "regnet_y_400mf-c65dace8.pth",            (256, 224, Bilinear), (74.046, 91.716), (  4_344_144,    0.402,   16.806)),
    row("regnet_y_400mf",     V2,          "regnet_y_400mf-e6988f5f.pth",            (232, 224, Bilinear), (75.804, 92.742), (  4_344_144,    0.402,   16.806)),
    row("regnet_y_800mf",     V1,          "regnet_y_800mf-1b27b58c.pth",            (256, 224, Bilinear), (76.420, 93.136), (  6_432_512,    0.834,   24.774)),
    row("regnet_y_800mf",     V2,          "regnet_y_800mf-58fc7688.pth",            (232, 224, Bilinear), (78.828, 94.502), (  6_432_512,    0.834,   24.774)),
    row("regnet_y_1_6gf",     V1,          "regnet_y_1_6gf-b11a554e.pth",            (256, 224, Bilinear), (77.950, 93.966), ( 11_202_430,    1.612,   43.152)),
    row("regnet_y_1_6gf",     V2,          "regnet_y_1_6gf-0d7bc02a.pth",            (232, 224, Bilinear), (80.876, 95.444), ( 11_202_430,    1.612,   43.152)),
    row("regnet_y_3_2gf",     V1,          "regnet_y_3_2gf-b5a9779c.pth",            (256, 224, Bilinear), (78.948, 94.576), ( 19_436_338,    3.176,   74.567)),
    row("regnet_y_3_2gf",     V2,          "regnet_y_3_2gf-9180c971.pth",            (232, 224, Bilinear), (81.982, 95.972), ( 19_436_338,    3.176,   74.567)),
    row("regnet_y_8gf",       V1,          "regnet_y_8gf-d0d0e4a8.pth",              (256, 224, Bilinear), (80.032, 95.048), ( 39_381_472,    8.473,  150.701)),
    row("regnet_y_8gf",       V2,          "regnet_y_8gf-dc2b1b54.pth",              (232, 224, Bilinear), (82.828, 96.330), ( 39_381_472,    8.473,  150.701)),
    row("regnet_y_16gf",      V1,          "regnet_y_16gf-9e6ed7dd.pth",             (256, 224, Bilinear), (80.424, 95.240), ( 83_590_140,   15.912,  319.490)),
    row("regnet_y_16gf",      V2,          "regnet_y_16gf-3e4a00f9.pth",             (232, 224, Bilinear), (82.886, 96.328), ( 83_590_140,   15.912,  319.490)),
    row("regnet_y_16gf",      SWAG_E2E,    "regnet_y_16gf_swag-43afe44d.pth",        (384, 384, Bicubic),  (86.012, 98.054), ( 83_590_140,   46.735,  319.490)),
    row("regnet_y_16gf",      SWAG_LINEAR, "regnet_y_16gf_lc_swag-f3ec0043.pth",     (224, 224, Bicubic),  (83.976, 97.244), ( 83_590_140,   15.912,  319.490)),
    row("regnet_y_32gf",      V1,          "regnet_y_32gf-4dee3f7a.pth",             (256, 224, Bilinear), (80.878, 95.340), (145_046_770,   32.280,  554.076)),
    row("regnet_y_32gf",      V2,          "regnet_y_32gf-8db6d4b5.pth",             (232, 224, Bilinear), (83.368, 96.498), (145_046_770,   32.280,  554.076)),
    row("regnet_y_32gf",      SWAG_E2E,    "regnet_y_32gf_swag-04fdfa75.pth",        (384, 384, Bicubic),  (86.838, 98.362), (145_046_770,   94.826,  554.076)),
    row("regnet_y_32gf",      SWAG_LINEAR, "regnet_y_32gf_lc_swag-e1583746.pth",     (224, 224, Bicubic),  (84.622, 97.480), (145_046_770,   32.280,  554.076)),
    row("regnet_y_128gf",     SWAG_E2E,    "regnet_y_128gf_swag-c8ce3e52.pth",       (384, 384, Bicubic),  (88.228, 98.682), (644_812_894,  374.570, 2461.564)),
    row("regnet_y_128gf",     SWAG_LINEAR, "regnet_y_128gf_lc_swag-cbe8ce12.pth",    (224, 224, Bicubic),  (86.068, 97.844), (644_812_894,  127.518, 2461.564)),
    row("resnet18",           V1,          "resnet18-f37072fd.pth",                  (256, 224, Bilinear), (69.758, 89.078), ( 11_689_512,    1.814,   44.661)),
    row("resnet34",           V1,          "resnet34-b627a593.pth",                  (256, 224, Bilinear), (73.314, 91.420), ( 21_797_672,    3.664,   83.275)),
    row("resnet50",           V1,          "resnet50-0676ba61.pth",                  (256, 224, Bilinear), (76.130, 92.862), ( 25_557_032,    4.089,   97.781)),
    row("resnet50",           V2,          "resnet50-11ad3fa6.pth",                  (232, 224, Bilinear), (80.858, 95.434), ( 25_557_032,    4.089,   97.790)),
    row("resnet101",          V1,          "resnet101-63fe2227.pth",                 (256, 224, Bilinear), (77.374, 93.546), ( 44_549_160,    7.801,  170.511)),
    row("resnet101",          V2,          "resnet101-cd907fc2.pth",                 (232, 224, Bilinear), (81.886, 95.780), ( 44_549_160,    7.801,  170.530)),
    row("resnet152",          V1,          "resnet152-394f9c45.pth",                 (256, 224, Bilinear), (78.312, 94.046), ( 60_192_808,   11.514,  230.434)),
    row("resnet152",          V2,          "resnet152-f82ba261.pth",                 (232, 224, Bilinear), (82.284, 96.002), ( 60_192_808,   11.514,  230.474)),
    row("resnext50_32x4d",    V1,          "resnext50_32x4d-7cdf4587.pth",           (256, 224, Bilinear), (77.618, 93.698), ( 25_028_904,    4.230,   95.789)),
    row("resnext50_32x4d",    V2,          "resnext50_32x4d-1a0047aa.pth",           (232, 224, Bilinear), (81.198, 95.340), ( 25_028_904,    4.230,   95.833)),
    row("resnext101_32x8d",   V1,          "resnext101_32x8d-8ba56ff5.pth",          (256, 224, Bilinear), (79.312, 94.526), ( 88_791_336,   16.414,  339.586)),
    row("resnext101_32x8d",   V2,          "resnext101_32x8d-110c445d.pth",          (232, 224, Bilinear), (82.834, 96.228), ( 88_791_336,   16.414,  339.673)),
    row("resnext101_64x4d",   V1,          "resnext101_64x4d-173b62eb.pth",          (232, 224, Bilinear), (83.246, 96.454), ( 83_455_272,   15.460,  319.318)),
    row("shufflenet_v2_x0_5", V1,          "shufflenetv2_x0.5-f707e7126e.pth",       (256, 224, Bilinear), (60.552, 81.746), (  1_366_792,    0.040,    5.282)),
    row("shufflenet_v2_x1_0", V1,          "shufflenetv2_x1-5666bf0f80.pth",         (256, 224, Bilinear), (69.362, 88.316), (  2_278_604,    0.145,    8.791)),
    row("shufflenet_v2_x1_5", V1,          "shufflenetv2_x1_5-3c479a10.pth",         (232, 224, Bilinear), (72.996, 91.086), (  3_503_624,    0.296,   13.557)),
    row("shufflenet_v2_x2_0", V1,          "shufflenetv2_x2_0-8be3c8ee.pth",         (232, 224, Bilinear), (76.230, 93.006), (  7_393_996,    0.583,   28.433)),
    row("squeezenet1_0",      V1,          "squeezenet1_0-b66bff10.pth",             (256, 224, Bilinear), (58.092, 80.420), (  1_248_424,    0.819,    4.778)),
    row("squeezenet1_1",      V1,          "squeezenet1_1-b8a52dc0.pth",             (256, 224, Bilinear), (58.178, 80.624), (  1_235_496,    0.349,    4.729)),
    row("swin_t",             V1,          "swin_t-704ceda3.pth",                    (232, 224, Bicubic),  (81.474, 95.776), ( 28_288_354,    4.491,  108.190)),
    row("swin_s",             V1,          "swin_s-5e29d889.pth",                    (246, 224, Bicubic),  (83.196, 96.360), ( 49_606_258,    8.741,  189.786)),
    row("swin_b",             V1,          "swin_b-68c6b09e.pth",                    (238, 224, Bicubic),  (83.582, 96.640), ( 87_768_224,   15.431,  335.364)),
    row("swin_v2_t",          V1,          "swin_v2_t-b137f0e2.pth",                 (260, 256, Bicubic),  (82.072, 96.132), ( 28_351_570,    5.940,  108.626)),
    row("swin_v2_s",          V1,          "swin_v2_s-637d8ceb.pth",                 (260, 256, Bicubic),  (83.712, 96.816), ( 49_737_442,   11.546,  190.675)),
    row("swin_v2_b",          V1,          "swin_v2_b-781e5279.pth",                 (272, 256, Bicubic),  (84.112, 96.864), ( 87_930_848,   20.325,  336.372)),
    row("vgg11",              V1,          "vgg11-8a719046.pth",                     (256, 224, Bilinear), (69.020, 88.628), (132_863_336,    7.609,  506.840)),
    row("vgg11_bn",           V1,          "vgg11_bn-6002323d.pth",                  (256, 224, Bilinear), (70.370, 89.810), (132_868_840,    7.609,  506.881)),
    row("vgg13",              V1,          "vgg13-19584684.pth",                     (256, 224, Bilinear), (69.928, 89.246), (133_047_848,   11.308,  507.545)),
    row("vgg13_bn",           V1,          "vgg13_bn-abd245e5.pth",                  (256, 224, Bilinear), (71.586, 90.374), (133_053_736,   11.308,  507.590)),
    row("vgg16",              V1,          "vgg16-397923af.pth",                     (256, 224, Bilinear), (71.592, 90.382), (138_357_544,   15.470,  527.796)),
    PublishedWeights {
        architecture: "vgg16",
        tag: "IMAGENET1K_FEATURES",
        file_name: "vgg16_features-amdegroot-88682ab5.pth",
        resize: 256,
        crop: 224,
        interpolation: Bilinear,
        mean: [0.48235, 0.45882, 0.40784],
        std: [1.0 / 255.0; 3], // the mean is taken off, and the values are those of bytes again
        acc1: None,
        acc5: None,
        parameters: 138_357_544,
        gmac: 15.470,
        file_mib: 527.802,
        licence: None,
    },
    row("vgg16_bn",           V1,          "vgg16_bn-6c64b313.pth",                  (256, 224, Bilinear), (73.360, 91.516), (138_365_992,   15.470,  527.866)),
    row("vgg19",              V1,          "vgg19-dcbb9e9d.pth",                     (256, 224, Bilinear), (72.376, 90.876), (143_667_240,   19.632,  548.051)),
    row("vgg19_bn",           V1,          "vgg19_bn-c79401a0.pth",                  (256, 224, Bilinear), (74.218, 91.842), (143_678_248,   19.632,  548.143)),
    row("vit_b_16",           V1,          "vit_b_16-c867db91.pth",                  (256, 224, Bilinear), (81.072, 95.318), ( 86_567_656,   17.564,  330.285)),
    row("vit_b_16",           SWAG_E2E,    "vit_b_16_swag-9ac1b537.pth",             (384, 384, Bicubic),  (85.304, 97.650), ( 86_859_496,   55.484,  331.398)),
    row("vit_b_16",           SWAG_LINEAR, "vit_b_16_lc_swag-4e70ced5.pth",          (224, 224, Bicubic),  (81.886, 96.180), ( 86_567_656,   17.564,  330.285)),
    row("vit_b_32",           V1,          "vit_b_32-d86f8d99.pth",                  (256, 224, Bilinear), (75.912, 92.466), ( 88_224_232,    4.409,  336.604)),
    row("vit_l_16",           V1,          "vit_l_16-852ce7e3.pth",                  (242, 224, Bilinear), (79.662, 94.638), (304_326_632,   61.555, 1161.023)),
    row("vit_l_16",           SWAG_E2E,    "vit_l_16_swag-4f3808c9.pth",             (512, 512, Bicubic),  (88.064, 98.512), (305_174_504,  361.986, 1164.258)),
    row("vit_l_16",           SWAG_LINEAR, "vit_l_16_lc_swag-4d563306.pth",          (224, 224, Bicubic),  (85.146, 97.422), (304_326_632,   61.555, 1161.023)),
    row("vit_l_32",           V1,          "vit_l_32-c7638314.pth",                  (256, 224, Bilinear), (76.972, 93.070), (306_535_400,   15.378, 1169.449)),
    row("vit_h_14",           SWAG_E2E,    "vit_h_14_swag-80465313.pth",             (518, 518, Bicubic),  (88.552, 98.694), (633_470_440, 1016.717, 2416.643)),
    row("vit_h_14",           SWAG_LINEAR, "vit_h_14_lc_swag-c1eb923e.pth",          (224, 224, Bicubic),  (85.708, 97.730), (632_045_800,  167.295, 2411.209)),
    row("wide_resnet50_2",    V1,          "wide_resnet50_2-95faca4d.pth",           (256, 224, Bilinear), (78.468, 94.086), ( 68_883_240,   11.398,  131.820)),
    row("wide_resnet50_2",    V2,          "wide_resnet50_2-9ba9bcbe.pth",           (232, 224, Bilinear), (81.602, 95.758), ( 68_883_240,   11.398,  263.124)),
    row("wide_resnet101_2",   V1,          "wide_resnet101_2-32ee1156.pth",          (256, 224, Bilinear), (78.848, 94.284), (126_886_696,   22.753,  242.896)),
    row("wide_resnet101_2",   V2,          "wide_resnet101_2-d733dc28.pth",          (232, 224, Bilinear), (82.510, 96.020), (126_886_696,   22.753,  484.747)),
];
