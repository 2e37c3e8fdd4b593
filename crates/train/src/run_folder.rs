//! A run is a folder: all that is needed to go on with a training, and to know afterwards what it was.
//!
//! | file | |
//! |---|---|
//! | `config.toml` | the whole configuration, as it was resolved |
//! | `about.json` | versions, weights, what was grafted, how the photos were read |
//! | `ledger.jsonl` | every photo: split, label, hash, faults; at the end what the network says of it |
//! | `metrics.jsonl` | a line an epoch |
//! | `state.safetensors` | the trainer at rest and how far it is |
//! | `best.safetensors` | the checkpoint of the best epoch |
//! | `last.safetensors` | the checkpoint of the last one |
//! | `head/` | where the head is found first: metrics, state and checkpoints of that; `last.safetensors` is what training goes on from |
//!
//! Every file is written whole or not at all, and the state after the checkpoint that it speaks of, so that a run may be killed at
//! any moment.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use engraft_engine::Snapshot;
use engraft_tensor::{ReadError, StateDict, WriteError, read_metadata, write_atomically};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Checkpoint, Epoch, LedgerEntry, Progress, TrainError};

const CONFIG: &str = "config.toml";
const ABOUT: &str = "about.json";
const LEDGER: &str = "ledger.jsonl";
const METRICS: &str = "metrics.jsonl";
const STATE: &str = "state.safetensors";
const BEST: &str = "best.safetensors";
const LAST: &str = "last.safetensors";
const HEAD: &str = "head";

/// The key of the progress in the metadata of the state.
const PROGRESS: &str = "progress";

/// The folder of a run. No other process can have it at the same time.
pub struct RunFolder {
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

impl RunFolder {
    /// Begins a run with this configuration in a folder that is not there yet, or is empty.
    ///
    /// # Errors
    /// When there is a run already, or the folder cannot be made.
    pub fn create(path: &Path, config: &str) -> Result<Self, TrainError> {
        let failed = |error| TrainError::from(WriteError::new(path, error));
        if path.join(CONFIG).exists() {
            return Err(TrainError::RunExists { path: path.into() });
        }
        fs::create_dir_all(path).map_err(failed)?;
        if fs::read_dir(path).map_err(failed)?.next().is_some() {
            return Err(TrainError::RunExists { path: path.into() });
        }
        let lock = lock(path)?;
        write_text(&path.join(CONFIG), config)?;
        Ok(Self { path: path.into(), _lock: lock })
    }

    /// The run in a folder, to go on with it.
    ///
    /// # Errors
    /// When there is none, or another process has it.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        if !path.join(CONFIG).is_file() {
            return Err(TrainError::NoRun { path: path.into() });
        }
        let lock = lock(path)?;
        let folder = Self { path: path.into(), _lock: lock };
        folder.remove_leftovers();
        Ok(folder)
    }

    /// The folder within it of a head that is found first.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn of_head(&self) -> Result<Self, TrainError> {
        let path = self.path.join(HEAD);
        fs::create_dir_all(&path).map_err(|error| WriteError::new(&path, error))?;
        let folder = Self { _lock: lock(&path)?, path };
        folder.remove_leftovers();
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the checkpoint of the best epoch is.
    pub fn best_path(&self) -> PathBuf {
        self.path.join(BEST)
    }

    /// Where the ledger is.
    pub fn ledger_path(&self) -> PathBuf {
        self.path.join(LEDGER)
    }

    /// The configuration.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn config(&self) -> Result<String, TrainError> {
        let path = self.path.join(CONFIG);
        fs::read_to_string(&path).map_err(|error| TrainError::run(&path, error))
    }

    /// Replaces the configuration: the run goes on by another.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, config: &str) -> Result<(), TrainError> {
        write_text(&self.path.join(CONFIG), config)
    }

    /// Writes what the run is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_about(&self, about: &impl Serialize) -> Result<(), TrainError> {
        let text = serde_json::to_string_pretty(about).map_err(TrainError::describe)?;
        write_text(&self.path.join(ABOUT), &(text + "\n"))
    }

    /// Writes the ledger.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_ledger<'a>(
        &self,
        entries: impl IntoIterator<Item = &'a LedgerEntry>,
    ) -> Result<(), TrainError> {
        let mut entries = entries.into_iter();
        let written = write_atomically(&self.ledger_path(), |file| {
            entries.try_for_each(|entry| {
                serde_json::to_writer(&mut *file, entry)?;
                file.write_all(b"\n")
            })
        });
        Ok(written?)
    }

    /// The ledger, or `None` if the run ended before there was one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn ledger(&self) -> Result<Option<Vec<LedgerEntry>>, TrainError> {
        read_lines(&self.ledger_path())
    }

    /// Adds the metrics of an epoch.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn append_metrics(&self, epoch: &Epoch) -> Result<(), TrainError> {
        let path = self.path.join(METRICS);
        let mut line = serde_json::to_vec(epoch).map_err(TrainError::describe)?;
        line.push(b'\n');
        let append = || File::options().create(true).append(true).open(&path)?.write_all(&line);
        append().map_err(|error| WriteError::new(&path, error).into())
    }

    /// Forgets the metrics of later epochs, as they will be measured again; also half a line that a kill left.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn keep_metrics(&self, epochs: usize) -> Result<(), TrainError> {
        let path = self.path.join(METRICS);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text.map_err(|error| TrainError::run(&path, error))?,
        };
        let is_kept =
            |line: &&str| serde_json::from_str::<Epoch>(line).is_ok_and(|epoch| epoch.epoch <= epochs);
        let kept: String = text.lines().filter(is_kept).flat_map(|line| [line, "\n"]).collect();
        match kept == text {
            true => Ok(()),
            false => write_text(&path, &kept),
        }
    }

    /// Writes a training at rest. A checkpoint that its progress speaks of is written before.
    ///
    /// # Errors
    /// When the disk is full: the state before stays.
    pub fn save_state(&self, snapshot: Snapshot, progress: &Progress) -> Result<(), TrainError> {
        let progress = serde_json::to_string(progress).map_err(TrainError::describe)?;
        let metadata = BTreeMap::from([(PROGRESS.to_string(), progress)]);
        Ok(snapshot.into_state_dict().write_safetensors(&self.path.join(STATE), &metadata)?)
    }

    /// The training at rest, or `None` if nothing was saved yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn state(&self) -> Result<Option<(Snapshot, Progress)>, TrainError> {
        let path = self.path.join(STATE);
        let damaged = |reason: String| TrainError::DamagedRun { path: path.clone(), reason };
        let dict = match StateDict::read_safetensors(&path) {
            Err(ReadError::Missing { .. }) => return Ok(None),
            dict => dict.map_err(|error| damaged(error.to_string()))?,
        };
        let metadata = read_metadata(&path).map_err(|error| damaged(error.to_string()))?;
        let progress = metadata.get(PROGRESS).map(String::as_str).unwrap_or_default();
        let progress = serde_json::from_str(progress).map_err(|error| damaged(error.to_string()))?;
        Ok(Some((Snapshot::from_state_dict(dict)?, progress)))
    }

    /// Writes the checkpoint of the best epoch.
    ///
    /// # Errors
    /// When the disk is full: the one before stays.
    pub fn save_best(&self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        checkpoint.write(&self.best_path())
    }

    /// Writes the checkpoint of the last epoch.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn save_last(&self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        checkpoint.write(&self.path.join(LAST))
    }

    /// The checkpoint of the best epoch, or `None` if no epoch was finished.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn best(&self) -> Result<Option<Checkpoint>, TrainError> {
        read_checkpoint(&self.best_path())
    }

    /// The checkpoint of the last epoch, or `None` if training is not over.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn last(&self) -> Result<Option<Checkpoint>, TrainError> {
        read_checkpoint(&self.path.join(LAST))
    }

    /// What a kill left under temporary names. Files of that kind are written by who has the lock alone.
    fn remove_leftovers(&self) {
        let is_leftover = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(".engraft-") && name.ends_with(".part")
        };
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if is_leftover(&entry.path()) {
                // It does no harm if it stays.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn read_checkpoint(path: &Path) -> Result<Option<Checkpoint>, TrainError> {
    match Checkpoint::read(path) {
        Err(TrainError::MissingCheckpoint { .. }) => Ok(None),
        checkpoint => checkpoint.map(Some),
    }
}

/// A lock on the folder, which ends with the process.
fn lock(path: &Path) -> Result<File, TrainError> {
    let file = path.join(".lock");
    let open = || File::options().create(true).truncate(false).write(true).open(&file);
    let lock = open().map_err(|error| WriteError::new(&file, error))?;
    match lock.try_lock() {
        // A file system without locks cannot tell.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(TrainError::RunInUse { path: path.into() }),
    }
}

fn write_text(path: &Path, text: &str) -> Result<(), TrainError> {
    Ok(write_atomically(path, |file| file.write_all(text.as_bytes()))?)
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Option<Vec<T>>, TrainError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| TrainError::run(path, error))?,
    };
    let mut entries = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|error| TrainError::run(path, error))?;
        let entry = serde_json::from_str(&line)
            .map_err(|error| TrainError::DamagedRun { path: path.into(), reason: error.to_string() })?;
        entries.push(entry);
    }
    Ok(Some(entries))
}
