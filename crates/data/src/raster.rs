//! PNG, WebP, BMP and PNM, by the `image` crate, brought to RGB as Pillow does.
//!
//! The bytes are Pillow's but for two rare kinds, which may differ by one grey level: BMP of 16 bits a
//! pixel, and PNM whose largest value is neither 255 nor 65535.

use std::io::{Cursor, ErrorKind};

use image::error::ImageError;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::decode::{Image, MAX_PIXELS, admit, clip_grey, repeat_grey};
use crate::error::DecodeError;

pub(crate) fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Bmp => "BMP",
        _ => "PNM",
    }
}

pub(crate) fn decode(bytes: &[u8], format: ImageFormat) -> Result<Image, DecodeError> {
    let error = |error| error_of(error, name(format));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(8 * MAX_PIXELS);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(error)?;
    let (width, height) = decoder.dimensions();
    let _turn = admit(width, height)?;
    let image = DynamicImage::from_decoder(decoder).map_err(error)?;
    // The colour type in a PNG's first chunk: its `tRNS` chunk makes `image` add an alpha channel, but does
    // not make Pillow.
    let grey = format == ImageFormat::Png && bytes.get(25) == Some(&0);
    let byte = if format == ImageFormat::Pnm { scaled } else { high };
    Ok(Image { width, height, pixels: rgb(image, grey, byte) })
}

fn high(value: u16) -> u8 {
    (value >> 8) as u8
}

fn scaled(value: u16) -> u8 {
    ((u32::from(value) * 255 + 32767) / 65535) as u8
}

/// `grey`: a grey image without alpha of its own. `byte`: what becomes of 16-bit colours; 16-bit grey is
/// clipped.
fn rgb(image: DynamicImage, grey: bool, byte: fn(u16) -> u8) -> Vec<u8> {
    match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => image.pixels().flat_map(|p| [p[0], p[1], p[2]]).collect(),
        DynamicImage::ImageLuma8(image) => repeat_grey(image.pixels().map(|p| p[0])),
        DynamicImage::ImageLumaA8(image) => repeat_grey(image.pixels().map(|p| p[0])),
        DynamicImage::ImageLuma16(image) => repeat_grey(image.pixels().map(|p| clip_grey(p[0]))),
        DynamicImage::ImageLumaA16(image) if grey => repeat_grey(image.pixels().map(|p| clip_grey(p[0]))),
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
