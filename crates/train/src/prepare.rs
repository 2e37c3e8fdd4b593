//! What must be known of the photos before training: which can be used, for what, and their features.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use engraft_data::{ContentHash, Note, Sample};
use engraft_engine::Engine;
use engraft_graph::{Graph, TensorSpec};

use crate::checkpoint::SplitRecord;
use crate::job::{Event, Job};
use crate::ledger::{LedgerEntry, ledger_path, samples_of};
use crate::{
    Examples, Extraction, ExtractionEvent, FeatureStore, Frozen, Index, Photos, Split, StoreKey, TrainError,
    Twins, default_cache_size,
};

/// The photos of a run, in the order of its ledger: training, validation, test.
pub(crate) struct Prepared<'a> {
    samples: Vec<(Split, &'a Sample)>,
    photos: Photos,
    /// Why photos are left out that could be used, as half a sentence.
    left_out: BTreeMap<usize, String>,
    /// The places of the photos that are used, by split.
    places: [Vec<usize>; 3],
    /// What computes features and where they are; `None` where images are trained on.
    features: Option<(Frozen, FeatureStore)>,
}

/// Looks at every photo, and computes the features that are not known. `frozen` is the frozen part, `None` to train on images. `known` are the
/// contents of photos when the run began, if it goes on: of one that is gone the features may still be there.
pub(crate) fn prepare<'a>(
    engine: &dyn Engine,
    job: &Job<'a>,
    frozen: Option<&Graph>,
    known: &HashMap<&str, ContentHash>,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Prepared<'a>, TrainError> {
    let samples: Vec<(Split, &Sample)> = samples_of(job.dataset).collect();
    let paths: Vec<_> = samples.iter().map(|(_, sample)| sample.path.clone()).collect();
    let mut index = job.cache.map_or_else(Index::none, |cache| Index::open(&cache.folder));
    let mut features = frozen.map(|frozen| open_store(engine, job, frozen)).transpose()?;
    let extraction = Extraction {
        paths: &paths,
        transform: job.transform,
        index: &mut index,
        frozen: features.as_mut().map(|(frozen, store)| (&*frozen, store)),
    };
    let mut photos = extraction.run(stop, &mut |event| match event {
        ExtractionEvent::Progress { done, total } => {
            observe(Event::Progress { what: if frozen.is_some() { "features" } else { "reading" }, done, total });
        }
        ExtractionEvent::Large { bytes, free, folder } => observe(Event::Warning(&format!(
            "the features take up to {} of the {} that are free for {}; they can be left out of the cache, or the cache moved with the \
             variable ENGRAFT_CACHE",
            size(bytes),
            size(free),
            folder.display()
        ))),
        ExtractionEvent::NotKept { bytes } => observe(Event::Note(&format!(
            "the features of a photo take {:.1} MB here, which costs more to keep than to compute: they are computed in every epoch",
            bytes as f64 / 1e6
        ))),
        ExtractionEvent::NoRoom { bytes, bound } => observe(Event::Note(&format!(
            "the features would take {}, and the cache may take {}: the frozen part is computed in every epoch",
            size(bytes),
            size(bound)
        ))),
        ExtractionEvent::Warning(text) => observe(Event::Warning(text)),
    })?;

    // A photo that is gone since the run began.
    for (place, (_, sample)) in samples.iter().enumerate() {
        let path = ledger_path(&sample.path, job.root);
        let Some(hash) = known.get(path.as_str()).filter(|_| photos.hashes[place].is_none()) else {
            continue;
        };
        let store = features.as_ref().map(|(_, store)| store.rows());
        let Some((row, notes)) = store.and_then(|rows| rows.find(hash)) else { continue };
        photos.hashes[place] = Some(*hash);
        photos.rows[place] = row;
        photos.notes[place] = notes;
        photos.faults.remove(&place);
        observe(Event::Note(&format!(
            "{path} is gone; its features are known, and the run goes on with them"
        )));
    }
    if features.is_some() {
        let (images, cached, seconds) = (paths.len(), photos.cached, photos.seconds);
        observe(Event::Features { of_head: false, images, cached, seconds });
    }
    let mut prepared =
        Prepared { samples, photos, left_out: BTreeMap::new(), places: Default::default(), features };
    prepared.report(job, observe)?;
    prepared.leave_out_twins(job, observe)?;
    for place in 0..prepared.samples.len() {
        if prepared.is_used(place) {
            let (split, _) = prepared.samples[place];
            prepared.places[split as usize].push(place);
        }
    }
    Ok(prepared)
}

fn open_store(
    engine: &dyn Engine,
    job: &Job<'_>,
    frozen: &Graph,
) -> Result<(Frozen, FeatureStore), TrainError> {
    let store = match job.cache {
        Some(cache) => {
            let numerics = engine.numerics();
            let key = StoreKey { frozen, state: &job.state, transform: job.transform, numerics: &numerics };
            let bound = cache.limit_bytes.unwrap_or_else(|| default_cache_size(&cache.folder));
            FeatureStore::open(&cache.folder, &key, bound)?
        }
        None => FeatureStore::temporary(frozen)?,
    };
    let of_frozen = |spec: TensorSpec| job.state.get(&spec.name).cloned().map(|tensor| (spec.name, tensor));
    let network = engine.network(frozen, frozen.state().into_iter().filter_map(of_frozen).collect())?;
    Ok((Frozen::new(frozen, network)?, store))
}

impl Prepared<'_> {
    /// Says which photos cannot be used, and what the pixels of others do not show.
    fn report(&self, job: &Job<'_>, observe: &mut dyn FnMut(Event<'_>)) -> Result<(), TrainError> {
        let faults = &self.photos.faults;
        faults.values().for_each(|reason| observe(Event::Skipped { reason }));
        if let Some(first) = faults.values().next().filter(|_| job.strict) {
            return Err(TrainError::Strict { count: faults.len(), first: first.clone() });
        }
        for note in Note::ALL {
            let noted = |place: &usize| self.photos.notes[*place].contains(note);
            let mut places = (0..self.samples.len()).filter(noted);
            if let Some(first) = places.next() {
                let (count, example) = (1 + places.count(), self.path(first));
                observe(Event::PhotoNote { note, count, example });
            }
        }
        Ok(())
    }

    fn leave_out_twins(
        &mut self,
        job: &Job<'_>,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), TrainError> {
        let photo = |(place, (split, sample)): (usize, &(Split, &Sample))| {
            let hash = self.photos.hashes[place].filter(|_| !self.photos.faults.contains_key(&place))?;
            Some((hash, *split, sample.label))
        };
        let twins = Twins::find(self.samples.iter().enumerate().map(photo));
        let name = |place: usize| ledger_path(self.path(place), job.root);
        let mut left_out = BTreeMap::new();

        if let Some(first) = twins.contradicting.first() {
            let copies: Vec<String> = first
                .iter()
                .map(|place| {
                    format!("{} ({})", name(*place), job.dataset.classes[self.samples[*place].1.label])
                })
                .collect();
            let (count, first) = (twins.contradicting.len(), copies.join(" and "));
            if job.strict {
                return Err(TrainError::Contradicting { count, first });
            }
            observe(Event::Warning(&format!(
                "{count} photos are there under several labels and are left out, all copies of them; the first is {first}"
            )));
        }
        for copies in &twins.contradicting {
            for place in copies {
                left_out.insert(*place, "is there under another label as well".to_string());
            }
        }
        if let Some(first) = twins.across.first() {
            observe(Event::Warning(&format!(
                "{} photos of one split are copies of photos of another and are left out, so that the figures are those of new photos; \
                 the first is {}, a copy of {}",
                twins.across.len(),
                name(first.copy),
                name(first.of)
            )));
        }
        if let Some(first) = twins.repeated.first() {
            observe(Event::Note(&format!(
                "{} photos are copies of others of the same split and count once; the first is {}, a copy of {}",
                twins.repeated.len(),
                name(first.copy),
                name(first.of)
            )));
        }
        for twin in twins.across.iter().chain(&twins.repeated) {
            left_out.insert(twin.copy, format!("is a copy of {}", name(twin.of)));
        }
        self.left_out = left_out;
        Ok(())
    }

    /// Whether a photo is learnt from or measured on.
    pub(crate) fn is_used(&self, place: usize) -> bool {
        !self.photos.faults.contains_key(&place) && !self.left_out.contains_key(&place)
    }

    /// How many photos of a split are used.
    pub(crate) fn count(&self, split: Split) -> usize {
        self.places[split as usize].len()
    }

    /// How many photos cannot be used.
    pub(crate) fn skipped(&self) -> usize {
        self.photos.faults.len()
    }

    /// The place in the ledger of an example of a split.
    pub(crate) fn place(&self, split: Split, index: usize) -> usize {
        self.places[split as usize][index]
    }

    pub(crate) fn path(&self, place: usize) -> &Path {
        &self.samples[place].1.path
    }

    /// The photos of a split, to learn from or to measure on.
    pub(crate) fn examples(&self, split: Split, job: &Job<'_>) -> Examples<'_> {
        let samples = self.places[split as usize].iter().map(|place| (*place, self.samples[*place].1));
        match &self.features {
            Some((frozen, store)) => {
                let rows = samples.map(|(place, sample)| (self.photos.rows[place], sample));
                Examples::features(store.rows(), rows, frozen, job.transform)
            }
            None => Examples::images(samples.map(|(_, sample)| sample.clone()).collect(), job.transform),
        }
    }

    /// Every photo with its split, its label and its fault.
    pub(crate) fn ledger(&self, job: &Job<'_>) -> Vec<LedgerEntry> {
        let entry = |(place, (split, sample)): (usize, &(Split, &Sample))| {
            let fault = self.photos.faults.get(&place).or_else(|| self.left_out.get(&place));
            LedgerEntry {
                path: ledger_path(&sample.path, job.root),
                split: *split,
                label: job.dataset.classes[sample.label].clone(),
                hash: self.photos.hashes[place].map(|hash| blake3::Hash::from(hash).to_hex().to_string()),
                fault: fault.cloned(),
                guess: None,
                probability: None,
            }
        };
        self.samples.iter().enumerate().map(entry).collect()
    }

    /// Which photos are for what.
    pub(crate) fn split_record(&self, job: &Job<'_>) -> SplitRecord {
        let mut photos: Vec<(ContentHash, u8, &str)> = Vec::new();
        for place in self.places.iter().flatten() {
            let (split, sample) = self.samples[*place];
            let hash = self.photos.hashes[*place].unwrap_or_default();
            photos.push((hash, split as u8, &job.dataset.classes[sample.label]));
        }
        photos.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        for (hash, split, label) in photos {
            hasher.update(&hash).update(&[split]).update(label.as_bytes()).update(b"\n");
        }
        let [train, valid, test] = [Split::Train, Split::Valid, Split::Test].map(|split| self.count(split));
        SplitRecord { train, valid, test, hash: hasher.finalize().to_hex().to_string() }
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{:.2} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
