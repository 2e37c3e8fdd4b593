//! Labelled pictures, divided into training, validation and test.

use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::ignored::Ignored;
use crate::list::ListOptions;
use crate::reading::Reading;
use crate::split::SplitSpec;

/// A picture and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The image file.
    pub path: PathBuf,
    /// Index into [`Dataset::classes`].
    pub label: usize,
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
    /// How the data were understood, with counts.
    pub reading: Reading,
    /// Files and folders that are left out; [`condensed`](crate::condensed) makes few sentences of many.
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

    /// Fills in the counts of `reading`.
    pub(crate) fn count(&mut self) {
        self.reading.split = [&self.train, &self.valid, &self.test].map(Vec::len);
        let mut counts = vec![0; self.classes.len()];
        let samples = self.train.iter().chain(&self.valid).chain(&self.test);
        samples.for_each(|sample| counts[sample.label] += 1);
        self.reading.classes = self.classes.iter().cloned().zip(counts).collect();
    }
}
