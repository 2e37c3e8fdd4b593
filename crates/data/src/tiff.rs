//! TIFF: the first page, as Pillow's `TiffImagePlugin.py` loads it.

use std::io::{Cursor, ErrorKind};

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use crate::decode::{Image, MAX_PIXELS, admit, clip_grey, repeat_grey, rgb_of_cmyk};
use crate::error::DecodeError;

const FORMAT: &str = "TIFF";

/// Unlike a JPEG's, a TIFF's orientation is applied, because Pillow does (`TiffImageFile.load_end`).
pub(crate) fn decode(bytes: &[u8]) -> Result<Image, DecodeError> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = 8 * MAX_PIXELS as usize;
    limits.intermediate_buffer_size = limits.decoding_buffer_size;
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(error)?.with_limits(limits);
    let (width, height) = decoder.dimensions().map_err(error)?;
    let _turn = admit(width, height)?;
    let tag = |decoder: &mut Decoder<_>, tag| decoder.find_tag_unsigned_vec::<u16>(tag).map_err(error);
    let premultiplied = tag(&mut decoder, Tag::ExtraSamples)?.is_some_and(|kinds| kinds == [1]);
    let planar = tag(&mut decoder, Tag::PlanarConfiguration)?.is_some_and(|value| value == [2]);
    let orientation =
        tag(&mut decoder, Tag::Orientation)?.and_then(|value| Orientation::from_exif(*value.first()? as u8));

    if tag(&mut decoder, Tag::PhotometricInterpretation)? == Some(vec![3]) {
        return Err(unsupported("a palette".into()));
    }
    let kind = decoder.colortype().map_err(error)?;
    if planar && kind.num_samples() > 1 {
        return Err(unsupported("colours in separate planes".into()));
    }
    let samples = decoder.read_image().map_err(error)?;
    let pixels = match (kind, samples) {
        (ColorType::Gray(8), DecodingResult::U8(data)) => repeat_grey(data.into_iter()),
        (ColorType::Gray(16), DecodingResult::U16(data)) => repeat_grey(data.into_iter().map(clip_grey)),
        (ColorType::Gray(32), DecodingResult::F32(data)) => {
            repeat_grey(data.into_iter().map(|value| value as u8))
        }
        (ColorType::Gray(bits @ (1 | 2 | 4)), DecodingResult::U8(data)) => {
            let scale = 255 / ((1 << bits) - 1);
            repeat_grey(unpacked(&data, bits, width).map(|value| value * scale))
        }
        (ColorType::Multiband { bit_depth: 8, num_samples: 2 }, DecodingResult::U8(data)) => {
            repeat_grey(data.chunks_exact(2).map(|pixel| pixel[0]))
        }
        (ColorType::RGB(8), DecodingResult::U8(data)) => data,
        (ColorType::RGB(16), DecodingResult::U16(data)) => data.into_iter().map(high).collect(),
        (ColorType::RGBA(8), DecodingResult::U8(data)) => rgb_of_rgba(&data, premultiplied),
        (ColorType::RGBA(16), DecodingResult::U16(data)) => {
            let data: Vec<u8> = data.into_iter().map(high).collect();
            rgb_of_rgba(&data, premultiplied)
        }
        (ColorType::CMYK(8), DecodingResult::U8(data)) => {
            data.as_chunks().0.iter().flat_map(|&inks| rgb_of_cmyk(inks)).collect()
        }
        (kind, _) => return Err(unsupported(format!("samples of the kind {kind:?}"))),
    };
    oriented(Image { width, height, pixels }, orientation)
}

fn high(value: u16) -> u8 {
    (value >> 8) as u8
}

/// Samples of 1, 2 or 4 bits, packed into bytes row by row.
fn unpacked(data: &[u8], bits: u8, width: u32) -> impl Iterator<Item = u8> {
    let (bits, width) = (usize::from(bits), width as usize);
    let row = (width * bits).div_ceil(8).max(1);
    data.chunks_exact(row).flat_map(move |line| {
        (0..width).map(move |x| {
            let shift = 8 - bits - x * bits % 8;
            (line[x * bits / 8] >> shift) & (0xff >> (8 - bits))
        })
    })
}

/// Drops alpha; where the colours are multiplied by it, divides first (Pillow's `unpackRGBa`).
fn rgb_of_rgba(data: &[u8], premultiplied: bool) -> Vec<u8> {
    let (pixels, _) = data.as_chunks();
    let colour = |&[r, g, b, a]: &[u8; 4]| match a {
        0 if premultiplied => [0; 3],
        1..=254 if premultiplied => [r, g, b].map(|c| (u32::from(c) * 255 / u32::from(a)).min(255) as u8),
        _ => [r, g, b],
    };
    pixels.iter().flat_map(colour).collect()
}

fn oriented(image: Image, orientation: Option<Orientation>) -> Result<Image, DecodeError> {
    let Some(orientation) = orientation.filter(|&o| o != Orientation::NoTransforms) else {
        return Ok(image);
    };
    let picture = RgbImage::from_raw(image.width, image.height, image.pixels);
    let mut picture = DynamicImage::from(picture.ok_or(DecodeError::Truncated { format: FORMAT })?);
    picture.apply_orientation(orientation);
    Ok(Image { width: picture.width(), height: picture.height(), pixels: picture.into_rgb8().into_raw() })
}

fn unsupported(what: String) -> DecodeError {
    DecodeError::Unsupported { format: FORMAT, what }
}

fn error(error: TiffError) -> DecodeError {
    match error {
        TiffError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format: FORMAT }
        }
        TiffError::UnsupportedError(what) => unsupported(what.to_string()),
        other => DecodeError::Damaged { format: FORMAT, reason: other.to_string() },
    }
}
