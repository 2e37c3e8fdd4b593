//! Which folders are splits and which are classes. Where two readings are possible, neither is taken.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::ignored::{Ignored, Reason};
use crate::split_name::{Part, SplitName};
use crate::walk::{Listing, extension, images_below, list};

/// A class folder with its images, sorted.
pub(crate) struct Class {
    pub name: String,
    pub path: PathBuf,
    pub images: Vec<PathBuf>,
}

/// A folder of class folders.
pub(crate) struct Tree {
    pub path: PathBuf,
    pub classes: Vec<Class>,
    /// Files beside the class folders that may be lists of labels.
    pub lists: Vec<PathBuf>,
    pub ignored: Vec<Ignored>,
}

impl Tree {
    fn scan(folder: &Path) -> Result<Tree, DataError> {
        let mut ignored = Vec::new();
        let listing = list(folder, &mut ignored)?;
        Tree::of(folder, listing, ignored)
    }

    fn of(folder: &Path, listing: Listing, ignored: Vec<Ignored>) -> Result<Tree, DataError> {
        let mut tree = Tree { path: folder.into(), classes: Vec::new(), lists: Vec::new(), ignored };
        for path in listing.folders {
            let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
                return Err(DataError::NameNotText { path });
            };
            let found = images_below(&path)?;
            tree.ignored.extend(found.ignored);
            tree.classes.push(Class { name, path, images: found.images });
        }
        tree.set_aside(listing.files);
        Ok(tree)
    }

    fn set_aside(&mut self, files: Vec<PathBuf>) {
        for path in files {
            if ["csv", "tsv", "xls", "xlsx", "ods"].contains(&extension(&path).as_str()) {
                self.lists.push(path);
            } else {
                self.ignored.push(Ignored { path, reason: Reason::Outside });
            }
        }
    }

    /// As [`scan`](Tree::scan), but from `training_set/` through to `training_set/training_set/`, where archives
    /// were unpacked into folders of their own names.
    fn scan_split(folder: &Path, part: Part) -> Result<Tree, DataError> {
        let tree = Tree::scan(folder)?;
        let [class] = &tree.classes[..] else { return Ok(tree) };
        if SplitName::of(&class.name).is_none_or(|name| name.part != part) {
            return Ok(tree);
        }
        let inner = Tree::scan(&class.path)?;
        if !inner.has_images() {
            return Ok(tree);
        }
        let ignored = tree.ignored.into_iter().filter(|ignored| !ignored.path.starts_with(&inner.path));
        Ok(Tree { ignored: ignored.chain(inner.ignored).collect(), ..inner })
    }

    /// In class folders.
    pub fn has_images(&self) -> bool {
        self.classes.iter().any(|class| !class.images.is_empty())
    }

    pub fn images(&self) -> usize {
        self.classes.iter().map(|class| class.images.len()).sum()
    }
}

/// A folder that is a split, by its name as it stands there.
pub(crate) struct SplitFolder {
    pub part: Part,
    pub name: String,
    pub tree: Tree,
}

/// How a folder is to be read.
pub(crate) enum Layout {
    /// One folder a class.
    Classes(Tree),
    /// One folder a split. The first is for training; no part occurs twice.
    Splits {
        folders: Vec<SplitFolder>,
        /// What lies beside them: nothing in it is used.
        beside: Tree,
    },
}

impl Layout {
    pub fn of(root: &Path) -> Result<Layout, DataError> {
        let mut ignored = Vec::new();
        let listing = list(root, &mut ignored)?;
        let named = split_folders(&listing.folders);
        if named.is_empty() {
            let tree = Tree::of(root, listing, ignored)?;
            refuse_splits_below(&tree)?;
            return Ok(Layout::Classes(tree));
        }
        let mut folders = Vec::new();
        for (part, path) in &named {
            let name = file_name(path);
            folders.push(SplitFolder { part: *part, name, tree: Tree::scan_split(path, *part)? });
        }
        folders.sort_by_key(|folder| folder.part);
        if let Some(pair) = folders.windows(2).find(|pair| pair[0].part == pair[1].part) {
            let [first, second] = [&pair[0], &pair[1]].map(|folder| folder.name.clone());
            return Err(DataError::TwoFolders { path: root.into(), first, second });
        }

        let mut beside = Tree { path: root.into(), classes: Vec::new(), lists: Vec::new(), ignored };
        beside.set_aside(listing.files);
        let mut others = Vec::new();
        for path in listing.folders {
            if folders.iter().any(|folder| path == root.join(&folder.name)) {
                continue;
            }
            if is_link_to_one_of(&path, &named) {
                beside.ignored.push(Ignored { path, reason: Reason::Again });
                continue;
            }
            let images = images_below(&path)?.images.len();
            if images > 0 {
                others.push((file_name(&path), images));
            }
            beside.ignored.push(Ignored { path, reason: Reason::Beside(images) });
        }
        decide(root, &folders, &others)?;
        Ok(Layout::Splits { folders, beside })
    }
}

/// The folders that are called like splits, each real folder once.
fn split_folders(folders: &[PathBuf]) -> Vec<(Part, PathBuf)> {
    let name = |path: &PathBuf| Some((SplitName::of(path.file_name()?.to_str()?)?, path.clone()));
    let names: Vec<(SplitName, PathBuf)> = folders.iter().filter_map(name).collect();
    // `seg_train` is one if there is `seg_test`.
    let is_paired = |name: &SplitName| {
        let same = || names.iter().filter(|(other, _)| other.rest == name.rest);
        same().any(|(other, _)| other.part == Part::Train)
            && same().any(|(other, _)| other.part != Part::Train)
    };
    let mut found: Vec<(Part, PathBuf)> = Vec::new();
    for (name, path) in &names {
        let is_new = !found.iter().any(|(part, other)| *part == name.part && is_same(path, other));
        if is_new && (name.plain || is_paired(name)) {
            found.push((name.part, path.clone()));
        }
    }
    found
}

fn is_link_to_one_of(path: &Path, named: &[(Part, PathBuf)]) -> bool {
    path.is_symlink() && named.iter().any(|(_, other)| is_same(path, other))
}

fn is_same(path: &Path, other: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|path| fs::canonicalize(other).is_ok_and(|other| path == other))
}

/// Refuses splits that may as well be classes. `others`: folders with images that are no splits by their names.
fn decide(root: &Path, folders: &[SplitFolder], others: &[(String, usize)]) -> Result<(), DataError> {
    let names: Vec<String> = folders.iter().map(|folder| format!("{}/", folder.name)).collect();
    let Some(train) = folders.first().filter(|folder| folder.part == Part::Train) else {
        if others.is_empty() {
            return Err(DataError::NoTrain { path: root.into(), found: names.join(", ") });
        }
        let splits = format!("{} as a split, and no folder for training", names.join(", "));
        let remedy = format!(
            "if {} belongs to a split, put the other folders into a folder train/; if it is a class, rename it, or put all class folders into a folder train/",
            names[0]
        );
        return Err(two_readings(root, folders, others, splits, remedy));
    };
    let rest = || others.iter().map(|(name, _)| format!("{name}/")).collect::<Vec<_>>().join(", ");
    if !train.tree.has_images() {
        if !others.is_empty() {
            let splits = format!("{} for training, but without class folders", names[0]);
            let remedy = format!(
                "if {0} is a class, rename it, or put all class folders into a folder train/; if it is the training set, put its images into class folders and {1} elsewhere",
                names[0],
                rest()
            );
            return Err(two_readings(root, folders, others, splits, remedy));
        }
        if train.tree.classes.is_empty() {
            return Err(DataError::no_classes(&train.tree));
        }
    }
    let agrees = |folder: &SplitFolder| {
        let mut classes = folder.tree.classes.iter().filter(|class| !class.images.is_empty()).peekable();
        classes.peek().is_some()
            && classes.all(|class| train.tree.classes.iter().any(|known| known.name == class.name))
    };
    // Two folders with the same classes in them are splits, whatever lies beside them.
    if !others.is_empty() && !folders.iter().skip(1).any(agrees) {
        let splits = format!("{}, and {} not used", names.join(", "), rest());
        let remedy = format!(
            "if {0} is the training set, put {1} into it or elsewhere; if it is a class, rename it, or put all class folders into a folder train/",
            names[0],
            rest()
        );
        return Err(two_readings(root, folders, others, splits, remedy));
    }
    Ok(())
}

fn two_readings(
    root: &Path,
    folders: &[SplitFolder],
    others: &[(String, usize)],
    splits: String,
    remedy: String,
) -> DataError {
    let as_classes = folders.iter().map(|folder| &folder.name).chain(others.iter().map(|(name, _)| name));
    let mut classes: Vec<&str> = as_classes.map(String::as_str).collect();
    classes.sort_unstable();
    DataError::TwoReadings { path: root.into(), splits, classes: shortened(&classes), remedy }
}

/// `cats/train/1.jpg`, `cats/test/1.jpg`: read as classes alone, what was kept for the test is trained on.
fn refuse_splits_below(tree: &Tree) -> Result<(), DataError> {
    if tree.classes.len() < 2 {
        return Ok(());
    }
    for class in &tree.classes {
        let mut parts: Vec<(Part, String)> = Vec::new();
        for image in &class.images {
            let below = image.strip_prefix(&class.path).ok().and_then(|below| below.parent());
            let first = below.and_then(|below| below.iter().next()).and_then(|name| name.to_str());
            if let Some(name) = first
                && let Some(SplitName { part, plain: true, .. }) = SplitName::of(name)
                && !parts.iter().any(|(known, _)| *known == part)
            {
                parts.push((part, format!("{}/{name}/", class.name)));
            }
        }
        if parts.len() > 1 && parts.iter().any(|(part, _)| *part == Part::Train) {
            let found = parts.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(", ");
            return Err(DataError::SplitsBelow { path: tree.path.clone(), found, class: class.name.clone() });
        }
    }
    Ok(())
}

impl DataError {
    /// There are no class folders in `tree`; perhaps there is a list, or a single folder too many.
    pub(crate) fn no_classes(tree: &Tree) -> DataError {
        DataError::NoClasses { folder: tree.path.clone(), list: tree.lists.first().cloned() }
    }

    /// There is one class in `tree`; perhaps it is the folder that was meant.
    pub(crate) fn one_class(tree: &Tree, class: &Class) -> DataError {
        let inside = fs::read_dir(&class.path).map_or_else(
            |_| Vec::new(),
            |entries| {
                let folders =
                    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir());
                let mut names: Vec<String> = folders
                    .filter(|path| class.images.iter().any(|image| image.starts_with(path)))
                    .map(|path| file_name(&path))
                    .collect();
                names.sort();
                names
            },
        );
        if inside.len() < 2 {
            return DataError::OneClass { class: class.name.clone() };
        }
        DataError::Wrapped {
            path: tree.path.clone(),
            inner: class.path.clone(),
            found: shortened(&inside.iter().map(String::as_str).collect::<Vec<_>>()),
        }
    }
}

/// How many names a message has.
const SHOWN: usize = 10;

/// The names, or the first of many.
pub(crate) fn shortened(names: &[&str]) -> String {
    match names.get(..SHOWN) {
        Some(first) if names.len() > SHOWN => format!("{}, ... ({})", first.join(", "), names.len()),
        _ => names.join(", "),
    }
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
