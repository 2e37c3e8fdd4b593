//! GIF: the first frame on its canvas, transparency ignored, as Pillow's `GifImagePlugin.py` loads frame 0.

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use crate::decode::{Decoded, MAX_PIXELS, admit};
use crate::error::DecodeError;
use crate::notes::Note;

const FORMAT: &str = "GIF";

pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(MAX_PIXELS.try_into().unwrap_or(std::num::NonZeroU64::MAX)));
    let mut decoder = options.read_info(bytes).map_err(error)?;
    let screen = (decoder.width(), decoder.height());
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let info = decoder.next_frame_info().map_err(error)?;
    let frame = info.ok_or(DecodeError::Truncated { format: FORMAT })?;

    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (columns, rows) = (usize::from(frame.width), usize::from(frame.height));
    let width = usize::from(screen.0).max(left + columns);
    let height = usize::from(screen.1).max(top + rows);
    let _turn = admit(width as u32, height as u32)?;

    let transparent = frame.transparent;
    let background = transparent.unwrap_or(0);
    let palette = frame.palette.clone().or(global);
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(error)?;

    let mut canvas = vec![background; width * height];
    for (row, line) in indices.chunks_exact(columns.max(1)).enumerate().take(rows) {
        let start = (top + row) * width + left;
        canvas[start..start + columns].copy_from_slice(line);
    }
    let is_transparent = transparent.is_some_and(|index| canvas.contains(&index));
    let colours = colours(palette.as_deref());
    let pixels = canvas.iter().flat_map(|&index| colours[usize::from(index)]).collect();
    // Damage beyond the first frame is of no concern.
    let more = matches!(decoder.next_frame_info(), Ok(Some(_)));
    Ok(Decoded::new(width as u32, height as u32, pixels)
        .noted(is_transparent, Note::Alpha)
        .noted(more, Note::Frames))
}

/// All 256 colours: greys without a palette, black beyond its end.
fn colours(palette: Option<&[u8]>) -> [[u8; 3]; 256] {
    let Some(palette) = palette else {
        return std::array::from_fn(|index| [index as u8; 3]);
    };
    let (entries, _) = palette.as_chunks();
    std::array::from_fn(|index| entries.get(index).copied().unwrap_or_default())
}

fn error(error: DecodingError) -> DecodeError {
    match error {
        DecodingError::UnexpectedEof => DecodeError::Truncated { format: FORMAT },
        DecodingError::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format: FORMAT }
        }
        other => DecodeError::Damaged { format: FORMAT, reason: other.to_string() },
    }
}
