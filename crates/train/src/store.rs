//! The feature store: what the frozen part of a network gives for photos, on disk, read where it lies.
//!
//! A folder for each frozen part and transform holds [segments](crate::segment), to which processes append. A row is found by what the photo's file
//! hashes to; it is checked when it is first asked for, and a damaged one is computed again. Only the beginnings of hashes are in memory, 16 bytes a row
//! of the folder: the rest is compared on the disk.
//!
//! Where rows cannot be kept, because the disk is full, or shall not be, they go to a file without a name in the system's temporary folder;
//! where that is full too, up to 256 MB stay in memory; and what comes then is computed again at each pass.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use engraft_data::{ContentHash, Notes, Transform};
use engraft_graph::Graph;
use engraft_tensor::{StateDict, WriteError};

use crate::TrainError;
use crate::cache_size::{evict, features_folder};
use crate::segment::{KeptSegment, RowKey, Segment, prefix, row_offset, write_at};

/// Changes when the meaning of files in the store does. Version 1 were safetensors files.
const VERSION: u32 = 2;

/// A segment that is larger is appended to no more; smaller in a small cache, so that eviction has a choice.
const MOST_SEGMENT_BYTES: u64 = 1 << 30;
const SEGMENTS_IN_CACHE: u64 = 16;

/// Rows that stay in memory where no disk has room.
const MOST_MEMORY_BYTES: u64 = 256 << 20;

/// Where the features of a photo are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    segment: u32,
    row: u32,
}

impl Row {
    /// Nowhere: they are computed when they are needed.
    pub const NONE: Row = Row { segment: u32::MAX, row: u32::MAX };

    /// Whether the features are in the store.
    pub fn is_kept(self) -> bool {
        self != Row::NONE
    }

    fn next(self) -> Row {
        Row { row: self.row.wrapping_add(1), ..self }
    }
}

/// What rows of features depend on beside the photos.
#[derive(Clone, Copy)]
pub struct StoreKey<'a> {
    /// The frozen part.
    pub frozen: &'a Graph,
    /// Its tensors, among others.
    pub state: &'a StateDict,
    /// How a photo becomes its input.
    pub transform: &'a Transform,
    /// What computes, down to the last bits: see [`Engine::numerics`](engraft_engine::Engine::numerics).
    pub numerics: &'a str,
}

/// The features of photos by one frozen part and transform.
pub struct FeatureStore {
    rows: Rows,
    folder: Option<PathBuf>,
    features: PathBuf,
    /// Bytes that all features in the cache may take, and about how many they do.
    bound: u64,
    held: u64,
    place: Place,
    /// The segment that is appended to, and how many rows it has.
    current: Option<(u32, u32)>,
    /// Where this process began to append, and in which segments.
    begun: Vec<Row>,
    warning: Option<String>,
}

/// Where new rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Folder,
    Temporary,
    Memory,
    Nowhere,
}

impl FeatureStore {
    /// Opens the store in the cache folder `root`, which need not exist. All features in it together may take `cache_size` bytes.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(root: &Path, key: &StoreKey<'_>, cache_size: u64) -> Result<FeatureStore, TrainError> {
        let features = features_folder(root);
        let folder = features.join(key.folder()?);
        let failed = |error| TrainError::cache(&folder, error);
        fs::create_dir_all(&folder).map_err(failed)?;
        let held = evict(&features, cache_size).map_err(failed)?;
        let mut store = FeatureStore::temporary(key.frozen)?;
        store.rows.find_kept(&folder).map_err(failed)?;
        store.folder = Some(folder);
        store.features = features;
        store.bound = cache_size;
        store.held = held;
        store.place = Place::Folder;
        Ok(store)
    }

    /// A store that ends with the process.
    ///
    /// # Errors
    /// When the graph cannot take the input that it was designed for.
    pub fn temporary(frozen: &Graph) -> Result<FeatureStore, TrainError> {
        Ok(FeatureStore {
            rows: Rows::new(frozen.output_shape()?),
            folder: None,
            features: PathBuf::new(),
            bound: 0,
            held: 0,
            place: Place::Temporary,
            current: None,
            begun: Vec::new(),
            warning: None,
        })
    }

    /// Keeps no new rows: what is not in the store is computed whenever it is needed.
    pub fn keep_nothing_new(&mut self) {
        self.end_appending();
        self.place = Place::Nowhere;
    }

    /// What is in the store, to be read from any thread.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The folder of the rows, if they outlive the process.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref().filter(|_| self.place == Place::Folder)
    }

    /// How many bytes all rows in the cache may take; `None` for a store that ends with the process.
    pub fn bound(&self) -> Option<u64> {
        (self.place == Place::Folder).then_some(self.bound)
    }

    /// Whether new rows have a place.
    pub fn is_keeping(&self) -> bool {
        self.place != Place::Nowhere
    }

    /// Appends the features of a photo, and says where they are now: nowhere, if no place is left. They are in the system's hands at
    /// once, and stay there if the process is killed.
    ///
    /// # Panics
    /// If there are not as many values as the features have.
    pub fn insert(&mut self, photo: ContentHash, notes: Notes, features: &[f32]) -> Row {
        assert_eq!(features.len(), self.rows.width(), "values of a row");
        let key = RowKey::new(photo, notes, features);
        loop {
            match self.try_insert(key, features) {
                Ok(row) => {
                    if row.is_kept() {
                        self.rows.add(&key, row);
                    }
                    return row;
                }
                Err(error) => self.leave(error),
            }
        }
    }

    /// Whether a row was added by this store, and not found.
    pub fn is_new(&self, row: Row) -> bool {
        self.begun.iter().any(|begun| begun.segment == row.segment && begun.row <= row.row)
    }

    /// Why rows are not kept any more, once.
    pub fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    /// Lets other processes append to the segment, and delete others that this one does not use.
    pub fn end_appending(&mut self) {
        let Some((segment, count)) = self.current.take() else { return };
        if let Some(Segment::Kept(segment)) = self.rows.segment(segment).as_deref() {
            match count {
                0 => segment.delete(),
                _ => segment.end_appending(),
            }
        }
    }

    fn try_insert(&mut self, key: RowKey, values: &[f32]) -> io::Result<Row> {
        let width = self.rows.width();
        let bytes = size_of_val(values) as u64;
        if self.place == Place::Folder {
            self.make_room(bytes)?;
        }
        let (segment, count) = match (self.current, self.place) {
            (_, Place::Nowhere) => return Ok(Row::NONE),
            (Some((segment, count)), _) if !self.is_full(count) => (segment, count),
            (_, Place::Folder) => {
                self.end_appending();
                self.take_segment()?
            }
            (_, Place::Temporary) => {
                let (rows, keys) = (tempfile::tempfile()?, RwLock::default());
                (self.rows.push(Segment::Temporary { rows, keys, width }), 0)
            }
            (_, Place::Memory) => {
                let (rows, keys) = (RwLock::default(), RwLock::default());
                (self.rows.push(Segment::Memory { rows, keys, width }), 0)
            }
        };
        if self.current.is_none_or(|(current, _)| current != segment) {
            self.begun.push(Row { segment, row: count });
        }
        self.current = Some((segment, count));
        let push_key = |known: &RwLock<Vec<RowKey>>| {
            known.write().unwrap_or_else(PoisonError::into_inner).push(key);
        };
        match self.rows.segment(segment).as_deref() {
            Some(Segment::Kept(segment)) => segment.append(count, &key, values)?,
            Some(Segment::Temporary { rows, keys, .. }) => {
                write_at(rows, bytemuck::cast_slice(values), row_offset(count, width))?;
                push_key(keys);
            }
            Some(Segment::Memory { rows, keys, .. }) => {
                if row_offset(count, width) + bytes > MOST_MEMORY_BYTES {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                rows.write().unwrap_or_else(PoisonError::into_inner).extend_from_slice(values);
                push_key(keys);
            }
            None => return Ok(Row::NONE),
        }
        self.held += bytes;
        self.current = Some((segment, count + 1));
        Ok(Row { segment, row: count })
    }

    /// Deletes what was not used for the longest time, if so many bytes more are too many.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        if self.held + bytes <= self.bound {
            return Ok(());
        }
        // Some more, so that not every row looks through the folders.
        let room = bytes.max(self.bound / SEGMENTS_IN_CACHE);
        self.held = evict(&self.features, self.bound.saturating_sub(room))?;
        if self.held + bytes <= self.bound {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the cache is full, as it may take {:.1} MB, and all in it is in use",
            self.bound as f64 / 1e6
        )))
    }

    fn is_full(&self, count: u32) -> bool {
        let most = (self.bound / SEGMENTS_IN_CACHE).clamp(1 << 20, MOST_SEGMENT_BYTES);
        let has_most = row_offset(count + 1, self.rows.width()) > most && count > 0;
        (self.place == Place::Folder && has_most) || count > u32::MAX / 2
    }

    /// A segment that rows can be appended to, and how many it has.
    fn take_segment(&mut self) -> io::Result<(u32, u32)> {
        let folder = self.folder.as_ref().ok_or(io::ErrorKind::NotFound)?;
        for number in 0..self.rows.segments().len() as u32 {
            let segment = self.rows.segment(number);
            let Some(Segment::Kept(segment)) = segment.as_deref() else { continue };
            if segment.count().is_ok_and(|count| self.is_full(count)) {
                continue;
            }
            match segment.begin_appending() {
                Some(count) if !self.is_full(count) => return Ok((number, count)),
                Some(_) => segment.end_appending(),
                None => {}
            }
        }
        let segment = KeptSegment::create(folder, self.rows.width())?;
        Ok((self.rows.push(Segment::Kept(segment)), 0))
    }

    /// A place that has no room is left for the next one.
    fn leave(&mut self, error: io::Error) {
        self.end_appending();
        self.place = match self.place {
            Place::Folder => {
                let folder = self.folder.as_deref().unwrap_or(Path::new(""));
                let error = WriteError::new(&folder.join("rows"), error);
                self.warning = Some(format!("{error}; features that are computed from now on are not kept"));
                Place::Temporary
            }
            Place::Temporary => Place::Memory,
            Place::Memory | Place::Nowhere => Place::Nowhere,
        };
    }
}

impl Drop for FeatureStore {
    fn drop(&mut self) {
        self.end_appending();
    }
}

/// The rows of a store, to be read from any thread. A copy reads the same rows, also those that are added later.
#[derive(Clone)]
pub struct Rows(Arc<Shared>);

struct Shared {
    shape: Vec<usize>,
    width: usize,
    segments: RwLock<Vec<Arc<Segment>>>,
    /// By the beginnings of hashes.
    places: RwLock<HashMap<u64, Row>>,
}

impl Rows {
    fn new(shape: Vec<usize>) -> Rows {
        let width = shape.iter().product();
        Rows(Arc::new(Shared { shape, width, segments: RwLock::default(), places: RwLock::default() }))
    }

    /// Rows that nobody finds by a photo, and where they are.
    pub(crate) fn in_memory(shape: Vec<usize>, values: Vec<f32>, count: usize) -> (Rows, Vec<Row>) {
        let rows = Rows::new(shape);
        let width = rows.width();
        assert_eq!(values.len(), count * width, "values of {count} rows of {width}");
        let segment =
            rows.push(Segment::Memory { rows: RwLock::new(values), keys: RwLock::default(), width });
        (rows, (0..count as u32).map(|row| Row { segment, row }).collect())
    }

    /// The shape of one photo's features.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// How many values the features of a photo are.
    pub fn width(&self) -> usize {
        self.0.width
    }

    /// Where the features of a photo are, and what its pixels do not show, if they are in the store and what they were: they are
    /// read to see to it.
    pub fn find(&self, photo: &ContentHash) -> Option<(Row, Notes)> {
        let row = *self.0.places.read().unwrap_or_else(PoisonError::into_inner).get(&prefix(photo))?;
        let segment = self.segment(row.segment)?;
        let key = segment.key(row.row).filter(|key| key.hash == *photo)?;
        let mut values = vec![0.0; self.width()];
        if segment.read(row.row, &mut values).is_ok() && key.fits(&values) {
            return Some((row, key.notes));
        }
        if let Segment::Kept(segment) = &*segment {
            segment.forget(row.row);
        }
        None
    }

    /// Reads the features of photos one after another into `values`; rows that lie side by side at once.
    ///
    /// # Errors
    /// When the disk fails, or a row is nowhere; the values are of no use then.
    ///
    /// # Panics
    /// If `values` are not as many as the rows have.
    pub fn read(&self, rows: &[Row], values: &mut [f32]) -> io::Result<()> {
        assert_eq!(values.len(), rows.len() * self.width(), "values of {} rows", rows.len());
        let mut values = values;
        for run in rows.chunk_by(|row, next| row.next() == *next) {
            let (run_values, rest) = values.split_at_mut(run.len() * self.width());
            let segment = self.segment(run[0].segment).ok_or(io::ErrorKind::NotFound)?;
            segment.read(run[0].row, run_values)?;
            values = rest;
        }
        Ok(())
    }

    /// Asks the system to read rows ahead, where it can be asked.
    pub(crate) fn will_need(&self, mut rows: Vec<Row>) {
        rows.sort_unstable();
        for run in rows.chunk_by(|row, next| row.next() == *next) {
            if let Some(segment) = self.segment(run[0].segment) {
                segment.will_need(run[0].row, run.len());
            }
        }
    }

    fn segment(&self, number: u32) -> Option<Arc<Segment>> {
        self.segments().get(number as usize).cloned()
    }

    fn segments(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Segment>>> {
        self.0.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, segment: Segment) -> u32 {
        let mut segments = self.0.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.push(Arc::new(segment));
        segments.len() as u32 - 1
    }

    fn add(&self, key: &RowKey, row: Row) {
        self.0.places.write().unwrap_or_else(PoisonError::into_inner).insert(prefix(&key.hash), row);
    }

    /// Finds the segments of a folder; of two rows of one photo the one in the segment that was written last.
    fn find_kept(&mut self, folder: &Path) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "keys") {
                found.push((entry.metadata().and_then(|metadata| metadata.modified()).ok(), entry.path()));
            }
        }
        found.sort();
        let mut places = self.0.places.write().unwrap_or_else(PoisonError::into_inner);
        for (_, keys) in found {
            let segment = KeptSegment::new(&keys, self.0.width);
            // One that another process has just deleted has no rows.
            let Ok(prefixes) = segment.prefixes() else { continue };
            let number = self.push(Segment::Kept(segment));
            places.extend(prefixes.into_iter().map(|(prefix, row)| (prefix, Row { segment: number, row })));
        }
        Ok(())
    }
}

impl StoreKey<'_> {
    /// The name of the folder: what rows depend on, hashed.
    fn folder(&self) -> Result<String, TrainError> {
        let needed: std::collections::HashSet<String> =
            self.frozen.state().into_iter().map(|spec| spec.name).collect();
        let description = (VERSION, engraft_data::VERSION, self.numerics, self.frozen, self.transform);
        let description = serde_json::to_vec(&description).map_err(TrainError::describe)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&description).update(&self.state.hash_of(|name| needed.contains(name)));
        Ok(hasher.finalize().to_hex()[..32].to_string())
    }
}
