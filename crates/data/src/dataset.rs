//! Labelled pictures, divided into training, validation and test.

use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::list::ListOptions;
use crate::split::SplitSpec;

/// A picture and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The image file.
    pub path: PathBuf,
    /// Index into [`Dataset::classes`].
    pub label: usize,
}

/// A file that was found, but is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// The file.
    pub path: PathBuf,
    /// Why, as half a sentence: "is no image by its name".
    pub reason: String,
}

/// The pictures of a folder or a list. No file has been decoded yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dataset {
    /// Names of the classes, sorted by code point as Python's `sorted` does; the same for every split.
    pub classes: Vec<String>,
    /// For training; every class occurs.
    pub train: Vec<Sample>,
    /// For validation; may be empty.
    pub valid: Vec<Sample>,
    /// For the test; may be empty.
    pub test: Vec<Sample>,
    /// Files that are left out.
    pub ignored: Vec<Ignored>,
    /// Sentences for the user about what is unusual, but no error.
    pub warnings: Vec<String>,
}

impl Dataset {
    /// The pictures of `data`: a folder, [as a tree of classes](Dataset::from_folder), or a file, [as a
    /// list](Dataset::from_list).
    ///
    /// # Errors
    /// As those two; when `data` does not exist; when it is a file that is no list.
    pub fn open(data: &Path, options: &ListOptions, split: &SplitSpec) -> Result<Dataset, DataError> {
        if data.is_file() {
            Dataset::from_list(data, options, split)
        } else {
            Dataset::from_folder(data, split)
        }
    }
}
