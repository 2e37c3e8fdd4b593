//! The ledger of a run: what became of every photo.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use engraft_data::{Dataset, Sample};
use serde::{Deserialize, Serialize};

use crate::Split;

/// A photo of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Relative to the folder of the photos where it lies in there. Bytes that are no Unicode are U+FFFD.
    pub path: String,
    /// What it is used for.
    pub split: Split,
    /// Its class.
    pub label: String,
    /// BLAKE3 of the file's content in hexadecimal; nothing if it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Why it is not used, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The class that the trained network takes it for; of photos for validation and test, at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guess: Option<String>,
    /// How probable the network holds that to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f32>,
}

/// In what a set of photos differs from that of a ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerChanges {
    /// Photos that are not in the ledger.
    pub added: Vec<String>,
    /// Photos of the ledger that are not there any more.
    pub missing: Vec<String>,
    /// Photos with another label.
    pub relabelled: Vec<String>,
    /// Photos with another content.
    pub changed: Vec<String>,
}

impl LedgerChanges {
    /// Whether the run can go on to the same result: nothing but missing files, whose features may be known.
    pub fn is_harmless(&self) -> bool {
        self.added.is_empty() && self.relabelled.is_empty() && self.changed.is_empty()
    }
}

impl fmt::Display for LedgerChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How many files of a kind are named.
        const NAMED: usize = 3;
        let kinds = [
            ("new", &self.added),
            ("gone", &self.missing),
            ("under another label", &self.relabelled),
            ("with another content", &self.changed),
        ];
        let text = |(kind, files): &(&str, &Vec<String>)| {
            let more = if files.len() > NAMED { ", ..." } else { "" };
            format!("{} {kind} ({}{more})", files.len(), files[..files.len().min(NAMED)].join(", "))
        };
        let kinds: Vec<String> = kinds.iter().filter(|(_, files)| !files.is_empty()).map(text).collect();
        f.write_str(&kinds.join("; "))
    }
}

/// The path of a photo as a ledger has it.
pub fn ledger_path(photo: &Path, root: &Path) -> String {
    photo.strip_prefix(root).unwrap_or(photo).to_string_lossy().into_owned()
}

/// All samples of a dataset with their splits: training, validation, test.
pub fn samples_of(dataset: &Dataset) -> impl Iterator<Item = (Split, &Sample)> {
    let splits =
        [(Split::Train, &dataset.train), (Split::Valid, &dataset.valid), (Split::Test, &dataset.test)];
    splits.into_iter().flat_map(|(split, samples)| samples.iter().map(move |sample| (split, sample)))
}

/// Gives every photo the split that it has in a ledger, also photos that are not there any more, in the ledger's order; and says in
/// what the dataset, whose photos lie below `root`, differs from it. Contents are not compared.
pub fn as_in_ledger(dataset: &mut Dataset, ledger: &[LedgerEntry], root: &Path) -> LedgerChanges {
    let mut changes = LedgerChanges::default();
    let mut found: HashMap<String, Sample> =
        samples_of(dataset).map(|(_, sample)| (ledger_path(&sample.path, root), sample.clone())).collect();
    let mut classes = dataset.classes.clone();
    for entry in ledger {
        if !classes.contains(&entry.label) {
            classes.push(entry.label.clone());
        }
    }
    classes.sort();
    let label_of = |class: &str| classes.iter().position(|known| known == class).unwrap_or(0);
    let mut splits: [Vec<Sample>; 3] = Default::default();
    for entry in ledger {
        let path: PathBuf = match found.remove(&entry.path) {
            Some(sample) => {
                if dataset.classes[sample.label] != entry.label {
                    changes.relabelled.push(entry.path.clone());
                }
                sample.path
            }
            None => {
                changes.missing.push(entry.path.clone());
                root.join(&entry.path)
            }
        };
        splits[entry.split as usize].push(Sample { path, label: label_of(&entry.label) });
    }
    changes.added = found.into_keys().collect();
    changes.added.sort();
    [dataset.train, dataset.valid, dataset.test] = splits;
    dataset.classes = classes;
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(photos: &[(&str, Split, usize)]) -> Dataset {
        let of = |wanted: Split| {
            let samples = photos.iter().filter(|(_, split, _)| *split == wanted);
            samples
                .map(|(path, _, label)| Sample { path: Path::new("root").join(path), label: *label })
                .collect()
        };
        let classes = vec!["ants".to_string(), "bees".to_string()];
        let [train, valid, test] = [Split::Train, Split::Valid, Split::Test].map(of);
        Dataset { classes, train, valid, test, ..Dataset::default() }
    }

    fn entry(path: &str, split: Split, label: &str) -> LedgerEntry {
        let (path, label) = (path.into(), label.into());
        LedgerEntry { path, split, label, hash: None, fault: None, guess: None, probability: None }
    }

    #[test]
    fn photos_keep_the_split_of_the_ledger_also_when_others_are_gone() {
        let ledger = [
            entry("a.jpg", Split::Valid, "ants"),
            entry("b.jpg", Split::Train, "bees"),
            entry("gone.jpg", Split::Train, "ants"),
        ];
        let mut now = dataset(&[("b.jpg", Split::Valid, 1), ("a.jpg", Split::Train, 0)]);
        let changes = as_in_ledger(&mut now, &ledger, Path::new("root"));
        assert_eq!(changes.missing, ["gone.jpg"]);
        assert!(changes.is_harmless());
        let paths = |samples: &[Sample]| -> Vec<String> {
            samples.iter().map(|sample| ledger_path(&sample.path, Path::new("root"))).collect()
        };
        assert_eq!(paths(&now.train), ["b.jpg", "gone.jpg"]);
        assert_eq!(paths(&now.valid), ["a.jpg"]);
        assert_eq!(now.train[0].label, 1);
    }

    #[test]
    fn what_is_new_or_under_another_label_is_named() {
        let ledger = [entry("a.jpg", Split::Train, "ants"), entry("b.jpg", Split::Train, "bees")];
        let mut now =
            dataset(&[("a.jpg", Split::Train, 1), ("b.jpg", Split::Train, 1), ("c.jpg", Split::Train, 0)]);
        let changes = as_in_ledger(&mut now, &ledger, Path::new("root"));
        assert!(!changes.is_harmless());
        assert_eq!(changes.to_string(), "1 new (c.jpg); 1 under another label (a.jpg)");
    }
}
