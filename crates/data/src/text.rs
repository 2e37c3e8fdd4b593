//! The text of a list, whatever program saved it.

use encoding_rs::{Encoding, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// Text, and a word on its encoding if that is a guess.
pub(crate) struct Text {
    pub text: String,
    pub guessed: Option<&'static str>,
}

/// Why bytes are no text.
pub(crate) enum NoText {
    /// A file of Excel or LibreOffice.
    Spreadsheet,
    Binary,
}

/// Decodes UTF-8, UTF-16 with or without a byte order mark, and what is neither as Windows-1252, which contains
/// Latin-1.
pub(crate) fn decode(bytes: &[u8]) -> Result<Text, NoText> {
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\xd0\xcf\x11\xe0") {
        return Err(NoText::Spreadsheet);
    }
    let (encoding, guessed) = match Encoding::for_bom(bytes) {
        Some((encoding, _)) => (encoding, None),
        None => match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => return Ok(Text { text: text.into(), guessed: None }),
            _ => match utf_16_without_mark(bytes) {
                Some(encoding) => (encoding, None),
                // Few pixels without a control character are letters to Windows-1252, which refuses no byte.
                None if is_pnm(bytes) => return Err(NoText::Binary),
                None => (WINDOWS_1252, Some("Windows-1252 (Latin-1)")),
            },
        },
    };
    let (text, _, has_errors) = encoding.decode(bytes);
    let is_text = |c: char| !c.is_control() || ['\t', '\n', '\r'].contains(&c);
    if has_errors || !text.chars().all(is_text) {
        return Err(NoText::Binary);
    }
    Ok(Text { text: text.into_owned(), guessed })
}

/// The only picture that is read here and may have no control character.
fn is_pnm(bytes: &[u8]) -> bool {
    matches!(bytes, [b'P', b'1'..=b'6', space, ..] if space.is_ascii_whitespace())
}

/// Every character of ASCII has a zero in UTF-16, always on the same side.
fn utf_16_without_mark(bytes: &[u8]) -> Option<&'static Encoding> {
    let zeros = |side: usize| bytes.iter().skip(side).step_by(2).filter(|byte| **byte == 0).count();
    let most = bytes.len() / 4;
    match (zeros(0), zeros(1)) {
        _ if !bytes.len().is_multiple_of(2) => None,
        (0, low) if low > most => Some(UTF_16LE),
        (high, 0) if high > most => Some(UTF_16BE),
        _ => None,
    }
}
