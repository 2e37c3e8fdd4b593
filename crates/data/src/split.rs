//! Dividing the samples of each class among training, validation and test.

use crate::dataset::Sample;
use crate::error::DataError;
use crate::layout::shortened;

/// Which part of each class is kept for validation and for the test, where the data do not say so themselves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SplitSpec {
    /// The fraction for validation, in `0.0..1.0`.
    pub valid: f64,
    /// The fraction for the test, in `0.0..1.0`; together with `valid` less than 1.
    pub test: f64,
    /// Another seed, another choice.
    pub seed: u64,
}

impl Default for SplitSpec {
    /// A fifth for validation, none for the test, seed 0.
    fn default() -> SplitSpec {
        SplitSpec { valid: 0.2, test: 0.0, seed: 0 }
    }
}

/// A sample that is not assigned to a split yet, and the name that decides where it goes.
pub(crate) struct Unassigned {
    /// Does not depend on where the data lie.
    pub key: String,
    pub sample: Sample,
}

/// Training, validation and test.
#[derive(Default)]
pub(crate) struct Splits {
    pub train: Vec<Sample>,
    pub valid: Vec<Sample>,
    pub test: Vec<Sample>,
}

impl SplitSpec {
    /// Both fractions in range?
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let fits = |fraction: f64| (0.0..1.0).contains(&fraction);
        if fits(self.valid) && fits(self.test) && self.valid + self.test < 1.0 {
            return Ok(());
        }
        Err(DataError::Fractions { valid: self.valid, test: self.test })
    }

    /// Divides each class by itself, so that all splits hold the classes in the same proportions. Of each
    /// class the samples with the smallest BLAKE3 hashes of seed and key go to validation, the next to the
    /// test, the others to training. This is the same on every machine, and photos added later hardly move
    /// the others. The order of the samples is kept.
    ///
    /// A fraction above 0 takes at least one sample of each class; one of each must remain for training.
    pub(crate) fn split(&self, classes: &[String], samples: Vec<Unassigned>) -> Result<Splits, DataError> {
        self.check()?;
        let mut of_class = vec![Vec::new(); classes.len()];
        for (index, sample) in samples.iter().enumerate() {
            of_class[sample.sample.label].push((self.rank(&sample.key), index));
        }
        self.check_sizes(classes, &of_class.iter().map(Vec::len).collect::<Vec<_>>())?;
        let mut place = vec![Place::Train; samples.len()];
        for mut ranked in of_class {
            let (valid, test) = (part(ranked.len(), self.valid), part(ranked.len(), self.test));
            ranked.sort_unstable();
            for (order, (_, index)) in ranked.into_iter().take(valid + test).enumerate() {
                place[index] = if order < valid { Place::Valid } else { Place::Test };
            }
        }
        let mut splits = Splits::default();
        for (sample, place) in samples.into_iter().zip(place) {
            match place {
                Place::Train => splits.train.push(sample.sample),
                Place::Valid => splits.valid.push(sample.sample),
                Place::Test => splits.test.push(sample.sample),
            }
        }
        Ok(splits)
    }

    /// Whether so many images can be divided.
    fn fits(&self, images: usize) -> bool {
        part(images, self.valid) + part(images, self.test) < images
    }

    /// Every class large enough? If not, the error says what makes it so.
    fn check_sizes(&self, classes: &[String], sizes: &[usize]) -> Result<(), DataError> {
        let sizes = || classes.iter().zip(sizes.iter().copied());
        let small: Vec<(&String, usize)> = sizes().filter(|(_, images)| !self.fits(*images)).collect();
        let Some(&(class, images)) = small.iter().min_by_key(|(_, images)| images) else { return Ok(()) };
        // Fractions that leave next to nothing for training would need very many.
        let needed = (images..1_000_000).find(|more| self.fits(*more)).unwrap_or(1_000_000);
        // One for each part is enough for the smallest fractions.
        let parts = 1 + usize::from(self.valid > 0.0) + usize::from(self.test > 0.0);
        let without_test = SplitSpec { test: 0.0, ..*self };
        let remedy = if images >= parts {
            "add some, or make the fractions smaller".to_owned()
        } else if self.test > 0.0 && small.iter().all(|(_, images)| without_test.fits(*images)) {
            "add some, remove the class, or keep no images for the test".to_owned()
        } else {
            "add some, or remove the class (smaller fractions do not help)".to_owned()
        };
        let others: Vec<String> = small
            .iter()
            .filter(|(other, _)| *other != class)
            .map(|(class, images)| format!("{class} {images}"))
            .collect();
        let others = match others.len() {
            0 => String::new(),
            _ => format!(
                " (too few are also in: {})",
                shortened(&others.iter().map(String::as_str).collect::<Vec<_>>())
            ),
        };
        Err(DataError::ClassTooSmall { class: class.clone(), images, needed, others, remedy })
    }

    fn rank(&self, key: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(key.as_bytes());
        hasher.finalize().into()
    }
}

#[derive(Clone, Copy)]
enum Place {
    Train,
    Valid,
    Test,
}

fn part(count: usize, fraction: f64) -> usize {
    let rounded = (count as f64 * fraction).round() as usize;
    if fraction > 0.0 { rounded.max(1) } else { 0 }
}
