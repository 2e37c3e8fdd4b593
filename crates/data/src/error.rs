//! What can go wrong with images and lists of images, as sentences for a user.

use std::path::PathBuf;

/// Why bytes are no picture that can be used.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// The first bytes are not those of a format that is read here.
    #[error(
        "it is no image that can be read (JPEG, PNG, WebP, BMP, GIF, TIFF or PNM): it begins with {start}"
    )]
    NotAnImage {
        /// The first bytes, as text or as hexadecimal digits.
        start: String,
    },
    /// The data end too early.
    #[error("the image file is truncated: the {format} data end before the picture is complete")]
    Truncated {
        /// `JPEG`, `PNG`, ...
        format: &'static str,
    },
    /// The data contradict their own format.
    #[error("the image file is damaged: {format}: {reason}")]
    Damaged {
        /// `JPEG`, `PNG`, ...
        format: &'static str,
        /// The decoder's own words.
        reason: String,
    },
    /// A legal file of a kind that is not read here.
    #[error("{format} of this kind is not supported ({what}): save the image as an 8-bit JPEG or PNG")]
    Unsupported {
        /// `JPEG`, `PNG`, ...
        format: &'static str,
        /// The feature that is missing here.
        what: String,
    },
    /// A width or height of 0.
    #[error("the image has no pixels")]
    NoPixels,
    /// More than [`MAX_PIXELS`](crate::MAX_PIXELS).
    #[error("{width} x {height} pixels are too many (the limit is 178,956,970): make it smaller")]
    TooLarge {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
}

/// Why an image file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be read.
    #[error("{path}: cannot read the file: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A folder, a pipe, a socket or a device.
    #[error("{path}: it is no regular file", path = path.display())]
    NotAFile {
        /// What was asked for.
        path: PathBuf,
    },
    /// Larger than [`MAX_FILE_BYTES`](crate::MAX_FILE_BYTES).
    #[error("{path}: the file is too large for an image: {bytes} bytes (the limit is 536,870,912)", path = path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Another program is writing it.
    #[error("{path}: the file changed while it was read: try again when it is complete", path = path.display())]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// A defect of this library.
    #[error("{path}: the program failed on this image, which is a mistake in the program: leave the file out, and please report it", path = path.display())]
    Panicked {
        /// The file.
        path: PathBuf,
    },
    /// The file could be read, but is no usable picture.
    #[error("{path}: {source}", path = path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: DecodeError,
    },
}

/// Why a folder or a list is no dataset to train on.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Neither a file nor a folder.
    #[error("{path} does not exist", path = path.display())]
    Missing {
        /// What was asked for.
        path: PathBuf,
    },
    /// A file where a folder is needed.
    #[error("{path} is a file: a folder of class folders is needed", path = path.display())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// A file that is no text in columns.
    #[error("{path} is no list of images: a text file with a path and a label in each line is needed, or a folder of class folders", path = path.display())]
    NotAList {
        /// The file.
        path: PathBuf,
    },
    /// A file of Excel or LibreOffice.
    #[error("{path} is a spreadsheet: save it as CSV", path = path.display())]
    Spreadsheet {
        /// The file.
        path: PathBuf,
    },
    /// A list with more than one way to understand its columns.
    #[error("{list}: {problem}", list = list.display())]
    UnclearColumns {
        /// The list.
        list: PathBuf,
        /// What is not clear, the columns, and how to name them.
        problem: String,
    },
    /// The operating system refused.
    #[error("{path}: cannot read it: {source}", path = path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// `valid/` and `val/`, or any two folders for one split.
    #[error("{path} has both {first}/ and {second}/: remove or rename one of them", path = path.display())]
    TwoFolders {
        /// The folder of both.
        path: PathBuf,
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// A folder that may be one of splits or one of classes.
    #[error("{path} can be read in two ways: as splits ({splits}), or as one folder a class ({classes}); {remedy}", path = path.display())]
    TwoReadings {
        /// The folder.
        path: PathBuf,
        /// What the splits would be.
        splits: String,
        /// What the classes would be.
        classes: String,
        /// What to do in either case.
        remedy: String,
    },
    /// `cats/train/`, `cats/test/`.
    #[error("{path} has splits inside of its classes ({found}): put the classes into the splits, as in train/{class}/", path = path.display())]
    SplitsBelow {
        /// The folder.
        path: PathBuf,
        /// The splits of one class.
        found: String,
        /// That class.
        class: String,
    },
    /// A folder for validation or test, but none for training.
    #[error("{path} has {found}, but no train/", path = path.display())]
    NoTrain {
        /// The folder.
        path: PathBuf,
        /// What it has.
        found: String,
    },
    /// No folders in the folder.
    #[error("{folder} has no class folders: put the images of each class into a folder of its own, named like the class{list}", folder = folder.display(), list = list.as_ref().map(|list| format!("; or, if the labels are in {0}, name {0} as the data", list.display())).unwrap_or_default())]
    NoClasses {
        /// The folder.
        folder: PathBuf,
        /// A file in it that may be a list of labels.
        list: Option<PathBuf>,
    },
    /// One folder, which holds what should be in the folder.
    #[error("{path} holds a single folder, in which there are {found}: name {inner} as the data", path = path.display(), inner = inner.display())]
    Wrapped {
        /// The folder.
        path: PathBuf,
        /// The folder in it.
        inner: PathBuf,
        /// What is in that.
        found: String,
    },
    /// The name of a class folder is no text.
    #[error("the name of the folder {path:?} is not UTF-8, so that it cannot name a class: rename it")]
    NameNotText {
        /// The folder.
        path: PathBuf,
    },
    /// A class without images to train on.
    #[error("class {class:?} has no images to train on in {folder}{found}: add some, or remove the class", folder = folder.display(), found = if found.is_empty() { String::new() } else { format!(" ({found})") })]
    EmptyClass {
        /// Its name.
        class: String,
        /// Its folder, or the list.
        folder: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// Nothing to tell apart.
    #[error("there is only one class, {class:?}: at least two are needed")]
    OneClass {
        /// Its name.
        class: String,
    },
    /// A class that is not in `train/`.
    #[error("class {class:?} of {folder} is not in train/, whose classes are {known}{hint}", folder = folder.display())]
    UnknownClass {
        /// Its name.
        class: String,
        /// The split that has it.
        folder: PathBuf,
        /// The classes of `train/`.
        known: String,
        /// The class that may be meant, as the sentence's end.
        hint: String,
    },
    /// Too few images for the splits that were asked for.
    #[error(
        "class {class:?} has too few images to be split: {images}, and {needed} are needed{others}; {remedy}"
    )]
    ClassTooSmall {
        /// Its name.
        class: String,
        /// How many there are.
        images: usize,
        /// How many there should be.
        needed: usize,
        /// The other classes of which this is true.
        others: String,
        /// What helps.
        remedy: String,
    },
    /// Fractions outside their range.
    #[error(
        "the fractions for validation ({valid}) and test ({test}) must be 0 or more, and together less than 1"
    )]
    Fractions {
        /// The fraction for validation.
        valid: f64,
        /// The fraction for the test.
        test: f64,
    },
    /// A list without lines.
    #[error("{list} lists no images", list = list.display())]
    EmptyList {
        /// The list.
        list: PathBuf,
    },
    /// A line that lacks something.
    #[error("{list}, line {line}: {problem}", list = list.display())]
    BadLine {
        /// The list.
        list: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What it lacks.
        problem: String,
    },
    /// A label that the map does not have.
    #[error("{list}, line {line}: label {label:?} ({count} times in the list) has no class; the map has {known}", list = list.display())]
    UnmappedLabel {
        /// The list.
        list: PathBuf,
        /// As it stands in the list.
        label: String,
        /// Where it occurs first, counted from 1.
        line: usize,
        /// How often it occurs.
        count: usize,
        /// The labels of the map.
        known: String,
    },
    /// Files that the list names and that are not there.
    #[error("{list}: {missing} of {rows} files are not in {root}: {files}{more}{hint}", list = list.display(), root = root.display(), more = if *missing > 5 { ", ..." } else { "" })]
    MissingFiles {
        /// The list.
        list: PathBuf,
        /// Where the files should be.
        root: PathBuf,
        /// How many are missing.
        missing: usize,
        /// How many there should be.
        rows: usize,
        /// The first few.
        files: String,
        /// What may help, as the sentence's end.
        hint: String,
    },
    /// One file with two labels.
    #[error("{list}: {file} is listed as {first} and as {second}", list = list.display())]
    TwoLabels {
        /// The list.
        list: PathBuf,
        /// The file.
        file: String,
        /// Its first label.
        first: String,
        /// Its second label.
        second: String,
    },
    /// A map of labels that cannot be parsed.
    #[error("bad map of labels: {problem} (example: 0=ok,1=defective)")]
    BadMap {
        /// What is wrong with it.
        problem: String,
    },
}
