//! Bytes to RGB pixels, as Pillow's `Image.open(file).convert("RGB")` gives them.

use std::fmt::Write;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{DecodeError, ImageError};
use crate::{gif, jpeg, raster, tiff};

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
    /// the bytes tell.
    ///
    /// The pixels are those of Pillow 13, byte for byte, for each format and mode in `parity/images.py`:
    /// grey is repeated, a palette is looked up, alpha is dropped (not blended), 16-bit colours keep their
    /// high byte, 16-bit greys are clipped at 255, and the EXIF orientation of a JPEG is not applied. (One
    /// level off may be BMP of 16 bits a pixel and PNM whose largest value is neither 255 nor 65535.)
    ///
    /// Needs 3 bytes a pixel for the result, and while it decodes about 3 more; pictures beyond 24
    /// megapixels wait for each other.
    ///
    /// # Errors
    /// When the bytes are no picture, end too early, are damaged, hold an unsupported kind of picture or
    /// more than [`MAX_PIXELS`]. A decoder that panics is reported as damage.
    pub fn decode(bytes: &[u8]) -> Result<Image, DecodeError> {
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

    /// Reads and [decodes](Image::decode) a file.
    ///
    /// # Errors
    /// As [`Image::decode`], and when the file cannot be read; the message begins with the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Image, ImageError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| ImageError::Read { path: path.into(), source })?;
        Image::decode(&bytes).map_err(|source| ImageError::Decode { path: path.into(), source })
    }
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

/// Eight bits of a 16-bit grey as Pillow converts mode `I;16`: clipped, not scaled.
pub(crate) fn clip_grey(value: u16) -> u8 {
    value.min(255) as u8
}

/// Grey pixels to RGB.
pub(crate) fn repeat_grey(greys: impl Iterator<Item = u8>) -> Vec<u8> {
    greys.flat_map(|grey| [grey; 3]).collect()
}
