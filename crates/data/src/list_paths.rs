//! Where the files of a list are.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Folders that paths may be relative to, the likeliest first.
pub(crate) struct Bases(Vec<PathBuf>);

impl Bases {
    /// `root`: what the paths should be relative to; without it, the list's own folder. Then the folders above
    /// those, for paths that begin with the folder's own name, and the working folder.
    pub fn of(list: &Path, root: Option<&Path>) -> Bases {
        let own = list.parent().unwrap_or(Path::new(""));
        let mut bases: Vec<PathBuf> = Vec::new();
        let folders = root.into_iter().chain([own]);
        for base in folders.flat_map(|folder| [folder.to_path_buf(), above(folder)]).chain([PathBuf::new()]) {
            if !bases.contains(&base) {
                bases.push(base);
            }
        }
        Bases(bases)
    }

    /// Whether any of the folders has the file.
    pub fn have(&self, path: &str) -> bool {
        self.0.iter().any(|base| file(base, path).is_some())
    }

    /// The first folder that has all of the files, or else the most of them; and whether it is the first choice.
    pub fn best(&self, paths: &[&str]) -> Base {
        let mut best: Option<Base> = None;
        for (index, folder) in self.0.iter().enumerate() {
            let files: Vec<Option<PathBuf>> = paths.iter().map(|path| file(folder, path)).collect();
            let missing: Vec<usize> = (0..files.len()).filter(|i| files[*i].is_none()).collect();
            let is_complete = missing.is_empty();
            if best.as_ref().is_none_or(|best| missing.len() < best.missing.len()) {
                best = Some(Base {
                    folder: folder.clone(),
                    is_expected: index == 0,
                    missing,
                    files,
                    hint: None,
                });
            }
            if is_complete {
                break;
            }
        }
        let mut best = best.unwrap_or_default();
        best.hint = hint(&best, paths);
        best
    }
}

/// A folder with the files of a list.
#[derive(Default)]
pub(crate) struct Base {
    pub folder: PathBuf,
    pub is_expected: bool,
    /// Of each path, the file.
    pub files: Vec<Option<PathBuf>>,
    /// Indices of those that are not there.
    pub missing: Vec<usize>,
    /// What may help.
    pub hint: Option<&'static str>,
}

fn hint(base: &Base, paths: &[&str]) -> Option<&'static str> {
    let missing = || base.missing.iter().map(|i| paths[*i]);
    missing().next()?;
    let is_absolute = |path: &str| path.starts_with(['/', '\\']) || path.get(1..3) == Some(":\\");
    if missing().all(is_absolute) {
        return Some("they are paths of another computer: write them relative to the list");
    }
    let jpeg = |path: &str| file(&base.folder, &format!("{path}.jpg")).is_some();
    missing().all(jpeg).then_some("they are there with the ending .jpg: add it in the list")
}

/// The file at a path of a list; `\` separates folders where no name contains it.
fn file(base: &Path, path: &str) -> Option<PathBuf> {
    let file = base.join(path);
    if file.is_file() {
        return Some(file);
    }
    let file = base.join(path.contains('\\').then(|| path.replace('\\', "/"))?);
    file.is_file().then_some(file)
}

fn above(folder: &Path) -> PathBuf {
    match folder.parent() {
        Some(parent) if folder.file_name().is_some() => parent.into(),
        _ => folder.join(".."),
    }
}

/// What a file is known by: `./a.jpg`, `a.jpg` and `b/../a.jpg` are one.
pub(crate) fn identity(file: &Path) -> PathBuf {
    if file.components().any(|part| part == Component::ParentDir)
        && let Ok(real) = fs::canonicalize(file)
    {
        return real;
    }
    let path: PathBuf = file.components().filter(|part| *part != Component::CurDir).collect();
    std::path::absolute(&path).unwrap_or(path)
}
