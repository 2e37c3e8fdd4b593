//! A folder as a dataset: one folder a class.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::dataset::{Dataset, Ignored, Sample};
use crate::error::DataError;
use crate::split::{SplitSpec, Unassigned};

/// What counts as an image in a folder: `torchvision.datasets.folder.IMG_EXTENSIONS`, and two more names of JPEG
/// that browsers and Windows give. GIF is not among them, as there.
const EXTENSIONS: [&str; 11] =
    ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "jfif", "jpe"];

/// The image files of each class, sorted.
type Classes = BTreeMap<String, Vec<PathBuf>>;

impl Dataset {
    /// Scans a folder of one of two layouts:
    ///
    /// - `train/`, `valid/` or `val/`, and optionally `test/`, with one folder a class in each. Without
    ///   validation images, `split` takes the validation images from `train/` (and the test images, if
    ///   `test/` is missing too), and a warning says so;
    /// - one folder a class, divided by `split`.
    ///
    /// As in `torchvision.datasets.ImageFolder`, class folders are searched to any depth, symbolic links are
    /// followed, files count as images by their extension (jpg, jpeg, png, ppm, bmp, pgm, tif, tiff, webp),
    /// and the samples are sorted. Other than there, hidden files and folders are passed over, and labels
    /// never depend on which classes `valid/` has.
    ///
    /// # Errors
    /// When there is no such folder; a class of `valid/` or `test/` is missing in `train/`; a class has no
    /// images to train on; there are fewer than two classes; or a class is too small to be split.
    pub fn from_folder(root: impl AsRef<Path>, split: &SplitSpec) -> Result<Dataset, DataError> {
        let root = root.as_ref();
        split.check()?;
        if !root.exists() {
            return Err(DataError::Missing { path: root.into() });
        }
        if !root.is_dir() {
            return Err(DataError::NotAFolder { path: root.into() });
        }
        let layout = Layout::of(root)?;
        let mut dataset = Dataset::default();
        let train = dataset.scan(layout.train.as_deref().unwrap_or(root))?;
        dataset.set_classes(&train, layout.train.as_deref().unwrap_or(root))?;
        if let Some(folder) = &layout.valid {
            dataset.valid = dataset.given(folder)?;
        }
        if let Some(folder) = &layout.test {
            dataset.test = dataset.given(folder)?;
        }
        dataset.divide(train, &layout, split)?;
        dataset.ignored.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(dataset)
    }

    /// The classes of `folder`, each with its images.
    fn scan(&mut self, folder: &Path) -> Result<Classes, DataError> {
        let mut classes = Classes::new();
        for path in entries(folder)? {
            if path.is_dir() {
                classes.insert(name(&path), self.images(&path)?);
            } else if is_image(&path) {
                self.ignore(path, "lies outside the class folders");
            }
        }
        Ok(classes)
    }

    /// All images under a class folder, in the order of torchvision's `make_dataset`: by folder, then by name.
    fn images(&mut self, class: &Path) -> Result<Vec<PathBuf>, DataError> {
        let mut images = Vec::new();
        let files = WalkDir::new(class).follow_links(true).into_iter();
        for entry in files.filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.path())) {
            match entry {
                Ok(entry) if entry.file_type().is_dir() => {}
                Ok(entry) if is_image(entry.path()) => images.push(entry.into_path()),
                Ok(entry) => {
                    let reason = reason_to_ignore(entry.path());
                    self.ignore(entry.into_path(), reason);
                }
                // A link to a folder that it lies in adds nothing.
                Err(error) if error.loop_ancestor().is_some() => {}
                Err(error) => {
                    let path = error.path().unwrap_or(class).to_path_buf();
                    if path.is_dir() {
                        return Err(DataError::Unreadable { path, source: error.into() });
                    }
                    self.ignore(path, "cannot be read, or is a link that leads nowhere");
                }
            }
        }
        images.sort_by_cached_key(|path| {
            (
                path.parent().map(Path::as_os_str).map(ToOwned::to_owned),
                path.file_name().map(ToOwned::to_owned),
            )
        });
        Ok(images)
    }

    fn set_classes(&mut self, train: &Classes, folder: &Path) -> Result<(), DataError> {
        let folder = folder.to_path_buf();
        if train.is_empty() {
            return Err(DataError::NoClasses { folder });
        }
        if let Some((class, _)) = train.iter().find(|(_, images)| images.is_empty()) {
            return Err(DataError::EmptyClass { folder: folder.join(class), class: class.clone() });
        }
        if train.len() == 1 {
            return Err(DataError::OneClass { class: train.keys().next().cloned().unwrap_or_default() });
        }
        self.classes = train.keys().cloned().collect();
        Ok(())
    }

    /// The samples of a split that the data give, labelled by the classes of `train`.
    fn given(&mut self, folder: &Path) -> Result<Vec<Sample>, DataError> {
        let found = self.scan(folder)?;
        if let Some(class) = found.keys().find(|class| !self.classes.contains(class)) {
            let (class, folder) = (class.clone(), folder.to_path_buf());
            return Err(DataError::UnknownClass { class, folder, known: self.classes.join(", ") });
        }
        if found.values().all(Vec::is_empty) {
            self.warnings
                .push(format!("{} has no class folders with images and is not used", folder.display()));
            return Ok(Vec::new());
        }
        let mut samples = Vec::new();
        for (label, class) in self.classes.iter().enumerate() {
            let images = found.get(class).map_or(&[][..], Vec::as_slice);
            if images.is_empty() {
                let folder = folder.display();
                self.warnings.push(format!(
                    "{folder} has no images of class {class:?}: its accuracy is not measured there"
                ));
            }
            samples.extend(images.iter().map(|path| Sample { path: path.clone(), label }));
        }
        Ok(samples)
    }

    /// Takes from `train` what the data do not give.
    fn divide(&mut self, train: Classes, layout: &Layout, split: &SplitSpec) -> Result<(), DataError> {
        let given = layout.train.is_some();
        let mut split = *split;
        if !self.valid.is_empty() {
            split.valid = 0.0;
        }
        if !self.test.is_empty() || !self.valid.is_empty() {
            split.test = 0.0;
        }
        if given && self.valid.is_empty() && split.valid > 0.0 {
            let percent = split.valid * 100.0;
            self.warnings.push(format!(
                "no validation images are given: {percent:.0} % of train/ are used for validation"
            ));
        }
        let folder = layout.train.as_deref().unwrap_or(&layout.root);
        let samples = train.into_iter().enumerate().flat_map(|(label, (_, images))| {
            images
                .into_iter()
                .map(move |path| Unassigned { key: key(&path, folder), sample: Sample { path, label } })
        });
        let splits = split.split(&self.classes, samples.collect())?;
        self.train = splits.train;
        self.valid.extend(splits.valid);
        self.test.extend(splits.test);
        Ok(())
    }

    fn ignore(&mut self, path: PathBuf, reason: impl Into<String>) {
        self.ignored.push(Ignored { path, reason: reason.into() });
    }
}

/// What [`images_below`] finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The images, sorted by folder, then by name.
    pub images: Vec<PathBuf>,
    /// What is passed over.
    pub ignored: Vec<Ignored>,
}

/// All images in a folder and below, as [`Dataset::from_folder`] finds those of a class, and what it passes over.
///
/// # Errors
/// When a folder cannot be read.
pub fn images_below(folder: &Path) -> Result<Found, DataError> {
    let mut dataset = Dataset::default();
    let images = dataset.images(folder)?;
    Ok(Found { images, ignored: dataset.ignored })
}

/// Where the splits lie.
struct Layout {
    root: PathBuf,
    /// `None`: the classes lie in `root` itself.
    train: Option<PathBuf>,
    valid: Option<PathBuf>,
    test: Option<PathBuf>,
}

impl Layout {
    fn of(root: &Path) -> Result<Layout, DataError> {
        let folder = |name: &str| Some(root.join(name)).filter(|path| path.is_dir());
        let (train, valid, val, test) = (folder("train"), folder("valid"), folder("val"), folder("test"));
        if valid.is_some() && val.is_some() {
            return Err(DataError::TwoValidations { path: root.into() });
        }
        let valid = valid.or(val);
        if train.is_none() && valid.is_some() {
            return Err(DataError::NoTrain { path: root.into() });
        }
        let test = test.filter(|_| train.is_some());
        Ok(Layout { root: root.into(), train, valid, test })
    }
}

/// What is in a folder, sorted, without what is hidden.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let unreadable = |source| DataError::Unreadable { path: folder.into(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.retain(|path| !is_hidden(path));
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Hidden by a leading dot, or left behind by macOS or Windows.
fn is_hidden(path: &Path) -> bool {
    let name = name(path);
    name.starts_with('.') || ["__MACOSX", "Thumbs.db", "desktop.ini"].contains(&name.as_str())
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn is_image(path: &Path) -> bool {
    EXTENSIONS.contains(&extension(path).as_str())
}

fn reason_to_ignore(path: &Path) -> String {
    match extension(path).as_str() {
        "gif" => "is a GIF, which torchvision's ImageFolder passes over too: to use it, convert it to PNG or name it in a CSV list".into(),
        "" => "is no image by its name".into(),
        other => format!("is no image by its name: .{other} is none of {}", EXTENSIONS.join(", ")),
    }
}

/// The path below `folder`, with `/` on every system.
fn key(path: &Path, folder: &Path) -> String {
    let parts = path.strip_prefix(folder).unwrap_or(path).components();
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}
