//! Files of `torch.save`, by the crate `pytorch-reader`: zip, legacy stream and tar. Nothing in a pickle is
//! executed.

use std::collections::HashMap;
use std::path::Path;

use engraft_tensor::{Element, ReadError, StateDict, Tensor, first_bytes};
use memchr::memmem;
use pytorch_reader::{DType, PickleError, PytorchError, PytorchReader};

use crate::WeightsError;

/// Keys under which training scripts save the state dict beside the optimizer's.
const NESTS: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// What wrappers put before every name: DataParallel, `torch.compile`, Lightning.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// The pickle with the names lies before the values; how much of the file is searched for them.
const NAMES_WITHIN: u64 = 16 << 20;

pub(crate) fn read(path: &Path) -> Result<StateDict, WeightsError> {
    let (nest, reader) = open(path).map_err(|error| open_error(path, error))?;
    let tensors = reader.into_tensors();
    if tensors.is_empty() {
        return Err(WeightsError::NotStateDict {
            path: path.to_path_buf(),
            reason: "there is no tensor in it".to_string(),
        });
    }
    let beginning = first_bytes(path, NAMES_WITHIN)?;
    let in_file_order = order(&beginning, nest, tensors.keys());
    let keeps_order = in_file_order.is_some();
    let names = in_file_order.unwrap_or_else(|| sorted(tensors.keys()));
    let dict = read_tensors(path, tensors, names)?;
    Ok(if keeps_order { dict } else { dict.without_order() })
}

/// Opens the file at its root, or at the dictionary that one of [`NESTS`] holds.
fn open(path: &Path) -> Result<(Option<&'static str>, PytorchReader), PytorchError> {
    let root = PytorchReader::new(path)?;
    for nest in NESTS {
        let is_below = |name: &String| name.strip_prefix(nest).is_some_and(|rest| rest.starts_with('.'));
        // A name like `model.weight` in a flat state dict is no nest: the key holds no dictionary, and
        // opening there fails.
        if root.tensors().keys().any(is_below)
            && let Ok(nested) = PytorchReader::with_top_level_key(path, nest)
        {
            return Ok((Some(nest), nested));
        }
    }
    Ok((None, root))
}

/// The names in the order in which the file has them, or `None` where that cannot be told.
///
/// `pytorch-reader` returns an unordered map. In the pickle each name stands before its tensor, as a string
/// with its length, and all of them before the values in all three containers; so the order of names is the
/// order of their first places in the file. The names of a whole pickled module are not there in one piece,
/// and a compressed archive shows none.
fn order<'a>(
    beginning: &[u8],
    nest: Option<&str>,
    names: impl Iterator<Item = &'a String>,
) -> Option<Vec<String>> {
    let start = nest.map_or(Some(0), |nest| position(beginning, nest))?;
    let pickle = beginning.get(start..)?;
    let mut places =
        names.map(|name| Some((position(pickle, name)?, name.clone()))).collect::<Option<Vec<_>>>()?;
    places.sort_unstable();
    Some(places.into_iter().map(|(_, name)| name).collect())
}

/// Where a pickle has this string: after the opcode for a text of up to 2^32 bytes (`BINUNICODE`), or of up
/// to 255 bytes (`SHORT_BINUNICODE`, and `SHORT_BINSTRING` of Python 2).
fn position(pickle: &[u8], text: &str) -> Option<usize> {
    let [a, b, c, d] = u32::try_from(text.len()).ok()?.to_le_bytes();
    memmem::find_iter(pickle, text).find(|&at| {
        let before = &pickle[..at];
        let is_short = text.len() < 256 && (before.ends_with(&[0x8c, a]) || before.ends_with(&[b'U', a]));
        is_short || before.ends_with(&[b'X', a, b, c, d])
    })
}

fn sorted<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<_> = names.cloned().collect();
    names.sort_unstable();
    names
}

fn read_tensors(
    path: &Path,
    mut tensors: HashMap<String, pytorch_reader::Tensor>,
    names: Vec<String>,
) -> Result<StateDict, WeightsError> {
    let prefix = wrapper_prefix(&names).len();
    let mut dict = StateDict::new();
    for name in names {
        let Some(stored) = tensors.remove(&name) else { continue };
        let element = element(stored.dtype()).ok_or_else(|| ReadError::UnsupportedType {
            path: path.to_path_buf(),
            tensor: name.clone(),
            dtype: format!("{:?}", stored.dtype()),
        })?;
        let bytes = stored.read().map_err(|error| ReadError::in_file(path, error))?;
        dict.insert(&name[prefix..], Tensor { shape: stored.shape().to_vec(), data: element.decode(&bytes) });
    }
    Ok(dict)
}

/// The longest run of [`WRAPPERS`] that all names begin with.
fn wrapper_prefix(names: &[String]) -> &str {
    let first = names.first().map_or("", String::as_str);
    let mut length = 0;
    while let Some(wrapper) = WRAPPERS.iter().find(|wrapper| first[length..].starts_with(**wrapper)) {
        let prefix = &first[..length + wrapper.len()];
        if !names.iter().all(|name| name.starts_with(prefix)) {
            break;
        }
        length = prefix.len();
    }
    &first[..length]
}

fn element(dtype: DType) -> Option<Element> {
    match dtype {
        DType::F16 => Some(Element::F16),
        DType::BF16 => Some(Element::BF16),
        DType::F32 => Some(Element::F32),
        DType::F64 => Some(Element::F64),
        DType::I64 => Some(Element::I64),
        _ => None,
    }
}

fn open_error(path: &Path, error: PytorchError) -> WeightsError {
    let not_state_dict = |reason: String| WeightsError::NotStateDict { path: path.to_path_buf(), reason };
    match error {
        PytorchError::Io(error) => ReadError::in_file(path, error).into(),
        PytorchError::Pickle(error @ (PickleError::UnsupportedType(_) | PickleError::NoDataSource)) => {
            not_state_dict(error.to_string())
        }
        // The one message of this variant that is about a sound file.
        PytorchError::InvalidFormat(reason) if reason.starts_with("Expected a dictionary") => {
            not_state_dict(reason)
        }
        error => ReadError::damaged(path, error).into(),
    }
}
