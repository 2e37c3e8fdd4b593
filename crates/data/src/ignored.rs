//! Files and folders that are found and not used, named one by one or many alike in one sentence.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// How many files a sentence about many names.
const NAMED: usize = 3;

/// A file or a folder that was found, but is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    pub reason: Reason,
}

/// Why a file or a folder is not used. Written, it is half a sentence about it: "is hidden".
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The ending of its name, in lower case and without the dot, is that of no image; empty: it has none.
    NoImage(String),
    /// An image or another file where only folders are looked at.
    Outside,
    /// A folder or an image whose name begins with a dot.
    Hidden,
    /// A folder that a system keeps for itself: `@eaDir`, `__MACOSX`, `#recycle`.
    System,
    /// A folder beside those of the splits, and how many images are in it.
    Beside(usize),
    /// A link to an image or to a folder that the class has already.
    Again,
    /// A pipe, a socket or a device.
    NoFile,
    /// It cannot be read, or is a link that leads nowhere.
    Unreadable,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoImage(ending) if ending == "gif" => f.write_str(
                "is a GIF, which torchvision's ImageFolder passes over too: to use it, convert it to PNG or name it in a CSV list",
            ),
            Reason::NoImage(ending) if ending.is_empty() => {
                f.write_str("is no image by its name, which has no ending")
            }
            Reason::NoImage(ending) => write!(f, "is no image by its name (.{ending})"),
            Reason::Outside => f.write_str("lies outside the class folders"),
            Reason::Hidden => f.write_str("is hidden"),
            Reason::System => f.write_str("is a folder that a system keeps for itself"),
            Reason::Beside(images) => write!(f, "lies beside the splits, with {images} images"),
            Reason::Again => f.write_str("is a link to what the class has already"),
            Reason::NoFile => f.write_str("is no regular file"),
            Reason::Unreadable => f.write_str("cannot be read, or is a link that leads nowhere"),
        }
    }
}

impl Reason {
    /// What several are, and the same half sentence about them.
    fn of_many(&self) -> (&'static str, String) {
        match self {
            Reason::NoImage(ending) if ending.is_empty() => {
                ("files", "are no images by their names, which have no ending".into())
            }
            Reason::NoImage(ending) if ending == "gif" => {
                ("files", "are GIFs, which torchvision's ImageFolder passes over too".into())
            }
            Reason::NoImage(ending) => ("files", format!("are no images by their names (.{ending})")),
            Reason::Outside => ("files", "lie outside the class folders".into()),
            Reason::Hidden => ("files or folders", "are hidden".into()),
            Reason::System => ("folders", "are such as a system keeps for itself".into()),
            Reason::Beside(images) => {
                ("folders", format!("lie beside the splits, with {images} images each"))
            }
            Reason::Again => ("files or folders", "are links to what their class has already".into()),
            Reason::NoFile => ("things", "are no regular files".into()),
            Reason::Unreadable => ("files", "cannot be read, or are links that lead nowhere".into()),
        }
    }
}

/// Sentences about what is not used, one for each reason: a single file by its path below `root`, many alike by
/// their number and the first names. "300 files are not used: they are no images by their names (.heic):
/// IMG_1.heic, IMG_2.heic, IMG_3.heic, ..."
pub fn condensed(ignored: &[Ignored], root: &Path) -> Vec<String> {
    let mut groups: Vec<(&Reason, Vec<&Path>)> = Vec::new();
    let mut place: HashMap<&Reason, usize> = HashMap::new();
    for Ignored { path, reason } in ignored {
        let group = *place.entry(reason).or_insert_with(|| {
            groups.push((reason, Vec::new()));
            groups.len() - 1
        });
        groups[group].1.push(path.strip_prefix(root).unwrap_or(path));
    }
    let sentence = |(reason, paths): (&Reason, Vec<&Path>)| match paths[..] {
        [path] => format!("{} is not used: it {reason}", path.display()),
        _ => {
            let names: Vec<String> =
                paths.iter().take(NAMED).map(|path| path.display().to_string()).collect();
            let more = if paths.len() > NAMED { ", ..." } else { "" };
            let (what, reason) = reason.of_many();
            format!("{} {what} are not used: they {reason}: {}{more}", paths.len(), names.join(", "))
        }
    };
    groups.into_iter().map(sentence).collect()
}
