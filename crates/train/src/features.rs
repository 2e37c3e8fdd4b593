//! What is known of photos before training: whether each can be used, and its features, computed once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use engraft_data::{Batch, Batches, Content, ContentHash, Failed, Known, Notes, Picture, Transform};
use rayon::prelude::*;

use crate::cache_size::free_disk;
use crate::index::{Index, Photo};
use crate::store::{FeatureStore, Row};
use crate::{Frozen, TrainError};

/// The index is written as often as this.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// `stop` is looked at as often as this.
const PATIENCE: Duration = Duration::from_millis(100);

/// Rows that are looked up between two looks at `stop`.
const ROWS: usize = 1 << 12;

/// Features of a photo that are smaller are what a head sees, which a solver reads many times: where the cache has no room for them, they go
/// elsewhere as long as the process runs.
const SMALL_ROW: u64 = 1 << 16;

/// What share of the free disk is taken without a word.
const QUIET_SHARE: u64 = 10;

/// Photos that are to be known, and what for.
pub struct Extraction<'a> {
    /// The files.
    pub paths: &'a [PathBuf],
    /// How a photo becomes an input.
    pub transform: &'a Transform,
    /// What is known of files already.
    pub index: &'a mut Index,
    /// What computes features, and where they go; `None` to know no more than whether photos can be used.
    pub frozen: Option<(&'a Frozen, &'a mut FeatureStore)>,
}

/// What is known of photos, in the order of the paths.
#[derive(Debug, Default)]
pub struct Photos {
    /// What the files hash to; `None` for those that cannot be read.
    pub hashes: Vec<Option<ContentHash>>,
    /// What the photos' pixels do not show.
    pub notes: Vec<Notes>,
    /// Where their features are: nowhere for photos that cannot be used, and for all if no features are kept.
    pub rows: Vec<Row>,
    /// Why photos cannot be used, as a sentence that begins with the path.
    pub faults: BTreeMap<usize, String>,
    /// How many photos' features were in the store before.
    pub cached: usize,
    /// How many files were opened.
    pub opened: usize,
    /// Wall time.
    pub seconds: f64,
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum ExtractionEvent<'a> {
    /// So many of the files that must be read are done.
    Progress {
        /// Files done.
        done: usize,
        /// Files to read.
        total: usize,
    },
    /// The features will take more than a tenth of the free disk. It goes on when the call returns; to stop it, set `stop`.
    Large {
        /// What they may take, in bytes.
        bytes: u64,
        /// What is free, in bytes.
        free: u64,
        /// Where.
        folder: &'a Path,
    },
    /// Features are larger than it would take time to compute them again, and are not kept, but computed at each pass.
    NotKept {
        /// Of one photo.
        bytes: u64,
    },
    /// Features are more than the cache may take, and are not kept, but computed at each pass.
    NoRoom {
        /// What they would take, in bytes.
        bytes: u64,
        /// What the cache may take, in bytes.
        bound: u64,
    },
    /// Something that the user should know.
    Warning(&'a str),
}

impl Extraction<'_> {
    /// Looks files up in the index and features in the store, and reads the files and computes the features that are missing there. A file is
    /// read once, and hashed and decoded from the same bytes.
    ///
    /// # Errors
    /// When photos do not fit the network, or `stop` became true, which is heard within a second unless a batch takes longer: what was computed until then is
    /// in index and store.
    pub fn run(
        mut self,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(ExtractionEvent<'_>),
    ) -> Result<Photos, TrainError> {
        let start = Instant::now();
        let mut photos = self.look_up(stop)?;
        let missing = self.missing(&photos);
        photos.opened = missing.len();
        self.announce(missing.len(), observe);
        let result = self.read(&missing, &mut photos, stop, observe);
        if let Some((_, store)) = &mut self.frozen {
            store.end_appending();
        }
        self.flush_index(observe);
        result?;
        photos.seconds = start.elapsed().as_secs_f64();
        Ok(photos)
    }

    fn look_up(&mut self, stop: &AtomicBool) -> Result<Photos, TrainError> {
        let count = self.paths.len();
        let mut photos = Photos {
            hashes: vec![None; count],
            notes: vec![Notes::default(); count],
            rows: vec![Row::NONE; count],
            ..Photos::default()
        };
        for (i, known) in self.index.look_up(self.paths, stop)?.into_iter().enumerate() {
            let Some(known) = known else { continue };
            photos.hashes[i] = Some(known.hash);
            photos.notes[i] = known.notes;
            if let Some(fault) = known.fault {
                photos.faults.insert(i, format!("{}: {fault}", self.paths[i].display()));
            }
        }
        let Some((_, store)) = &self.frozen else { return Ok(photos) };
        let find = |hash: &Option<ContentHash>| {
            hash.and_then(|hash| store.rows().find(&hash)).map_or(Row::NONE, |(row, _)| row)
        };
        for (hashes, rows) in photos.hashes.chunks(ROWS).zip(photos.rows.chunks_mut(ROWS)) {
            rows.par_iter_mut().zip(hashes).for_each(|(row, hash)| *row = find(hash));
            stop_here(stop)?;
        }
        photos.cached = photos.rows.iter().filter(|row| row.is_kept()).count();
        Ok(photos)
    }

    /// The files that must be read.
    fn missing(&self, photos: &Photos) -> Vec<usize> {
        let computes = self.computes();
        let is_missing = |i: &usize| match photos.hashes[*i] {
            None => true,
            Some(_) => computes && !photos.rows[*i].is_kept() && !photos.faults.contains_key(i),
        };
        (0..self.paths.len()).filter(is_missing).collect()
    }

    /// Whether new features are computed now.
    fn computes(&self) -> bool {
        self.frozen.as_ref().is_some_and(|(frozen, store)| frozen.is_worth_keeping() && store.is_keeping())
    }

    fn announce(&mut self, missing: usize, observe: &mut dyn FnMut(ExtractionEvent<'_>)) {
        let Some((frozen, store)) = &mut self.frozen else { return };
        if !frozen.is_worth_keeping() {
            store.keep_nothing_new();
            return observe(ExtractionEvent::NotKept { bytes: frozen.row_bytes() });
        }
        let all = self.paths.len() as u64 * frozen.row_bytes();
        if let Some(bound) = store.bound().filter(|bound| all > *bound)
            && frozen.row_bytes() > SMALL_ROW
        {
            store.keep_nothing_new();
            return observe(ExtractionEvent::NoRoom { bytes: all, bound });
        }
        let bytes = missing as u64 * frozen.row_bytes();
        if let Some(folder) = store.folder()
            && let Some(free) = free_disk(folder)
            && bytes > free / QUIET_SHARE
        {
            observe(ExtractionEvent::Large { bytes, free, folder });
        }
    }

    fn read(
        &mut self,
        missing: &[usize],
        photos: &mut Photos,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(ExtractionEvent<'_>),
    ) -> Result<(), TrainError> {
        stop_here(stop)?;
        if missing.is_empty() {
            return Ok(());
        }
        let mut done = 0;
        let mut last_flush = Instant::now();
        observe(ExtractionEvent::Progress { done, total: missing.len() });
        let batches = self.start_reading(missing);
        while let Some(batch) = next(&batches, stop)? {
            done += batch.paths();
            for Known { index, content } in batch.known {
                // Nothing is deleted of what was found.
                let (row, notes) = self.find(&content).unwrap_or((Row::NONE, Notes::default()));
                let is_new = self.frozen.as_ref().is_some_and(|(_, store)| store.is_new(row));
                photos.cached += usize::from(!is_new);
                self.note(photos, missing[index], content, notes);
                photos.rows[missing[index]] = row;
            }
            for Failed { index, content, error } in batch.failed {
                self.note_fault(photos, missing[index], content, error.to_string());
            }
            for picture in &batch.pictures {
                self.note(photos, missing[picture.index], picture.content, picture.notes);
            }
            if self.computes() && !batch.pictures.is_empty() {
                self.compute(missing, batch.images, &batch.pictures, photos)?;
            }
            if let Some(warning) = self.frozen.as_mut().and_then(|(_, store)| store.take_warning()) {
                observe(ExtractionEvent::Warning(&warning));
            }
            if last_flush.elapsed() >= FLUSH_TIME {
                self.flush_index(observe);
                last_flush = Instant::now();
            }
            observe(ExtractionEvent::Progress { done, total: missing.len() });
            if done < missing.len() {
                stop_here(stop)?;
            }
        }
        Ok(())
    }

    /// Reads the files on threads of their own, of which nobody waits for the last photo after Ctrl-C.
    fn start_reading(&self, missing: &[usize]) -> Receiver<Batch> {
        let paths: Vec<PathBuf> = missing.iter().map(|i| self.paths[*i].clone()).collect();
        let batch = self.frozen.as_ref().map_or(1, |(frozen, _)| frozen.batch());
        let rows = self.frozen.as_ref().map(|(_, store)| store.rows().clone());
        let is_known = move |hash: &ContentHash| rows.as_ref().is_some_and(|rows| rows.find(hash).is_some());
        let batches = Batches::skipping(paths, self.transform.clone(), batch, is_known);
        let (sender, receiver) = sync_channel(0);
        thread::spawn(move || {
            for batch in batches {
                if sender.send(batch).is_err() {
                    break;
                }
            }
        });
        receiver
    }

    fn find(&self, content: &Content) -> Option<(Row, Notes)> {
        self.frozen.as_ref().and_then(|(_, store)| store.rows().find(&content.hash))
    }

    fn compute(
        &mut self,
        missing: &[usize],
        images: Vec<f32>,
        pictures: &[Picture],
        photos: &mut Photos,
    ) -> Result<(), TrainError> {
        let Some((frozen, store)) = &mut self.frozen else { return Ok(()) };
        let features = frozen.features(images)?;
        let rows = features.chunks_exact(store.rows().width().max(1));
        for (picture, features) in pictures.iter().zip(rows) {
            let hash = picture.content.hash;
            // Of several files with one content, several may have been decoded at once.
            let known = store.rows().find(&hash).map(|(row, _)| row);
            let row = known.unwrap_or_else(|| store.insert(hash, picture.notes, features));
            photos.rows[missing[picture.index]] = row;
        }
        Ok(())
    }

    fn note(&mut self, photos: &mut Photos, i: usize, Content { hash, stamp }: Content, notes: Notes) {
        photos.hashes[i] = Some(hash);
        photos.notes[i] = notes;
        self.index.remember(&self.paths[i], &stamp, &Photo { hash, notes, fault: None });
    }

    fn note_fault(&mut self, photos: &mut Photos, i: usize, content: Option<Content>, fault: String) {
        let path = &self.paths[i];
        if let Some(Content { hash, stamp }) = content {
            photos.hashes[i] = Some(hash);
            let reason = fault.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&fault);
            let photo = Photo { hash, notes: Notes::default(), fault: Some(reason.into()) };
            self.index.remember(path, &stamp, &photo);
        }
        photos.faults.insert(i, fault);
    }

    fn flush_index(&mut self, observe: &mut dyn FnMut(ExtractionEvent<'_>)) {
        if let Err(error) = self.index.flush() {
            observe(ExtractionEvent::Warning(&format!("{error}; the next run reads photos again")));
        }
    }
}

fn stop_here(stop: &AtomicBool) -> Result<(), TrainError> {
    match stop.load(Ordering::Relaxed) {
        true => Err(TrainError::Stopped),
        false => Ok(()),
    }
}

/// The next batch, unless `stop` becomes true first.
fn next(batches: &Receiver<Batch>, stop: &AtomicBool) -> Result<Option<Batch>, TrainError> {
    loop {
        match batches.recv_timeout(PATIENCE) {
            Ok(batch) => return Ok(Some(batch)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => stop_here(stop)?,
        }
    }
}
