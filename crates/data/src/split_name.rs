//! Names of folders that say training, validation or test.

/// A part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Train,
    Valid,
    Test,
}

/// A name with one word for a part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SplitName {
    pub part: Part,
    /// The name says no more than that: `Train`, `test_set`, `val2017`. If not (`seg_train`, but also
    /// `bullet_train`), only a sibling for another part with the same other words tells.
    pub plain: bool,
    /// The other words.
    pub rest: String,
}

const TRAIN: [&str; 4] = ["train", "training", "trainings", "trn"];
const VALID: [&str; 8] =
    ["valid", "val", "validation", "validate", "validierung", "validierungs", "dev", "eval"];
const TEST: [&str; 4] = ["test", "testing", "tests", "tst"];
/// Words that say nothing beside one of those.
const FILLERS: [&str; 20] = [
    "set", "sets", "data", "dataset", "split", "images", "image", "imgs", "img", "photos", "photo",
    "pictures", "pics", "folder", "dir", "files", "samples", "daten", "bilder", "fotos",
];

impl SplitName {
    /// Reads a name, in whatever case.
    pub fn of(name: &str) -> Option<SplitName> {
        let lower = name.to_lowercase();
        let mut part = None;
        let mut rest = Vec::new();
        let mut plain = true;
        for word in words(&lower) {
            match part_of(word) {
                Some(found) if part.is_none() => {
                    part = Some(found);
                    rest.push("*");
                }
                // Two of them, as in `train_test`, say neither.
                Some(_) => return None,
                None => {
                    plain &= FILLERS.contains(&word) || word.bytes().all(|byte| byte.is_ascii_digit());
                    rest.push(word);
                }
            }
        }
        Some(SplitName { part: part?, plain, rest: rest.join(" ") })
    }
}

/// The part that a word names, alone or grown together with a filler: `trainset`, `testdaten`.
pub(crate) fn part_of(word: &str) -> Option<Part> {
    let names = |known: &[&str]| {
        known.iter().any(|known| {
            word.strip_prefix(known).is_some_and(|rest| rest.is_empty() || FILLERS.contains(&rest))
        })
    };
    [(Part::Train, &TRAIN[..]), (Part::Valid, &VALID), (Part::Test, &TEST)]
        .into_iter()
        .find(|(_, known)| names(known))
        .map(|(part, _)| part)
}

/// Runs of letters and runs of digits.
fn words(name: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for run in name.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty()) {
        let mut start = 0;
        let mut digit = None;
        for (at, c) in run.char_indices() {
            let is_digit = c.is_ascii_digit();
            if digit.is_some_and(|digit| digit != is_digit) {
                words.push(&run[start..at]);
                start = at;
            }
            digit = Some(is_digit);
        }
        words.push(&run[start..]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_splits_are_known_in_any_case_and_with_fillers() {
        let plain = [
            (
                Part::Train,
                "train Train TRAIN training Training_Set training-set trainset train2017 Train.Images TrainingData Trainingsdaten trn",
            ),
            (Part::Valid, "valid val VAL Validation validation_set valset val2017 dev eval Validierung"),
            (Part::Test, "test Test testing test_set TestSet test2017 tst Testdaten Testbilder"),
        ];
        for (part, names) in plain {
            for name in names.split(' ') {
                let read = SplitName::of(name).unwrap_or_else(|| panic!("{name}"));
                assert_eq!((read.part, read.plain), (part, true), "{name}");
            }
        }
        for name in
            ["trains", "trainer", "valley", "value", "tester", "testudo", "cats", "", "contest", "train_test"]
        {
            assert_eq!(SplitName::of(name), None, "{name}");
        }
        for name in ["seg_train", "bullet train", "test tube", "flowers-valid"] {
            assert!(!SplitName::of(name).unwrap().plain, "{name}");
        }
        assert_eq!(SplitName::of("seg_train").unwrap().rest, SplitName::of("SEG-test").unwrap().rest);
    }
}
