//! What a picture's file says or holds, and its pixels here do not show.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that a user should know of a picture: its pixels are not all that the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Note {
    /// EXIF (or the TIFF tag) says that the picture lies on its side, stands on its head or is mirrored.
    Turned,
    /// It has transparent parts: alpha is dropped, so that the colours under it show.
    Alpha,
    /// Its colours are inks, mixed without a profile.
    Cmyk,
    /// It has a colour profile that is not sRGB; its numbers are taken as they are.
    Profile,
    /// It holds several pictures, an animation or pages: the first one is used.
    Frames,
    /// Its samples have more than 8 bits, or are floating-point numbers: 8 bits are kept.
    Deep,
    /// Its samples have 16 bits, of which the highest four are never used (a camera of 12 bits): the picture
    /// is nearly black.
    Dark,
}

impl Note {
    /// Every note, in the order of their numbers (`note as u8`).
    pub const ALL: [Note; 7] =
        [Note::Turned, Note::Alpha, Note::Cmyk, Note::Profile, Note::Frames, Note::Deep, Note::Dark];
}

impl fmt::Display for Note {
    /// Half a sentence about a picture: "has a colour profile other than sRGB, which is ignored".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Note::Turned => "is turned or mirrored by its EXIF orientation",
            Note::Alpha => "has transparent parts, whose colours show",
            Note::Cmyk => "is in inks (CMYK), mixed without a profile",
            Note::Profile => "has a colour profile other than sRGB, which is ignored",
            Note::Frames => "holds several frames or pages, of which the first is used",
            Note::Deep => "has samples of more than 8 bits, of which 8 are kept",
            Note::Dark => "has samples of 16 bits of which 12 or fewer are used, and is nearly black",
        })
    }
}

/// A set of [`Note`]s; one byte, also where it is serialised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Notes(u8);

impl Notes {
    /// Adds a note.
    pub fn insert(&mut self, note: Note) {
        self.0 |= 1 << note as u8;
    }

    /// Whether a note is in the set.
    pub fn contains(self, note: Note) -> bool {
        self.0 & 1 << note as u8 != 0
    }

    /// No notes?
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The notes, in the order of [`Note::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Note> {
        Note::ALL.into_iter().filter(move |note| self.contains(*note))
    }

    pub(crate) fn insert_if(&mut self, condition: bool, note: Note) {
        if condition {
            self.insert(note);
        }
    }
}

impl FromIterator<Note> for Notes {
    fn from_iter<I: IntoIterator<Item = Note>>(notes: I) -> Notes {
        let mut set = Notes::default();
        notes.into_iter().for_each(|note| set.insert(note));
        set
    }
}

impl fmt::Debug for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Whether an ICC profile is one of sRGB, by its name (ICC.1:2022, 9.2.41, `profileDescriptionTag`; as text or
/// as UTF-16). Names of the tiny sRGB profiles that web services embed are known too.
pub(crate) fn is_srgb(profile: &[u8]) -> bool {
    let number = |at: usize| -> Option<usize> {
        let bytes = profile.get(at..at.checked_add(4)?)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?) as usize)
    };
    let description = || -> Option<&[u8]> {
        let tags = number(128)?.min(100);
        let entry =
            (0..tags).map(|tag| 132 + 12 * tag).find(|&at| profile.get(at..at + 4) == Some(b"desc"))?;
        let (start, length) = (number(entry + 4)?, number(entry + 8)?);
        profile.get(start..start.checked_add(length)?)
    };
    let name: Vec<u8> = description().unwrap_or_default().iter().copied().filter(|&byte| byte != 0).collect();
    [&b"sRGB"[..], b"c2ci", b"c2"].iter().any(|known| name.windows(known.len()).any(|at| at == *known))
}
