//! Reading a weights file of any format: which one it is.

use std::path::Path;

use engraft_tensor::{ReadError, StateDict, first_bytes, is_safetensors};

use crate::{WeightsError, pytorch};

/// Enough to tell the formats apart: a tar archive says what it is at byte 257.
const BEGINNING: u64 = 262;

/// Reads a `.safetensors` file or a file of `torch.save` (zip, legacy or tar), whichever the content is.
///
/// `f16`, `bf16` and `f64` become `f32`. A state dict nested under `state_dict`, `model_state_dict` or
/// `model` is found, and the prefix that a wrapper gave all names (`module.` of DataParallel,
/// `_orig_mod.` of `torch.compile`, `model.` of Lightning) is taken off.
///
/// Values may be NaN or infinite: see [`StateDict::check_finite`].
///
/// # Errors
/// For a file that is missing, empty, cut short, no weights file, or holds another type of tensor.
pub fn read_state_dict(path: &Path) -> Result<StateDict, WeightsError> {
    let beginning = first_bytes(path, BEGINNING)?;
    if beginning.is_empty() {
        Err(ReadError::Empty { path: path.to_path_buf() }.into())
    } else if is_safetensors(&beginning) {
        Ok(StateDict::read_safetensors(path)?)
    } else if is_pytorch(&beginning) {
        pytorch::read(path)
    } else {
        Err(ReadError::not_weights(path, &beginning).into())
    }
}

/// The four containers of `torch.save`: zip, tar, and the legacy stream of pickles, all of which open with
/// protocol 2 or later (`0x80`).
fn is_pytorch(beginning: &[u8]) -> bool {
    beginning.starts_with(b"PK\x03\x04")
        || beginning.starts_with(b"\x80")
        || beginning.get(257..262) == Some(b"ustar")
}
