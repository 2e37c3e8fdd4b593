//! How many images a second one thread decodes and transforms for a network of ImageNet.
//!
//! `cargo run --release -p engraft-data --example throughput -- FOLDER`

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use engraft_data::{Image, Transform, images_below};

/// As in the program. glibc may give the memory of each picture back to the system and fetch it anew, which can
/// cost a fifth of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PASSES: usize = 10;

/// The time of one pass over all images.
struct Pass {
    decode: Duration,
    apply: Duration,
    /// Of `apply`: the resize and the crop. Measured by doing them once more.
    resize: Duration,
}

impl Pass {
    fn run(files: &[Vec<u8>]) -> Result<Pass, Box<dyn Error>> {
        let transform = Transform::imagenet();
        let mut pass = Pass { decode: Duration::ZERO, apply: Duration::ZERO, resize: Duration::ZERO };
        for bytes in files {
            let start = Instant::now();
            let image = Image::decode(bytes)?;
            let decoded = Instant::now();
            black_box(transform.apply(&image));
            let applied = Instant::now();
            black_box(transform.cropped(&image));
            pass.resize += applied.elapsed();
            pass.decode += decoded - start;
            pass.apply += applied - decoded;
        }
        Ok(pass)
    }

    fn total(&self) -> Duration {
        self.decode + self.apply
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("name a folder of images")?;
    let paths = images_below(folder.as_ref())?.images;
    let files: Vec<Vec<u8>> = paths.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    let passes: Vec<Pass> = (0..PASSES).map(|_| Pass::run(&files)).collect::<Result<_, _>>()?;
    let count = files.len() as f64;
    let best = passes.iter().min_by_key(|pass| pass.total()).filter(|_| count > 0.0);
    let best = best.ok_or("there are no images in this folder")?;
    let each = |time: Duration| 1e3 * time.as_secs_f64() / count;
    println!("{count} images, {:.1} a second", count / best.total().as_secs_f64());
    println!("decode {:.3} ms", each(best.decode));
    println!("resize {:.3} ms", each(best.resize));
    println!("rest   {:.3} ms", each(best.apply.saturating_sub(best.resize)));
    Ok(())
}
