//! A folder as a dataset: one folder a class.

use std::path::{Path, PathBuf};

use crate::dataset::{Dataset, Sample};
use crate::error::DataError;
use crate::ignored::condensed;
use crate::layout::{Layout, SplitFolder, Tree, shortened};
use crate::names::{twin_of, twins};
use crate::reading::Source;
use crate::split::{SplitSpec, Unassigned};
use crate::split_name::Part;

impl Dataset {
    /// Scans a folder of one of two layouts:
    ///
    /// - a folder for training, optionally one for validation and one for the test, with one folder a class in
    ///   each. They are known by their names: `train`, `training_set`, `Train`; `valid`, `val`, `Validation`,
    ///   `dev`; `test`, `Testing`, `test2017`; `seg_train` beside `seg_test`. Without validation images, `split`
    ///   takes them from those for training (and the test images, if they are missing too), and a warning says
    ///   so;
    /// - one folder a class, divided by `split`.
    ///
    /// [`Dataset::reading`] says which it was. Where both are possible (a class called `test`; `birds/` beside
    /// `train/`) the answer is an error that shows both.
    ///
    /// As in `torchvision.datasets.ImageFolder`, class folders are searched to any depth, symbolic links are
    /// followed, files count as images by their extension (jpg, jpeg, png, ppm, bmp, pgm, tif, tiff, webp; and
    /// here jfif and jpe), and the samples are sorted. Other than there, what is hidden or a system's own is
    /// passed over, an image that links reach twice counts once, and labels never depend on which classes
    /// `valid/` has. What is not used stands in [`Dataset::ignored`].
    ///
    /// # Errors
    /// When there is no such folder; it can be read in two ways; a class of `valid/` or `test/` is missing in
    /// `train/`; a class has no images to train on, or a name that is not UTF-8; there are fewer than two
    /// classes; or a class is too small to be split.
    pub fn from_folder(root: impl AsRef<Path>, split: &SplitSpec) -> Result<Dataset, DataError> {
        let root = root.as_ref();
        split.check()?;
        if !root.exists() {
            return Err(DataError::Missing { path: root.into() });
        }
        if !root.is_dir() {
            return Err(DataError::NotAFolder { path: root.into() });
        }
        let mut dataset = Dataset::default();
        match Layout::of(root)? {
            Layout::Classes(tree) => {
                dataset.set_classes(&tree)?;
                dataset.set_aside(&tree);
                dataset.reading.source = Source::Classes;
                dataset.divide(tree, None, split)?;
            }
            Layout::Splits { folders, beside } => dataset.take(folders, &beside, split)?,
        }
        dataset.warnings.extend(twins(&dataset.classes));
        dataset.ignored.sort_by(|a, b| a.path.cmp(&b.path));
        dataset.count();
        Ok(dataset)
    }

    fn take(&mut self, folders: Vec<SplitFolder>, beside: &Tree, split: &SplitSpec) -> Result<(), DataError> {
        let counts = folders.iter().map(|folder| (folder.name.clone(), folder.tree.images()));
        self.reading.source = Source::Splits(counts.collect());
        self.set_aside(beside);
        let mut train = None;
        for SplitFolder { part, name, tree } in folders {
            self.set_aside(&tree);
            match part {
                Part::Train => {
                    self.set_classes(&tree)?;
                    train = Some((tree, name));
                }
                Part::Valid => self.valid = self.given(&tree)?,
                Part::Test => self.test = self.given(&tree)?,
            }
        }
        match train {
            Some((tree, name)) => self.divide(tree, Some(&name), split),
            // Not reached: a layout of splits has one for training, first.
            None => Ok(()),
        }
    }

    fn set_classes(&mut self, tree: &Tree) -> Result<(), DataError> {
        if tree.classes.is_empty() {
            return Err(DataError::no_classes(tree));
        }
        if let Some(class) = tree.classes.iter().find(|class| class.images.is_empty()) {
            let inside: Vec<_> =
                tree.ignored.iter().filter(|file| file.path.starts_with(&class.path)).cloned().collect();
            return Err(DataError::EmptyClass {
                folder: class.path.clone(),
                class: class.name.clone(),
                found: condensed(&inside, &class.path).join("; "),
            });
        }
        if let [class] = &tree.classes[..] {
            return Err(DataError::one_class(tree, class));
        }
        self.classes = tree.classes.iter().map(|class| class.name.clone()).collect();
        Ok(())
    }

    /// What is in a tree and not used.
    fn set_aside(&mut self, tree: &Tree) {
        self.ignored.extend(tree.ignored.iter().cloned());
        for list in &tree.lists {
            self.warnings.push(format!(
                "{} is there and not used: the classes are the folders; to go by a list, name the list as the data",
                list.display()
            ));
        }
    }

    /// The samples of a split that the data give, labelled by the classes of `train`.
    fn given(&mut self, tree: &Tree) -> Result<Vec<Sample>, DataError> {
        if let Some(class) = tree.classes.iter().find(|class| !self.classes.contains(&class.name)) {
            let known: Vec<&str> = self.classes.iter().map(String::as_str).collect();
            let hint = twin_of(&class.name, &self.classes)
                .map(|(twin, difference)| format!("; it differs from {twin:?} in {difference}"));
            return Err(DataError::UnknownClass {
                class: class.name.clone(),
                folder: tree.path.clone(),
                known: shortened(&known),
                hint: hint.unwrap_or_default(),
            });
        }
        if !tree.has_images() {
            self.warnings
                .push(format!("{} has no class folders with images and is not used", tree.path.display()));
            return Ok(Vec::new());
        }
        let mut samples = Vec::with_capacity(tree.images());
        for (label, name) in self.classes.iter().enumerate() {
            let class = tree.classes.iter().find(|class| class.name == *name);
            let images = class.map_or(&[][..], |class| &class.images);
            if images.is_empty() {
                let folder = tree.path.display();
                self.warnings.push(format!(
                    "{folder} has no images of class {name:?}: its accuracy is not measured there"
                ));
            }
            samples.extend(images.iter().map(|path| Sample { path: path.clone(), label }));
        }
        Ok(samples)
    }

    /// Takes from `tree` what the data do not give. `train`: the name of the folder for training, if there is
    /// one.
    fn divide(&mut self, tree: Tree, train: Option<&str>, split: &SplitSpec) -> Result<(), DataError> {
        let mut split = *split;
        if !self.valid.is_empty() {
            split.valid = 0.0;
        }
        if !self.test.is_empty() || !self.valid.is_empty() {
            split.test = 0.0;
        }
        if let Some(train) = train
            && self.valid.is_empty()
            && split.valid > 0.0
        {
            let percent = split.valid * 100.0;
            self.warnings.push(format!(
                "no validation images are given: {percent:.0} % of {train}/ are used for validation"
            ));
        }
        let folder = tree.path;
        let samples = tree.classes.into_iter().enumerate().flat_map(|(label, class)| {
            let unassigned =
                |path: PathBuf| Unassigned { key: key(&path, &folder), sample: Sample { path, label } };
            class.images.into_iter().map(unassigned).collect::<Vec<_>>()
        });
        let splits = split.split(&self.classes, samples.collect())?;
        self.train = splits.train;
        self.valid.extend(splits.valid);
        self.test.extend(splits.test);
        Ok(())
    }
}

/// The path below `folder`, with `/` on every system.
fn key(path: &Path, folder: &Path) -> String {
    let parts = path.strip_prefix(folder).unwrap_or(path).components();
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}
