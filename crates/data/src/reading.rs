//! How a folder or a list was understood, to be said before anything is trained on it.

use std::fmt;

/// What the data were taken for, with counts. Written: `train/ 244, valid/ 153; ants 193, bees 204`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Where classes and splits come from.
    pub source: Source,
    /// Images for training, validation and test.
    pub split: [usize; 3],
    /// Each class with all of its images, in the order of the classes.
    pub classes: Vec<(String, usize)>,
}

/// Where classes and splits come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Source {
    /// One folder a class; the split was drawn.
    #[default]
    Classes,
    /// Folders for the splits, and in each one folder a class: the names of the splits' folders and how many
    /// images are in them. What is missing of validation and test may have been drawn from the first.
    Splits(Vec<(String, usize)>),
    /// A list; and whether it says itself which image belongs to which split.
    List {
        /// It has a column for that.
        splits: bool,
    },
}

/// Up to so many classes are named one by one.
const NAMED: usize = 12;

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [train, valid, test] = self.split;
        let images = train + valid + test;
        match &self.source {
            Source::Classes => {
                write!(f, "one folder a class, {images} photos, split {train}/{valid}/{test}")?;
            }
            Source::List { splits: false } => {
                write!(f, "a list, {images} photos, split {train}/{valid}/{test}")?;
            }
            Source::List { splits: true } => {
                write!(f, "a list with splits, {train}/{valid}/{test}")?;
            }
            Source::Splits(folders) => {
                for (index, (name, images)) in folders.iter().enumerate() {
                    write!(f, "{}{name}/ {images}", if index == 0 { "" } else { ", " })?;
                }
                let given: usize = folders.first().map_or(0, |(_, images)| *images);
                if train < given {
                    write!(f, " (of {}/ {} are kept for other splits)", folders[0].0, given - train)?;
                }
            }
        }
        f.write_str("; ")?;
        if self.classes.len() <= NAMED {
            for (index, (class, images)) in self.classes.iter().enumerate() {
                write!(f, "{}{class} {images}", if index == 0 { "" } else { ", " })?;
            }
            return Ok(());
        }
        let smallest = self.classes.iter().min_by_key(|(_, images)| images);
        let largest = self.classes.iter().rev().max_by_key(|(_, images)| images);
        let (Some((small, least)), Some((large, most))) = (smallest, largest) else { return Ok(()) };
        write!(f, "{} classes of {least} ({small}) to {most} ({large}) photos", self.classes.len())
    }
}
