//! Named tensors in order.

use std::path::Path;

use indexmap::IndexMap;

use crate::{ReadError, Tensor};

/// What PyTorch calls a state dict: tensors by name, in order.
#[derive(Clone, Debug)]
pub struct StateDict {
    tensors: IndexMap<String, Tensor>,
    keeps_order: bool,
}

impl StateDict {
    /// An empty state dict, whose order will be that of insertion.
    pub fn new() -> Self {
        Self { tensors: IndexMap::new(), keeps_order: true }
    }

    /// Makes sure that no value is NaN or infinite, which would make every output so; `path` is the file that the values are from.
    ///
    /// # Errors
    /// Names the first tensor with such a value, and says how many there are.
    pub fn check_finite(&self, path: &Path) -> Result<(), ReadError> {
        let not_finite = |tensor: &Tensor| {
            tensor.as_f32().map_or(0, |values| values.iter().filter(|value| !value.is_finite()).count())
        };
        let mut found =
            self.iter().map(|(name, tensor)| (name, not_finite(tensor))).filter(|(_, count)| *count > 0);
        let Some((tensor, first)) = found.next() else { return Ok(()) };
        let count = first + found.map(|(_, count)| count).sum::<usize>();
        Err(ReadError::NotFinite { path: path.to_path_buf(), tensor: tensor.to_string(), count })
    }

    /// Adds or replaces a tensor, and returns the one that was replaced.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) -> Option<Tensor> {
        self.tensors.insert(name.into(), tensor)
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensor of this name, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Tensor> {
        self.tensors.get_mut(name)
    }

    /// Takes a tensor out; the order of the others stays. Linear in the number of tensors.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.shift_remove(name)
    }

    /// Names and tensors in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The names in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True when there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Whether the order is that in which the network defined its tensors.
    ///
    /// False for a safetensors file, whose writers sort by name (`features.10` before `features.2`), and for
    /// the few PyTorch files from which the order cannot be told: then the order is that of the names and
    /// says nothing.
    pub fn keeps_order(&self) -> bool {
        self.keeps_order
    }

    /// The same tensors under other names; of two that get the same name the later one stays.
    pub fn map_names(self, rename: impl Fn(String) -> String) -> Self {
        let tensors = self.tensors.into_iter().map(|(name, tensor)| (rename(name), tensor)).collect();
        Self { tensors, keeps_order: self.keeps_order }
    }

    /// The same tensors, of which nobody knows in which order the network defined them: see
    /// [`keeps_order`](Self::keeps_order).
    pub fn without_order(mut self) -> Self {
        self.keeps_order = false;
        self
    }

    /// BLAKE3 of all names, types, shapes and values. The order does not matter.
    pub fn hash(&self) -> [u8; 32] {
        self.hash_of(|_| true)
    }

    /// [`hash`](Self::hash) of the tensors whose names `belongs` accepts: the frozen part of a network, for
    /// example.
    pub fn hash_of(&self, belongs: impl Fn(&str) -> bool) -> [u8; 32] {
        let mut tensors: Vec<_> = self.iter().filter(|(name, _)| belongs(name)).collect();
        tensors.sort_unstable_by_key(|(name, _)| *name);
        let mut hasher = blake3::Hasher::new();
        for (name, tensor) in tensors {
            // Lengths come before what they count, so that no two state dicts feed the same bytes.
            hasher
                .update(&(name.len() as u64).to_le_bytes())
                .update(name.as_bytes())
                .update(tensor.dtype().as_bytes());
            hasher.update(&(tensor.shape.len() as u64).to_le_bytes());
            for &size in &tensor.shape {
                hasher.update(&(size as u64).to_le_bytes());
            }
            hasher.update(tensor.bytes());
        }
        hasher.finalize().into()
    }
}

impl Default for StateDict {
    fn default() -> Self {
        Self::new()
    }
}

/// Equal when the same names hold the same tensors, in any order.
impl PartialEq for StateDict {
    fn eq(&self, other: &Self) -> bool {
        self.tensors == other.tensors
    }
}

impl FromIterator<(String, Tensor)> for StateDict {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self { tensors: tensors.into_iter().collect(), keeps_order: true }
    }
}

impl IntoIterator for StateDict {
    type Item = (String, Tensor);
    type IntoIter = indexmap::map::IntoIter<String, Tensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.tensors.into_iter()
    }
}
