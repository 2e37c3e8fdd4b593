//! Labels of a list to classes: `0=ok,0.333=ok,0.667=defective,1=defective`.

use std::str::FromStr;

use crate::error::DataError;

/// Which class a label stands for.
///
/// Parsed from `LABEL=CLASS,LABEL=CLASS,...`. A label that is a number stands for every number within 0.0005
/// of it, so that `0.333` matches the `0.3333333333333333` of a file and `1` its `1.0` (but `0.33` matches
/// neither: write three decimals); if two are that near, the nearer one wins. Any other label matches its
/// own text alone.
///
/// ```
/// use engraft_data::LabelMap;
///
/// let map: LabelMap = "0=ok,0.333=ok,0.667=defective,1=defective".parse()?;
/// assert_eq!(map.class_of("0.6666666666666666"), Some("defective"));
/// assert_eq!(map.class_of("0.5"), None);
/// # Ok::<(), engraft_data::DataError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelMap {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    label: String,
    number: Option<f64>,
    class: String,
}

/// Half a unit of the third decimal, and a little for decimals that binary numbers cannot hold.
const TOLERANCE: f64 = 0.0005 + 1e-9;

impl LabelMap {
    /// The class of a label, if it has one. An empty map gives the label itself.
    pub fn class_of<'a>(&'a self, label: &'a str) -> Option<&'a str> {
        if self.entries.is_empty() {
            return Some(label);
        }
        if let Some(entry) = self.entries.iter().find(|entry| entry.label == label) {
            return Some(&entry.class);
        }
        let number = number(label)?;
        let distance = |entry: &Entry| entry.number.map_or(f64::INFINITY, |known| (known - number).abs());
        let nearest = self.entries.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
        (distance(nearest) <= TOLERANCE).then_some(&nearest.class)
    }

    /// Does every label stand for itself?
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The names of the classes, each once.
    pub(crate) fn classes(&self) -> impl Iterator<Item = &str> {
        let is_first = |(index, entry): &(usize, &Entry)| {
            self.entries[..*index].iter().all(|other| other.class != entry.class)
        };
        self.entries.iter().enumerate().filter(is_first).map(|(_, entry)| entry.class.as_str())
    }

    /// The labels, for a message.
    pub(crate) fn keys(&self) -> String {
        self.entries.iter().map(|entry| entry.label.as_str()).collect::<Vec<_>>().join(", ")
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

impl FromStr for LabelMap {
    type Err = DataError;

    fn from_str(text: &str) -> Result<LabelMap, DataError> {
        let bad = |problem: String| DataError::BadMap { problem };
        let mut map = LabelMap::default();
        for pair in text.split(',') {
            let (label, class) = pair.split_once('=').unwrap_or((pair, ""));
            let (label, class) = (label.trim(), class.trim());
            if label.is_empty() || class.is_empty() {
                return Err(bad(format!("{pair:?} is not LABEL=CLASS")));
            }
            if map.entries.iter().any(|entry| entry.label == label) {
                return Err(bad(format!("{label} occurs twice")));
            }
            map.entries.push(Entry { label: label.into(), number: number(label), class: class.into() });
        }
        Ok(map)
    }
}
