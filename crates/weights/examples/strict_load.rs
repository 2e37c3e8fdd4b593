//! Loads a weights file strictly: every tensor of the architecture under its name and of its shape, and no other.
//!
//!     strict_load ARCH FILE
//!
//! prints name, shape and CRC-32 of the values (as `f32` or `i64`, little-endian) of each tensor; `strict_load` alone the
//! names of all architectures. `parity/strict_load.py` compares with what torch wrote.

use std::env;
use std::error::Error;
use std::path::Path;

use engraft_tensor::TensorData;
use engraft_weights::{match_state, read_state_dict};
use flate2::Crc;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [architecture, file] = arguments.as_slice() else {
        engraft_zoo::architectures().for_each(|name| println!("{name}"));
        return Ok(());
    };
    let path = Path::new(file);
    let specs = engraft_zoo::architecture(architecture)?.state();
    let matched = match_state(read_state_dict(path)?, &specs, &[], path, [])?;
    if let Some(note) = matched.note {
        return Err(note.into());
    }
    for (name, tensor) in matched.tensors.iter() {
        let mut crc = Crc::new();
        match &tensor.data {
            TensorData::F32(values) => crc.update(bytemuck::cast_slice(values)),
            TensorData::I64(values) => crc.update(bytemuck::cast_slice(values)),
        }
        println!("{name} {:?} {:08x}", tensor.shape, crc.sum());
    }
    Ok(())
}
