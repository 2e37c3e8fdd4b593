//! PNG, WebP, BMP and PNM, by the `image` crate, brought to RGB as Pillow does.
//!
//! The bytes are Pillow's but for two rare kinds, which may differ by one grey level: BMP of 16 bits a
//! pixel, and PNM whose largest value is neither 255 nor 65535.

use std::io::{Cursor, ErrorKind};

use image::codecs::bmp::BmpDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::pnm::PnmDecoder;
use image::codecs::webp::WebPDecoder;
use image::error::ImageError;
use image::{DynamicImage, ImageDecoder, ImageFormat, Limits};

use crate::decode::{Decoded, MAX_PIXELS, admit, high, is_dark, orientation_of, repeat_grey};
use crate::error::DecodeError;
use crate::notes::Note;

/// What a PNG's chunks may need besides its pixels, in bytes: a profile of a few kilobytes can inflate without
/// end.
const MAX_CHUNK_BYTES: u64 = 64 << 20;

pub(crate) fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Bmp => "BMP",
        _ => "PNM",
    }
}

pub(crate) fn decode(bytes: &[u8], format: ImageFormat) -> Result<Decoded, DecodeError> {
    let error = |error| error_of(error, name(format));
    let bytes = Cursor::new(bytes);
    match format {
        ImageFormat::Png => {
            let mut limits = Limits::default();
            limits.max_alloc = Some(MAX_CHUNK_BYTES);
            let decoder = PngDecoder::with_limits(bytes, limits).map_err(error)?;
            let animated = decoder.is_apng().map_err(error)?;
            finish(decoder, format).map(|decoded| decoded.noted(animated, Note::Frames))
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(bytes).map_err(error)?;
            let animated = decoder.has_animation();
            finish(decoder, format).map(|decoded| decoded.noted(animated, Note::Frames))
        }
        ImageFormat::Bmp => finish(BmpDecoder::new(bytes).map_err(error)?, format),
        _ => finish(PnmDecoder::new(bytes).map_err(error)?, format),
    }
}

fn finish(mut decoder: impl ImageDecoder, format: ImageFormat) -> Result<Decoded, DecodeError> {
    let error = |error| error_of(error, name(format));
    let (width, height) = decoder.dimensions();
    let _turn = admit(width, height)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(8 * MAX_PIXELS);
    decoder.set_limits(limits).map_err(error)?;
    // Metadata that are damaged do not spoil the picture.
    let exif = decoder.exif_metadata().ok().flatten();
    let profile = decoder.icc_profile().ok().flatten();
    let image = DynamicImage::from_decoder(decoder).map_err(error)?;
    let (deep, dark) = depth(&image);
    let alpha = is_transparent(&image);
    let byte = if format == ImageFormat::Pnm { scaled } else { high };
    Ok(Decoded::new(width, height, rgb(image, byte))
        .described(exif.as_deref().and_then(orientation_of), profile.as_deref())
        .noted(alpha, Note::Alpha)
        .noted(deep, Note::Deep)
        .noted(dark, Note::Dark))
}

/// Samples of more than 8 bits? And if so, only low ones?
fn depth(image: &DynamicImage) -> (bool, bool) {
    match image {
        DynamicImage::ImageLuma16(image) => (true, is_dark(image)),
        DynamicImage::ImageRgb16(image) => (true, is_dark(image)),
        DynamicImage::ImageLumaA16(_) | DynamicImage::ImageRgba16(_) => (true, false),
        _ => (false, false),
    }
}

/// Is any pixel not opaque? An alpha channel alone is nothing to speak of.
fn is_transparent(image: &DynamicImage) -> bool {
    match image {
        DynamicImage::ImageRgba8(image) => image.pixels().any(|p| p[3] != u8::MAX),
        DynamicImage::ImageLumaA8(image) => image.pixels().any(|p| p[1] != u8::MAX),
        DynamicImage::ImageRgba16(image) => image.pixels().any(|p| p[3] != u16::MAX),
        DynamicImage::ImageLumaA16(image) => image.pixels().any(|p| p[1] != u16::MAX),
        _ => false,
    }
}

fn scaled(value: u16) -> u8 {
    ((u32::from(value) * 255 + 32767) / 65535) as u8
}

/// `byte`: what becomes of samples of 16 bits.
fn rgb(image: DynamicImage, byte: fn(u16) -> u8) -> Vec<u8> {
    match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => image.pixels().flat_map(|p| [p[0], p[1], p[2]]).collect(),
        DynamicImage::ImageLuma8(image) => repeat_grey(image.pixels().map(|p| p[0])),
        DynamicImage::ImageLumaA8(image) => repeat_grey(image.pixels().map(|p| p[0])),
        DynamicImage::ImageLuma16(image) => repeat_grey(image.pixels().map(|p| byte(p[0]))),
        DynamicImage::ImageLumaA16(image) => repeat_grey(image.pixels().map(|p| byte(p[0]))),
        DynamicImage::ImageRgb16(image) => image.pixels().flat_map(|p| p.0.map(byte)).collect(),
        DynamicImage::ImageRgba16(image) => {
            image.pixels().flat_map(|p| [p[0], p[1], p[2]].map(byte)).collect()
        }
        other => other.into_rgb8().into_raw(),
    }
}

fn error_of(error: ImageError, format: &'static str) -> DecodeError {
    match error {
        ImageError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => DecodeError::Truncated { format },
        ImageError::Unsupported(what) => DecodeError::Unsupported { format, what: what.to_string() },
        other => DecodeError::Damaged { format, reason: other.to_string() },
    }
}
