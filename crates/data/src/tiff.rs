//! TIFF: the first page, as Pillow's `TiffImagePlugin.py` loads it.

use std::io::{Cursor, ErrorKind};

use image::metadata::Orientation;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use crate::decode::{Decoded, MAX_PIXELS, admit, high, is_dark, repeat_grey, rgb_of_cmyk};
use crate::error::DecodeError;
use crate::notes::Note;

const FORMAT: &str = "TIFF";

pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = 8 * MAX_PIXELS as usize;
    limits.intermediate_buffer_size = limits.decoding_buffer_size;
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(error)?.with_limits(limits);
    let (width, height) = decoder.dimensions().map_err(error)?;
    let _turn = admit(width, height)?;
    let tag = |decoder: &mut Decoder<_>, tag| decoder.find_tag_unsigned_vec::<u16>(tag).map_err(error);
    let extra = tag(&mut decoder, Tag::ExtraSamples)?;
    let premultiplied = extra.is_some_and(|kinds| kinds == [1]);
    let planar = tag(&mut decoder, Tag::PlanarConfiguration)?.is_some_and(|value| value == [2]);
    let orientation = tag(&mut decoder, Tag::Orientation)?
        .and_then(|value| Orientation::from_exif(u8::try_from(*value.first()?).ok()?));
    // A profile that is damaged does not spoil the picture.
    let profile = decoder.find_tag(Tag::IccProfile).ok().flatten().and_then(|value| value.into_u8_vec().ok());
    let more = decoder.more_images();

    if tag(&mut decoder, Tag::PhotometricInterpretation)? == Some(vec![3]) {
        return Err(unsupported("a palette".into()));
    }
    let kind = decoder.colortype().map_err(error)?;
    if planar && kind.num_samples() > 1 {
        return Err(unsupported("colours in separate planes".into()));
    }
    let samples = decoder.read_image().map_err(error)?;
    let deep = matches!(samples, DecodingResult::U16(_) | DecodingResult::F32(_));
    let dark = matches!(&samples, DecodingResult::U16(data) if is_dark(data));
    let alpha = match (kind, &samples) {
        (ColorType::RGBA(_), DecodingResult::U8(data)) => data.chunks_exact(4).any(|p| p[3] != u8::MAX),
        (ColorType::RGBA(_), DecodingResult::U16(data)) => data.chunks_exact(4).any(|p| p[3] != u16::MAX),
        (ColorType::Multiband { num_samples: 2, .. }, DecodingResult::U8(data)) => {
            data.chunks_exact(2).any(|p| p[1] != u8::MAX)
        }
        _ => false,
    };
    let pixels = match (kind, samples) {
        (ColorType::Gray(8), DecodingResult::U8(data)) => repeat_grey(data.into_iter()),
        (ColorType::Gray(16), DecodingResult::U16(data)) => repeat_grey(data.into_iter().map(high)),
        (ColorType::Gray(32), DecodingResult::F32(data)) => repeat_grey(bytes_of_floats(&data)?),
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
    if pixels.len() as u64 != 3 * u64::from(width) * u64::from(height) {
        return Err(DecodeError::Truncated { format: FORMAT });
    }
    Ok(Decoded::new(width, height, pixels)
        .described(orientation, profile.as_deref())
        .noted(alpha, Note::Alpha)
        .noted(matches!(kind, ColorType::CMYK(_)), Note::Cmyk)
        .noted(more, Note::Frames)
        .noted(deep, Note::Deep)
        .noted(dark, Note::Dark))
}

/// Floating-point greys have no range of their own. Two are usual and told apart by the picture: 0 to 1, which is
/// scaled, and 0 to 255, which is rounded down as Pillow does. What goes beyond (heights, temperatures, raw
/// counts) has no meaning as a brightness, and one picture's own darkest and brightest would make pictures
/// incomparable.
fn bytes_of_floats(data: &[f32]) -> Result<impl Iterator<Item = u8>, DecodeError> {
    let (low, high) = data.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &value| {
        if value.is_nan() { (f32::NEG_INFINITY, f32::INFINITY) } else { (low.min(value), high.max(value)) }
    });
    if !(low >= 0.0 && high <= 255.0) {
        let range = if low.is_finite() && high.is_finite() {
            format!("values from {low} to {high}")
        } else {
            "values that are no numbers".into()
        };
        return Err(unsupported(format!(
            "{range}: floating-point numbers are read from 0 to 1 or from 0 to 255"
        )));
    }
    let is_fraction = high <= 1.0;
    let byte = move |&value: &f32| if is_fraction { (value * 255.0).round() as u8 } else { value as u8 };
    Ok(data.iter().map(byte))
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
