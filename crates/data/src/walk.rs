//! What is in a folder: images by their names, in an order that does not depend on the disk, and each once.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::error::DataError;
use crate::ignored::{Ignored, Reason};

/// What counts as an image in a folder: `torchvision.datasets.folder.IMG_EXTENSIONS`, and two more names of JPEG
/// that browsers and Windows give. GIF is not among them, as there.
const EXTENSIONS: [&str; 11] =
    ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "jfif", "jpe"];

/// Folders that macOS, NAS systems, Windows, ext4 and Python leave behind, in lower case. They hold thumbnails
/// and what was deleted: copies of photos, which are no photos of the user's.
const SYSTEM: [&str; 10] = [
    "__macosx",
    "@eadir",
    "#recycle",
    "#snapshot",
    "@recycle",
    "@recently-snapshot",
    "lost+found",
    "$recycle.bin",
    "system volume information",
    "__pycache__",
];

/// What [`images_below`] finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The images, sorted by folder, then by name.
    pub images: Vec<PathBuf>,
    /// What is passed over.
    pub ignored: Vec<Ignored>,
}

impl Found {
    fn ignore(&mut self, path: impl Into<PathBuf>, reason: Reason) {
        self.ignored.push(Ignored { path: path.into(), reason });
    }
}

/// All images in a folder and below, as [`Dataset::from_folder`](crate::Dataset::from_folder) finds those of a
/// class: in the order of torchvision's `make_dataset`, by folder, then by name.
///
/// Symbolic links are followed. A folder that links reach on several ways is read once, and so is an image.
///
/// # Errors
/// When a folder cannot be read.
pub fn images_below(folder: &Path) -> Result<Found, DataError> {
    let mut found = Found::default();
    // Links to images wait until it is known which images are there without them.
    let mut links = Vec::new();
    let mut read = HashSet::new();
    let mut passed = Vec::new();
    let entries = WalkDir::new(folder)
        .follow_links(true)
        .sort_by(|a, b| {
            let key = |entry: &DirEntry| (entry.path_is_symlink(), entry.file_name().to_owned());
            key(a).cmp(&key(b))
        })
        .into_iter()
        .filter_entry(|entry| {
            if entry.depth() > 0
                && let Some(reason) = reason_to_pass_over(entry.path(), entry.file_type().is_dir())
            {
                passed.extend(reason.map(|reason| Ignored { path: entry.path().into(), reason }));
                return false;
            }
            if !entry.file_type().is_dir() {
                return true;
            }
            let is_new = fs::canonicalize(entry.path()).map_or(true, |real| read.insert(real));
            if !is_new {
                passed.push(Ignored { path: entry.path().into(), reason: Reason::Again });
            }
            is_new
        });
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {}
            Ok(entry) if !is_image(entry.path()) => {
                found.ignore(entry.path(), Reason::NoImage(extension(entry.path())));
            }
            Ok(entry) if !entry.file_type().is_file() => found.ignore(entry.path(), Reason::NoFile),
            Ok(entry) if entry.path_is_symlink() => links.push(entry.into_path()),
            Ok(entry) => found.images.push(entry.into_path()),
            // A link to a folder that it lies in adds nothing.
            Err(error) if error.loop_ancestor().is_some() => {}
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_path_buf();
                if path.is_dir() {
                    return Err(DataError::Unreadable { path, source: error.into() });
                }
                found.ignore(path, Reason::Unreadable);
            }
        }
    }
    found.ignored.append(&mut passed);
    found.follow(links);
    found.images.sort_by_cached_key(|path| {
        (path.parent().map(|parent| parent.as_os_str().to_owned()), path.file_name().map(ToOwned::to_owned))
    });
    Ok(found)
}

impl Found {
    /// Adds the images that links lead to, but for those that are there already.
    fn follow(&mut self, links: Vec<PathBuf>) {
        if links.is_empty() {
            return;
        }
        let mut seen: HashSet<PathBuf> =
            self.images.iter().filter_map(|image| fs::canonicalize(image).ok()).collect();
        for link in links {
            let Ok(target) = fs::canonicalize(&link) else {
                self.ignore(link, Reason::Unreadable);
                continue;
            };
            if seen.insert(target) {
                self.images.push(link);
            } else {
                self.ignore(link, Reason::Again);
            }
        }
    }
}

/// The folders and the files in a folder, each sorted by name.
#[derive(Default)]
pub(crate) struct Listing {
    pub folders: Vec<PathBuf>,
    pub files: Vec<PathBuf>,
}

/// What is in a folder itself.
pub(crate) fn list(folder: &Path, ignored: &mut Vec<Ignored>) -> Result<Listing, DataError> {
    let unreadable = |source| DataError::Unreadable { path: folder.into(), source };
    let mut listing = Listing::default();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_folder = path.is_dir();
        match reason_to_pass_over(&path, is_folder) {
            Some(reason) => ignored.extend(reason.map(|reason| Ignored { path, reason })),
            None if is_folder => listing.folders.push(path),
            None => listing.files.push(path),
        }
    }
    listing.folders.sort();
    listing.files.sort();
    Ok(listing)
}

/// Whether something is passed over whatever is in it: `None` if not, and the reason unless it is not worth a
/// word.
fn reason_to_pass_over(path: &Path, is_folder: bool) -> Option<Option<Reason>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if is_folder && SYSTEM.contains(&name.to_lowercase().as_str()) {
        return Some(Some(Reason::System));
    }
    if name.starts_with('.') {
        return Some((is_folder || is_image(path)).then_some(Reason::Hidden));
    }
    ["thumbs.db", "desktop.ini"].contains(&name.to_lowercase().as_str()).then_some(None)
}

pub(crate) fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn is_image(path: &Path) -> bool {
    EXTENSIONS.contains(&extension(path).as_str())
}
