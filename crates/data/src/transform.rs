//! From a picture to a network's input, as torchvision's `ImageClassification` preset does it.

use serde::{Deserialize, Serialize};

use crate::decode::{Decoded, Image};
use crate::resize::{Interpolation, Window, resize_window};

/// How a picture becomes a network's input: resize, centre crop, scale to [0, 1], normalise. It belongs to a
/// weights file, not to an architecture (`torchvision/transforms/_presets.py`, `ImageClassification`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transform {
    /// The shorter side becomes this many pixels; the longer one keeps the aspect ratio, rounded down.
    pub resize: u32,
    /// Then a square of this many pixels is cut from the centre; where the picture is smaller, black is
    /// added around it.
    pub crop: u32,
    /// The filter of the resize.
    pub interpolation: Interpolation,
    /// Subtracted from each channel (red, green, blue), which is then in [0, 1].
    pub mean: [f32; 3],
    /// Each channel is then divided by this.
    pub std: [f32; 3],
    /// First of all, turn the picture upright as its EXIF orientation says, whatever its format.
    ///
    /// Off by default: `torchvision.datasets.folder.pil_loader` does not turn pictures either.
    #[serde(default)]
    pub exif_orientation: bool,
}

impl Transform {
    /// The transform of most ImageNet weights: 256, 224, bilinear, ImageNet's mean and standard deviation.
    pub fn imagenet() -> Transform {
        Transform {
            resize: 256,
            crop: 224,
            interpolation: Interpolation::Bilinear,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            exif_orientation: false,
        }
    }

    /// The picture that [`apply`](Transform::apply) takes: upright if `exif_orientation` says so.
    pub fn picture(&self, decoded: Decoded) -> Image {
        if self.exif_orientation { decoded.upright() } else { decoded.image }
    }

    /// The input of the network: `[3, crop, crop]`, the same bits as torchvision's preset gives for a PIL
    /// image.
    pub fn apply(&self, image: &Image) -> Vec<f32> {
        let cropped = self.cropped(image);
        let (pixels, _) = cropped.pixels.as_chunks::<3>();
        let mut input = Vec::with_capacity(cropped.pixels.len());
        for channel in 0..3 {
            let values = self.values(channel);
            input.extend(pixels.iter().map(|pixel| values[usize::from(pixel[channel])]));
        }
        input
    }

    /// The picture resized and cropped to `crop` x `crop` pixels, before it is scaled and normalised.
    pub fn cropped(&self, image: &Image) -> Image {
        let (width, height) = self.resized_size(image);
        let across = Crop::centre(width, self.crop);
        let down = Crop::centre(height, self.crop);
        let window =
            Window { left: across.start, top: down.start, width: across.length, height: down.length };
        let part = resize_window(image, (width, height), window, self.interpolation);
        if (part.width, part.height) == (self.crop, self.crop) {
            return part;
        }
        let row = |width: u32| 3 * width as usize;
        let mut pixels = vec![0; row(self.crop) * self.crop as usize];
        let target = pixels.chunks_exact_mut(row(self.crop)).skip(down.padding as usize);
        for (target, source) in target.zip(part.pixels.chunks_exact(row(part.width))) {
            target[row(across.padding)..][..source.len()].copy_from_slice(source);
        }
        Image { width: self.crop, height: self.crop, pixels }
    }

    /// `torchvision.transforms.functional._compute_resized_output_size`.
    fn resized_size(&self, image: &Image) -> (u32, u32) {
        let (short, long) = (image.width.min(image.height), image.width.max(image.height));
        let resize = self.resize.max(1);
        let longer = u64::from(resize) * u64::from(long) / u64::from(short.max(1));
        let longer = u32::try_from(longer).unwrap_or(u32::MAX);
        if image.width <= image.height { (resize, longer) } else { (longer, resize) }
    }

    /// What each of the 256 grey levels becomes in a channel, computed in torch's order.
    fn values(&self, channel: usize) -> [f32; 256] {
        std::array::from_fn(|level| (level as f32 / 255.0 - self.mean[channel]) / self.std[channel])
    }
}

/// One axis of `torchvision.transforms.functional.center_crop`.
struct Crop {
    start: u32,
    length: u32,
    padding: u32,
}

impl Crop {
    fn centre(size: u32, crop: u32) -> Crop {
        if crop >= size {
            return Crop { start: 0, length: size, padding: (crop - size) / 2 };
        }
        let surplus = size - crop;
        // Python's `round` takes a half to the even neighbour.
        let start = surplus / 2 + (surplus % 4 == 3) as u32;
        Crop { start, length: crop, padding: 0 }
    }
}
