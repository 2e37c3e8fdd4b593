//! Published weights: found in a cache, or downloaded into one.

use engraft_tensor::WriteError;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, thread};

use crate::part_file::PartFile;
use crate::request::{Failure, Requests};
use crate::{WeightsError, WeightsFolders};

/// A weights file that somebody published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it can be downloaded.
    pub url: String,
    /// Its name in PyTorch's cache, in ours and on a mirror: `resnet18-f37072fd.pth`.
    pub file_name: String,
    /// The first hexadecimal digits of its SHA-256, at least one, in lower case: `f37072fd`.
    pub sha256_prefix: String,
}

/// What happens while a file is downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Bytes arrived.
    Bytes {
        /// How many there are, those of an earlier run included.
        so_far: u64,
        /// How many there will be, where the server says so.
        total: Option<u64>,
    },
    /// A sentence for the user: why it is waited.
    Waiting(String),
}

/// Finds published weights, or downloads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloads {
    /// Where files are looked for.
    pub folders: WeightsFolders,
    /// What serves the files in place of their publishers, by name: the URL of a folder (`https://...`), or a
    /// folder on this machine (`file:///...` or a path), whose files are used where they are.
    pub mirror: Option<String>,
    /// How long no byte may arrive until the connection counts as broken.
    pub stall: Duration,
    /// How long to wait before each new attempt; after the last the download fails. An attempt that brought
    /// bytes begins the list anew.
    pub pauses: Vec<Duration>,
}

/// The file of `source`, as the environment has it; see [`Downloads::from_env`] and
/// [`Downloads::find_or_download`].
pub fn find_or_download(source: &Source, progress: impl FnMut(Progress)) -> Result<PathBuf, WeightsError> {
    Downloads::from_env().find_or_download(source, progress)
}

impl Downloads {
    /// Folders as [`WeightsFolders::from_env`] has them, the mirror that `$ENGRAFT_WEIGHTS_MIRROR` names, 30
    /// seconds of patience with a silent server, and three new attempts after 1, 3 and 10 seconds.
    pub fn from_env() -> Self {
        let mirror = env::var_os("ENGRAFT_WEIGHTS_MIRROR").filter(|mirror| !mirror.is_empty());
        Self {
            folders: WeightsFolders::from_env(),
            mirror: mirror.map(|mirror| mirror.to_string_lossy().into_owned()),
            stall: Duration::from_secs(30),
            pauses: [1, 3, 10].map(Duration::from_secs).to_vec(),
        }
    }

    /// The file of `source`: from PyTorch's cache, else from Engraft's, else from a mirror that is a folder,
    /// else downloaded into Engraft's cache.
    ///
    /// A file that is there is taken as it is: caches and mirrors hold complete files, and reading detects one
    /// that somebody cut short. A download is written to `<name>.part`, which stays when it breaks off; this
    /// call and later ones continue it if the server can (`Range`, RFC 9110). The SHA-256 of the whole file is
    /// compared with the published one before the file gets its name; so a part that the server has changed
    /// since, or that a crash damaged, is noticed, and the download begins anew. One process at a time
    /// downloads a file, the others wait for it. The proxy is that of the environment (`ALL_PROXY`,
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
    ///
    /// # Errors
    /// When the file can neither be downloaded nor written, and when what arrived has another hash: then it is
    /// deleted. A broken connection, a server that stalls and the answers 408, 429 and 5xx are errors only when
    /// all attempts failed; a server that was never reached, at once.
    pub fn find_or_download(
        &self,
        source: &Source,
        mut progress: impl FnMut(Progress),
    ) -> Result<PathBuf, WeightsError> {
        let ours = self.folders.engraft.join(&source.file_name);
        let mirror = self.mirror.as_deref().map(Mirror::new);
        let mirrored = match &mirror {
            Some(Mirror::Folder(folder)) => Some(folder.join(&source.file_name)),
            _ => None,
        };
        let places = [Some(self.folders.torch.join(&source.file_name)), Some(ours.clone()), mirrored.clone()];
        if let Some(found) = places.into_iter().flatten().find(|path| path.is_file()) {
            return Ok(found);
        }
        if let Some(path) = mirrored {
            let reason = format!("the mirror has no file {}", path.display());
            return Err(failed(&source.url, reason, &ours));
        }
        let url = match mirror {
            Some(Mirror::Url(base)) => format!("{base}/{}", source.file_name),
            _ => source.url.clone(),
        };
        fs::create_dir_all(&self.folders.engraft).map_err(|error| WriteError::new(&ours, error))?;
        let text = format!("another process is downloading {}; waiting for it", source.file_name);
        let part = PartFile::open(&ours, || progress(Progress::Waiting(text.clone())))?;
        if let Some(mut part) = part {
            self.fill(&mut part, &url, &source.sha256_prefix, progress)?;
            part.commit()?;
        }
        Ok(ours)
    }

    /// Completes `part`, and checks that it is the file that was published.
    fn fill(
        &self,
        part: &mut PartFile,
        url: &str,
        sha256_prefix: &str,
        mut progress: impl FnMut(Progress),
    ) -> Result<(), WeightsError> {
        let is_right = |part: &PartFile| part.sha256().starts_with(sha256_prefix);
        if part.len() > 0 && is_right(part) {
            return Ok(());
        }
        let mut may_begin_anew = true;
        loop {
            let is_continued = self.receive(part, url, &mut progress)?;
            if is_right(part) {
                return Ok(());
            }
            let actual = part.sha256().chars().take(sha256_prefix.len()).collect();
            part.restart()?;
            if !(is_continued && may_begin_anew) {
                return Err(WeightsError::WrongHash {
                    url: url.to_string(),
                    expected: sha256_prefix.to_string(),
                    actual,
                    destination: part.destination().to_path_buf(),
                });
            }
            may_begin_anew = false;
        }
    }

    /// Requests the file until the server says that all of it is there. Returns whether the last
    /// request continued a part.
    fn receive(
        &self,
        part: &mut PartFile,
        url: &str,
        progress: &mut impl FnMut(Progress),
    ) -> Result<bool, WeightsError> {
        let requests = Requests::new(self.stall);
        let mut pauses = self.pauses.iter();
        let mut longest = part.len();
        let mut was_reached = false;
        loop {
            let bytes = |so_far, total| progress(Progress::Bytes { so_far, total });
            let (reason, may_recover) = match requests.complete(url, part, bytes) {
                Ok(is_continued) => return Ok(is_continued),
                Err(Failure::Write(error)) => return Err(error.into()),
                Err(Failure::Final(reason)) => (reason, false),
                Err(Failure::Unreachable(reason)) => (reason, was_reached),
                Err(Failure::Transient(reason)) => (reason, true),
            };
            was_reached = may_recover;
            if part.len() > longest {
                longest = part.len();
                pauses = self.pauses.iter();
            }
            match pauses.next() {
                Some(pause) if may_recover => {
                    let seconds = pause.as_secs_f64();
                    let text = format!("{url}: {reason}; trying again in {seconds} seconds");
                    progress(Progress::Waiting(text));
                    thread::sleep(*pause);
                }
                _ => return Err(failed(url, reason, part.destination())),
            }
        }
    }
}

/// See [`Downloads::mirror`].
enum Mirror {
    /// Without a slash at the end.
    Url(String),
    Folder(PathBuf),
}

impl Mirror {
    fn new(text: &str) -> Self {
        match text.strip_prefix("file://") {
            Some(path) => Self::Folder(path.into()),
            None if text.contains("://") => Self::Url(text.trim_end_matches('/').to_string()),
            None => Self::Folder(text.into()),
        }
    }
}

fn failed(url: &str, reason: String, destination: &Path) -> WeightsError {
    WeightsError::Download { url: url.to_string(), reason, destination: destination.to_path_buf() }
}
