//! Bytes to RGB pixels, as Pillow's `Image.open(file).convert("RGB")` gives them.

use std::fmt::Write;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use crate::error::{DecodeError, ImageError};
use crate::notes::{Note, Notes, is_srgb};
use crate::{file, gif, jpeg, raster, tiff};

/// The largest picture that is read, in pixels: Pillow refuses the same (`PIL/Image.py`, twice
/// `MAX_IMAGE_PIXELS`).
pub const MAX_PIXELS: u64 = 178_956_970;

/// Pictures of more pixels than this are decoded one at a time, so that memory does not grow with the number
/// of cores.
const LARGE: u64 = 24_000_000;

static LARGE_TURN: Mutex<()> = Mutex::new(());

/// A decoded picture: 8-bit RGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `[height, width, 3]`: rows from the top, pixels from the left, red, green, blue.
    pub pixels: Vec<u8>,
}

impl Image {
    /// Decodes a JPEG, PNG, WebP, BMP, GIF (first frame), TIFF (first page) or PNM file; which one it is,
    /// the bytes tell. [`Decoded::from_bytes`] says besides what of the file the pixels do not show.
    ///
    /// The pixels are those of Pillow 13, byte for byte, for each format and mode in `parity/images.py`:
    /// grey is repeated, a palette is looked up, alpha is dropped (not blended), 16-bit colours keep their
    /// high byte. Other than there, the orientation of a TIFF is not applied (as in no other format), 16-bit
    /// greys keep their high byte too (Pillow clips them at 255, which is white), and floating-point greys
    /// within 0 to 1 are scaled. (One level off may be BMP of 16 bits a pixel and PNM whose largest value is
    /// neither 255 nor 65535.)
    ///
    /// Needs 3 bytes a pixel for the result, and while it decodes about 3 more (a progressive JPEG 12);
    /// pictures beyond 24 megapixels wait for each other.
    ///
    /// # Errors
    /// When the bytes are no picture, end too early, are damaged, hold an unsupported kind of picture or
    /// more than [`MAX_PIXELS`]. A decoder that panics is reported as damage.
    pub fn decode(bytes: &[u8]) -> Result<Image, DecodeError> {
        Decoded::from_bytes(bytes).map(|decoded| decoded.image)
    }

    /// Reads and [decodes](Image::decode) a file.
    ///
    /// # Errors
    /// As [`Image::decode`]; and when the file is no regular file, cannot be read, or is larger than
    /// [`MAX_FILE_BYTES`](crate::MAX_FILE_BYTES). The message begins with the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Image, ImageError> {
        let path = path.as_ref();
        let (bytes, _) = file::read(path)?;
        Image::decode(&bytes).map_err(|source| ImageError::Decode { path: path.into(), source })
    }
}

/// A picture as its file holds it, and what its pixels do not show of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The pixels as they are stored, so not turned upright.
    pub image: Image,
    /// What a user should know of the file.
    pub notes: Notes,
    orientation: Orientation,
}

impl Decoded {
    /// Decodes as [`Image::decode`] does.
    ///
    /// # Errors
    /// As [`Image::decode`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Decoded, DecodeError> {
        let format = Format::guess(bytes)?;
        let decode = || match format {
            Format::Jpeg => jpeg::decode(bytes),
            Format::Gif => gif::decode(bytes),
            Format::Tiff => tiff::decode(bytes),
            Format::Raster(format) => raster::decode(bytes, format),
        };
        catch_unwind(decode).unwrap_or_else(|_| {
            Err(DecodeError::Damaged { format: format.name(), reason: "the decoder failed on it".into() })
        })
    }

    /// The picture turned as its EXIF orientation says, as Pillow's `ImageOps.exif_transpose` does it.
    pub fn upright(self) -> Image {
        let Image { width, height, pixels } = self.image;
        if self.orientation == Orientation::NoTransforms {
            return Image { width, height, pixels };
        }
        let Some(picture) = RgbImage::from_raw(width, height, pixels) else {
            // Not reached: decoders give as many bytes as pixels.
            return Image { width: 0, height: 0, pixels: Vec::new() };
        };
        let mut picture = DynamicImage::from(picture);
        picture.apply_orientation(self.orientation);
        Image { width: picture.width(), height: picture.height(), pixels: picture.into_rgb8().into_raw() }
    }

    /// Without notes.
    pub(crate) fn new(width: u32, height: u32, pixels: Vec<u8>) -> Decoded {
        let image = Image { width, height, pixels };
        Decoded { image, notes: Notes::default(), orientation: Orientation::NoTransforms }
    }

    /// With what the file's metadata say.
    pub(crate) fn described(mut self, orientation: Option<Orientation>, profile: Option<&[u8]>) -> Decoded {
        self.orientation = orientation.unwrap_or(Orientation::NoTransforms);
        self.notes.insert_if(self.orientation != Orientation::NoTransforms, Note::Turned);
        self.notes.insert_if(profile.is_some_and(|profile| !is_srgb(profile)), Note::Profile);
        self
    }

    /// With a note, where `condition` holds.
    pub(crate) fn noted(mut self, condition: bool, note: Note) -> Decoded {
        self.notes.insert_if(condition, note);
        self
    }
}

/// The orientation in a block of EXIF; in PNG and WebP some writers leave JPEG's name in front of it.
pub(crate) fn orientation_of(exif: &[u8]) -> Option<Orientation> {
    Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
}

/// Who decodes it.
#[derive(Clone, Copy)]
enum Format {
    Jpeg,
    Gif,
    Tiff,
    Raster(image::ImageFormat),
}

impl Format {
    fn guess(bytes: &[u8]) -> Result<Format, DecodeError> {
        use image::ImageFormat::{Bmp, Png, Pnm, WebP};
        Ok(match bytes {
            [] => return Err(DecodeError::Empty),
            [0xff, 0xd8, 0xff, ..] => Format::Jpeg,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Format::Gif,
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Format::Tiff,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Format::Raster(Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Format::Raster(WebP),
            [b'B', b'M', ..] => Format::Raster(Bmp),
            [b'P', b'1'..=b'6', space, ..] if space.is_ascii_whitespace() => Format::Raster(Pnm),
            _ => {
                return Err(DecodeError::NotAnImage { start: start_of(bytes) });
            }
        })
    }

    fn name(self) -> &'static str {
        match self {
            Format::Jpeg => "JPEG",
            Format::Gif => "GIF",
            Format::Tiff => "TIFF",
            Format::Raster(format) => raster::name(format),
        }
    }
}

/// The first bytes of a file, for a message: as text if they are text.
fn start_of(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(24)];
    let text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    if start.iter().all(text) {
        return format!("the text {:?}", String::from_utf8_lossy(start));
    }
    let mut words = String::from("the bytes");
    for byte in &start[..start.len().min(8)] {
        let _ = write!(words, " {byte:02x}");
    }
    words
}

/// Refuses a picture without pixels or with too many; for a large one, waits until no other large one is
/// being decoded. To be held while the picture is decoded.
pub(crate) fn admit(width: u32, height: u32) -> Result<Option<MutexGuard<'static, ()>>, DecodeError> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(DecodeError::NoPixels);
    }
    if pixels > MAX_PIXELS {
        return Err(DecodeError::TooLarge { width, height });
    }
    let turn = || LARGE_TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((pixels > LARGE).then(turn))
}

/// CMYK to RGB as Pillow's `cmyk2rgb` does it (`src/libImaging/Convert.c`): no ink profile, rounded product.
pub(crate) fn rgb_of_cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let white = 255 - u32::from(k);
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * white + 128;
        (white - ((product + (product >> 8)) >> 8)) as u8
    })
}

/// Whether samples of 16 bits leave the highest four unused, and are not all 0.
pub(crate) fn is_dark(samples: &[u16]) -> bool {
    let all = samples.iter().fold(0, |all, sample| all | sample);
    all != 0 && all < 1 << 12
}

/// Eight bits of sixteen.
pub(crate) fn high(value: u16) -> u8 {
    (value >> 8) as u8
}

/// Grey pixels to RGB.
pub(crate) fn repeat_grey(greys: impl Iterator<Item = u8>) -> Vec<u8> {
    greys.flat_map(|grey| [grey; 3]).collect()
}
