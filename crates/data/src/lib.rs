//! From image files to a network's input, to the byte as Pillow and torchvision do it.
//!
//! - [`Dataset`]: the labelled files of a folder or of a CSV list, divided into training, validation and
//!   test.
//! - [`Image`]: bytes decoded to RGB; [`Notes`]: what the pixels do not show of the file; [`resize`]: Pillow's
//!   antialiased resize.
//! - [`Transform`]: a picture to the input of a network: resize, centre crop, normalise.
//! - [`Batches`]: files read once, hashed, decoded and transformed on all cores, in batches. A
//!   [`ContentHash`] names a file's content in a cache, a [`FileStamp`] tells that a file is still the one
//!   that was read.
//!
//! Files come from strangers. Whatever is in them, the answer is pixels or an error with the path and a
//! reason, never a panic.
//!
//! ```
//! use engraft_data::{Image, Transform};
//!
//! let pgm = b"P5\n2 2\n255\n\x00\x40\x80\xff";
//! let image = Image::decode(pgm)?;
//! assert_eq!((image.width, image.height, image.pixels.len()), (2, 2, 12));
//!
//! let input = Transform::imagenet().apply(&image);
//! assert_eq!(input.len(), 3 * 224 * 224);
//! # Ok::<(), engraft_data::DecodeError>(())
//! ```

mod columns;
mod dataset;
mod decode;
mod error;
mod file;
mod folder;
mod gif;
mod ignored;
mod jpeg;
mod labels;
mod layout;
mod list;
mod list_paths;
mod loader;
mod names;
mod notes;
mod raster;
mod reading;
mod resize;
mod split;
mod split_name;
mod table;
mod text;
mod tiff;
mod transform;
mod walk;

/// Changes when the same file gives another input of a network, other notes or other faults than before.
pub const VERSION: u32 = 1;

pub use dataset::{Dataset, Sample};
pub use decode::{Decoded, Image, MAX_PIXELS};
pub use error::{DataError, DecodeError, ImageError};
pub use file::{ContentHash, FileStamp, MAX_FILE_BYTES};
pub use ignored::{Ignored, Reason, condensed};
pub use labels::LabelMap;
pub use list::ListOptions;
pub use loader::{Batch, Batches, Content, Failed, Known, Picture};
pub use notes::{Note, Notes};
pub use reading::{Reading, Source};
pub use resize::{Interpolation, resize};
pub use split::SplitSpec;
pub use transform::Transform;
pub use walk::{Found, images_below};
