//! What the pixels of photos do not show of their files, said once for all photos.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engraft::{Note, Notes};

use crate::output::note;

/// A note about some photos, of which `example` is the first.
pub(crate) fn photo_note(note: Note, count: usize, example: &Path) -> String {
    let photos = if count == 1 { "1 photo".into() } else { format!("{count} photos, each as the first") };
    format!("note: {photos} ({}) {note}", example.display())
}

/// Counts the notes about photos, to print them at the end.
#[derive(Default)]
pub(crate) struct PhotoNotes {
    /// How many photos have a note, and the first of them.
    found: BTreeMap<Note, (usize, PathBuf)>,
}

impl PhotoNotes {
    pub(crate) fn add(&mut self, notes: Notes, path: &Path) {
        for note in notes.iter() {
            let (count, _) = self.found.entry(note).or_insert_with(|| (0, path.into()));
            *count += 1;
        }
    }

    /// Prints them; `turns` says whether photos were turned as their EXIF data say.
    pub(crate) fn print(&self, turns: bool) {
        for (&found, (count, example)) in &self.found {
            let taken = match found {
                Note::Turned if turns => ", and is taken so",
                Note::Turned => "; they are taken as they lie in the file, as in training",
                _ => "",
            };
            note(&format!("{}{taken}", photo_note(found, *count, example)));
        }
    }
}
