//! JPEG, by a reimplementation of libjpeg-turbo, which Pillow uses: the same inverse DCT, upsampling and
//! colour conversion.

use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat};

use crate::decode::{Decoded, admit, orientation_of, rgb_of_cmyk};
use crate::error::DecodeError;
use crate::notes::Note;

const FORMAT: &str = "JPEG";

/// The most scans of a progressive JPEG: each one costs a pass over all of the picture, and encoders write
/// about ten.
const MAX_SCANS: usize = 100;

pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let limits = DecodeLimits { max_scans: MAX_SCANS, ..DecodeLimits::default() };
    let mut decoder = Decoder::new_with_limits(bytes, limits).map_err(error)?;
    let header = decoder.header();
    let (width, height) = (u32::from(header.width), u32::from(header.height));
    let (bits, components) = (header.precision, header.components.len());
    if bits != 8 {
        return Err(unsupported(format!("{bits}-bit samples")));
    }
    if !matches!(components, 1 | 3 | 4) {
        return Err(unsupported(format!("{components} colour components")));
    }
    let _turn = admit(width, height)?;
    decoder.set_block_smoothing(true);
    decoder.set_output_format(if components == 4 { PixelFormat::Cmyk } else { PixelFormat::Rgb });
    let data = decoder.decode_image().map_err(error)?.into_vec();
    let pixels = if components == 4 {
        // Pillow takes every four-component JPEG for Adobe's, whose inks are inverted (`JpegImagePlugin.py`,
        // "CMYK;I").
        let (pixels, _) = data.as_chunks();
        pixels.iter().flat_map(|inks: &[u8; 4]| rgb_of_cmyk(inks.map(|ink| 255 - ink))).collect()
    } else {
        data
    };
    let profile = decoder.icc_profile().map_err(error)?;
    Ok(Decoded::new(width, height, pixels)
        .described(decoder.exif_data().and_then(orientation_of), profile.as_deref())
        .noted(components == 4, Note::Cmyk))
}

fn unsupported(what: String) -> DecodeError {
    DecodeError::Unsupported { format: FORMAT, what }
}

fn error(error: JpegError) -> DecodeError {
    match error {
        JpegError::UnexpectedEof => DecodeError::Truncated { format: FORMAT },
        JpegError::Unsupported(what) => unsupported(what),
        other => DecodeError::Damaged { format: FORMAT, reason: other.to_string() },
    }
}
