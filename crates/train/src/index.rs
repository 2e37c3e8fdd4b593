//! The index of photos: what a file hashes to, and whether it decodes, known without opening it.
//!
//! A log of frames of 64 bytes, each with its own checksum, to which processes append under a lock. A frame is one photo: a hash of its path and
//! [stamp](FileStamp), what its content hashes to, and what decoding it showed; frames of text behind it say why it cannot be used. A process that is killed
//! leaves at most the beginning of a frame, which the next one cuts off; a damaged frame is as good as none, and costs one reading of
//! a file.
//!
//! A file that was written less than two seconds before it was read is not remembered: it could be written again, with as many bytes,
//! before the clock of its file system ticks, and keep its stamp (what Git calls racily clean). The next run reads it once more.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engraft_data::{ContentHash, FileStamp, Note, Notes};
use engraft_tensor::write_atomically;
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::TrainError;
use crate::cache_size::index_folder;

const FRAME: usize = 64;
const BODY: usize = FRAME - size_of::<u64>();

/// The seeds of the checksums, so that no frame is taken for one of another kind; they change with the meaning of frames.
const PHOTO: u64 = 1;
const TEXT: u64 = 2;

/// The most frames of text behind a photo's.
const MOST_TEXT: usize = 16;

/// A file that was written this short a time before a run began is not remembered. File systems' clocks tick each 2 s (FAT) or faster.
const RACY: Duration = Duration::from_secs(2);

/// A photo that is looked up again after so many days is written again, so that it counts as recent.
const REFRESH_DAYS: u32 = 30;

/// When the log is longer, its older half is dropped: 8 million photos, unless one run needs more.
const MOST_BYTES: u64 = 512 << 20;

/// Files whose stamps are taken between two looks at `stop`.
const STAMPS: usize = 1 << 14;

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Photo {
    /// Of the bytes that were decoded.
    pub hash: ContentHash,
    /// What its pixels do not show.
    pub notes: Notes,
    /// Why it cannot be used, as half a sentence without the path.
    pub fault: Option<Box<str>>,
}

/// The index in a cache folder, or one that remembers nothing.
pub struct Index {
    folder: Option<PathBuf>,
    /// When the process began to read.
    opened: SystemTime,
    unwritten: Vec<u8>,
    /// Frames that this run looked up or added.
    used: u64,
}

/// Names a file in a state: the beginning of BLAKE3 of its path and stamp.
type Key = [u8; 16];

impl Index {
    /// The index in the cache folder `root`, which need not exist.
    pub fn open(root: &Path) -> Index {
        Index { folder: Some(index_folder(root)), ..Index::none() }
    }

    /// An index that knows nothing and keeps nothing.
    pub fn none() -> Index {
        Index { folder: None, opened: SystemTime::now(), unwritten: Vec::new(), used: 0 }
    }

    /// What is known of files as they are now; `None` for those that must be read. One `stat` a file, on all cores, and one pass over the log.
    ///
    /// # Errors
    /// When `stop` became true.
    pub fn look_up<P: AsRef<Path> + Sync>(
        &mut self,
        paths: &[P],
        stop: &AtomicBool,
    ) -> Result<Vec<Option<Photo>>, TrainError> {
        let mut found = vec![None; paths.len()];
        let Some(log) = self.folder.as_ref().and_then(|folder| File::open(log_of(folder)).ok()) else {
            return Ok(found);
        };
        let key = |path: &P| FileStamp::of(path.as_ref()).ok().map(|stamp| key(path.as_ref(), &stamp));
        let mut keys: Vec<Option<Key>> = Vec::with_capacity(paths.len());
        for paths in paths.chunks(STAMPS) {
            keys.par_extend(paths.par_iter().map(key));
            if stop.load(Ordering::Relaxed) {
                return Err(TrainError::Stopped);
            }
        }
        // A path that was given twice has one place in the map.
        let mut wanted: HashMap<Key, u32> = HashMap::with_capacity(paths.len());
        let mut again = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            let Some(key) = key else { continue };
            let first = *wanted.entry(*key).or_insert(i as u32) as usize;
            if first != i {
                again.push((i, first));
            }
        }
        let today = today();
        let mut old = Vec::new();
        let mut reader = LogReader::new(log);
        while let Some(photo) = reader.next_photo() {
            let Some(&i) = wanted.get(&photo.key) else { continue };
            if photo.day + REFRESH_DAYS <= today {
                old.push(i as usize);
            }
            found[i as usize] = Some(photo.photo);
        }
        for i in old {
            if let (Some(key), Some(photo)) = (&keys[i], &found[i]) {
                self.unwritten.extend(frames(key, photo, today));
            }
        }
        for (i, first) in again {
            found[i] = found[first].clone();
        }
        self.used += found.iter().flatten().count() as u64;
        Ok(found)
    }

    /// Adds what reading a file in this state has shown; [`flush`](Self::flush) will write it.
    pub fn remember(&mut self, path: &Path, stamp: &FileStamp, photo: &Photo) {
        let written = UNIX_EPOCH.checked_add(Duration::from_nanos(stamp.mtime_ns.max(0) as u64));
        let is_racy = written.is_none_or(|written| written + RACY > self.opened);
        // A system without times of writing tells no change from another.
        if self.folder.is_some() && !is_racy && stamp.mtime_ns != 0 {
            self.unwritten.extend(frames(&key(path, stamp), photo, today()));
            self.used += 1;
        }
    }

    /// Writes what was added since the last time.
    ///
    /// # Errors
    /// When the disk is full, or the folder may not be written. What was written before stays; what was to be written is forgotten.
    pub fn flush(&mut self) -> io::Result<()> {
        let frames = std::mem::take(&mut self.unwritten);
        match &self.folder {
            Some(folder) if !frames.is_empty() => append(folder, &frames, self.used),
            _ => Ok(()),
        }
    }
}

fn log_of(folder: &Path) -> PathBuf {
    folder.join("photos")
}

fn append(folder: &Path, frames: &[u8], used: u64) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // Its own file, because the log's may be replaced.
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock"))?;
    match lock.lock() {
        // Some network file systems have no locks. Checksums see to it that whatever happens there costs a reading at most.
        Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
        _ => {}
    }
    let path = log_of(folder);
    let mut log = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
    let whole = log.metadata()?.len() / FRAME as u64 * FRAME as u64;
    log.set_len(whole)?;
    log.seek(SeekFrom::End(0))?;
    if let Err(error) = log.write_all(frames) {
        // The disk is full: what is there of a frame would be in the way.
        log.set_len(whole)?;
        return Err(error);
    }
    if whole > MOST_BYTES.max(2 * used * FRAME as u64) {
        keep_newer_half(&path)?;
    }
    Ok(())
}

/// Frames are in the order in which they were written, or written again because they are still used.
fn keep_newer_half(log: &Path) -> io::Result<()> {
    let mut from = File::open(log)?;
    from.seek(SeekFrom::Start(from.metadata()?.len() / FRAME as u64 / 2 * FRAME as u64))?;
    write_atomically(log, |to| io::copy(&mut from, to).map(drop)).map_err(|error| error.source)
}

/// Goes over the photos of a log.
struct LogReader {
    log: BufReader<File>,
    /// The frame that ended the text of the photo before.
    pushed_back: Option<[u8; FRAME]>,
}

struct LoggedPhoto {
    key: Key,
    day: u32,
    photo: Photo,
}

impl LogReader {
    fn new(log: File) -> LogReader {
        LogReader { log: BufReader::with_capacity(1 << 20, log), pushed_back: None }
    }

    fn next_frame(&mut self) -> Option<[u8; FRAME]> {
        self.pushed_back.take().or_else(|| {
            let mut frame = [0; FRAME];
            self.log.read_exact(&mut frame).is_ok().then_some(frame)
        })
    }

    /// The next photo that is whole, with its text.
    fn next_photo(&mut self) -> Option<LoggedPhoto> {
        loop {
            let frame = self.next_frame()?;
            let Some(body) = checked(&frame, PHOTO) else { continue };
            let (key, rest) = body.split_first_chunk()?;
            let (hash, rest) = rest.split_first_chunk()?;
            let (day, rest) = rest.split_first_chunk()?;
            let [notes, text_frames, ..] = *rest else { return None };
            let fault = match text_frames {
                0 => None,
                frames => match self.text(frames) {
                    Some(text) => Some(text),
                    None => continue,
                },
            };
            let notes = notes_of(notes);
            let photo = Photo { hash: *hash, notes, fault };
            return Some(LoggedPhoto { key: *key, day: u32::from_le_bytes(*day), photo });
        }
    }

    fn text(&mut self, frames: u8) -> Option<Box<str>> {
        let mut bytes = Vec::new();
        for _ in 0..frames {
            let frame = self.next_frame()?;
            match checked(&frame, TEXT) {
                Some(body) => bytes.extend_from_slice(body),
                None => {
                    self.pushed_back = Some(frame);
                    return None;
                }
            }
        }
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(end);
        String::from_utf8(bytes).ok().map(Into::into)
    }
}

/// The frames of a photo: its own, and those of its text.
fn frames(key: &Key, photo: &Photo, day: u32) -> Vec<u8> {
    let text = photo.fault.as_deref().map(|text| &text[..text.floor_char_boundary(MOST_TEXT * BODY)]);
    let text_frames = text.map_or(0, |text| text.len().div_ceil(BODY).max(1));
    let own = [&key[..], &photo.hash, &day.to_le_bytes(), &[bits(photo.notes), text_frames as u8]].concat();
    let mut frames = frame(&own, PHOTO).to_vec();
    for i in 0..text_frames {
        let text = text.unwrap_or_default().as_bytes();
        frames.extend(frame(&text[i * BODY..text.len().min((i + 1) * BODY)], TEXT));
    }
    frames
}

fn frame(body: &[u8], kind: u64) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..body.len()].copy_from_slice(body);
    let check = xxh3_64_with_seed(&frame[..BODY], kind);
    frame[BODY..].copy_from_slice(&check.to_le_bytes());
    frame
}

fn checked(frame: &[u8; FRAME], kind: u64) -> Option<&[u8]> {
    let (body, check) = frame.split_at(BODY);
    (xxh3_64_with_seed(body, kind).to_le_bytes() == check).then_some(body)
}

/// Decoders of another version may find other notes and faults, so that files are read again.
fn key(path: &Path, stamp: &FileStamp) -> Key {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&engraft_data::VERSION.to_le_bytes());
    hasher.update(&stamp.size.to_le_bytes());
    hasher.update(&stamp.mtime_ns.to_le_bytes());
    hasher.update(&stamp.inode.to_le_bytes());
    hasher.update(path.as_os_str().as_encoded_bytes());
    let mut key = Key::default();
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}

/// Notes as one byte.
pub(crate) fn bits(notes: Notes) -> u8 {
    notes.iter().fold(0, |bits, note| bits | 1 << note as u8)
}

/// The notes of a byte.
pub(crate) fn notes_of(bits: u8) -> Notes {
    Note::ALL.into_iter().filter(|note| bits & 1 << *note as u8 != 0).collect()
}

/// Days since 1970.
fn today() -> u32 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    u32::try_from(seconds / (24 * 60 * 60)).unwrap_or(u32::MAX)
}
