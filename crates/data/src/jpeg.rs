//! JPEG, by a reimplementation of libjpeg-turbo, which Pillow uses: the same inverse DCT, upsampling and
//! colour conversion.

use libjpeg_turbo_rs::{Decoder, JpegError, PixelFormat};

use crate::decode::{Image, admit, rgb_of_cmyk};
use crate::error::DecodeError;

const FORMAT: &str = "JPEG";

pub(crate) fn decode(bytes: &[u8]) -> Result<Image, DecodeError> {
    let mut decoder = Decoder::new(bytes).map_err(error)?;
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
    Ok(Image { width, height, pixels })
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
