//! The same photo more than once: in one part of the data, in several, or under two labels.

use std::collections::HashMap;

use engraft_data::ContentHash;
use serde::{Deserialize, Serialize};

/// What a photo is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To learn from.
    Train,
    /// To choose the best epoch.
    Valid,
    /// For the final figure.
    Test,
}

/// Photos whose files have the same content as others'. All are numbers of the photos that were given, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Twins {
    /// Further copies within a split, each with the first one. A copy tells nothing new, and would count twice, in learning as in
    /// the figures.
    pub repeated: Vec<Twin>,
    /// Photos of validation or test with a copy in a split that comes before theirs (training, test, validation), with that copy. What was
    /// learnt or is part of the final figure says nothing about how well photos are told that nobody has seen.
    pub across: Vec<Twin>,
    /// Photos with a copy that has another label: all of each content, first copies together. None says what the photo shows.
    pub contradicting: Vec<Vec<usize>>,
}

/// A photo and the copy that is kept in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Twin {
    /// The photo that is left out.
    pub copy: usize,
    /// The photo that is kept.
    pub of: usize,
}

impl Twins {
    /// Finds the twins among photos, of which each is given by what its file hashes to, its split and its label; `None` for those that
    /// are of no use anyhow.
    ///
    /// Training has precedence over the test and the test over validation, so that a photo stays where its loss would hurt most.
    pub fn find(photos: impl IntoIterator<Item = Option<(ContentHash, Split, usize)>>) -> Twins {
        let photos: Vec<_> = photos.into_iter().collect();
        let mut first: HashMap<&ContentHash, usize> = HashMap::new();
        // Of the contents that occur more than once, in the order of their first copies.
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut group_of: HashMap<usize, usize> = HashMap::new();
        for (i, photo) in photos.iter().enumerate() {
            let Some((hash, ..)) = photo else { continue };
            let first = *first.entry(hash).or_insert(i);
            if first != i {
                let group = *group_of.entry(first).or_insert_with(|| {
                    groups.push(vec![first]);
                    groups.len() - 1
                });
                groups[group].push(i);
            }
        }
        groups.sort_unstable();

        let mut twins = Twins::default();
        let split = |i: usize| photos[i].map_or(Split::Train, |(_, split, _)| split);
        let label = |i: usize| photos[i].map(|(.., label)| label);
        for group in groups {
            if group.iter().any(|i| label(*i) != label(group[0])) {
                twins.contradicting.push(group);
                continue;
            }
            let precedence = |i: &&usize| (split(**i) == Split::Valid, split(**i) == Split::Test, **i);
            let Some(&kept) = group.iter().min_by_key(precedence) else { continue };
            for copy in group {
                let twin = Twin { copy, of: kept };
                if split(copy) != split(kept) {
                    twins.across.push(twin);
                } else if copy != kept {
                    twins.repeated.push(twin);
                }
            }
        }
        twins.repeated.sort_unstable();
        twins.across.sort_unstable();
        twins
    }

    /// The photos that are to be left out: copies, and those whose labels contradict each other.
    pub fn left_out(&self) -> impl Iterator<Item = usize> {
        let copies = self.repeated.iter().chain(&self.across).map(|twin| twin.copy);
        copies.chain(self.contradicting.iter().flatten().copied())
    }
}
