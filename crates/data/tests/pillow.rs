//! Decoding, resizing and transforming against Pillow and torchvision; `parity/images.py` writes what is
//! expected.

use std::io::Read;
use std::path::{Path, PathBuf};

use engraft_data::{Decoded, Image, Interpolation, Note, Transform, resize};
use flate2::Crc;
use flate2::read::ZlibDecoder;
use rayon::prelude::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/fixtures/images")).join(name)
}

fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn crc(bytes: &[u8]) -> String {
    let mut crc = Crc::new();
    crc.update(bytes);
    format!("{:08x}", crc.sum())
}

#[test]
fn every_format_and_mode_decodes_to_pillows_bytes() {
    let expected: Vec<(String, u32, u32, String)> = read("decoded.json");
    assert!(expected.len() > 80);
    let mut wrong = Vec::new();
    for (name, width, height, pixels) in expected {
        let Ok(image) = Image::open(fixture(&name)).map_err(|error| wrong.push(error.to_string())) else {
            continue;
        };
        assert_eq!((image.width, image.height), (width, height), "{name}");
        if crc(&image.pixels) != pixels && !close(&name, &image.pixels) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pictures_of_every_format_are_turned_as_pillow_turns_them() {
    let expected: Vec<(String, u32, u32, String)> = read("upright.json");
    assert_eq!(expected.len(), 29);
    let transform = Transform { exif_orientation: true, ..Transform::imagenet() };
    for (name, width, height, pixels) in expected {
        let decoded = Decoded::from_bytes(&std::fs::read(fixture(&name)).unwrap()).unwrap();
        assert_eq!(decoded.notes.contains(Note::Turned), name != "orientation1.jpg", "{name}");
        assert_eq!((decoded.image.width, decoded.image.height), (9, 6), "{name} is not turned unasked");
        let image = transform.picture(decoded);
        assert_eq!((image.width, image.height, crc(&image.pixels)), (width, height, pixels), "{name}");
    }
}

/// Whether this is one of the few files whose pixels may be one level off, and they are.
fn close(name: &str, pixels: &[u8]) -> bool {
    let Ok(packed) = std::fs::read(fixture(&format!("{name}.rgb.z"))) else {
        return false;
    };
    let mut expected = Vec::new();
    ZlibDecoder::new(&packed[..]).read_to_end(&mut expected).unwrap();
    expected.len() == pixels.len() && expected.iter().zip(pixels).all(|(a, b)| a.abs_diff(*b) <= 1)
}

/// What `pattern` in `parity/images.py` makes.
fn pattern(width: u32, height: u32) -> Image {
    let length = width as usize * height as usize * 3;
    let mut state = 12345_u32;
    let pixels = (0..length)
        .map(|i| {
            state = state.wrapping_mul(1_103_515_245).wrapping_add(12345) & 0x7fff_ffff;
            ((state >> 16) as usize % 96 + i * 160 / length) as u8
        })
        .collect();
    Image { width, height, pixels }
}

#[test]
fn resizing_gives_pillows_bytes() {
    let rows: Vec<(Interpolation, u32, u32, u32, u32, String)> = read("resized.json");
    assert!(rows.len() > 80);
    for (filter, width, height, to_width, to_height, expected) in rows {
        let resized = resize(&pattern(width, height), to_width, to_height, filter);
        assert_eq!((resized.width, resized.height), (to_width, to_height));
        assert_eq!(crc(&resized.pixels), expected, "{filter:?} {width}x{height} -> {to_width}x{to_height}");
    }
}

#[test]
fn transforming_gives_torchvisions_bits() {
    let rows: Vec<(Interpolation, u32, u32, u32, u32, String, String)> = read("transformed.json");
    assert!(rows.len() > 100);
    for (interpolation, width, height, resize, crop, pixels, values) in rows {
        let transform = Transform { resize, crop, interpolation, ..Transform::imagenet() };
        let image = pattern(width, height);
        let what = format!("{interpolation:?} {width}x{height}, resize {resize}, crop {crop}");
        assert_eq!(crc(&transform.cropped(&image).pixels), pixels, "{what}");
        let bytes: Vec<u8> = transform.apply(&image).into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(crc(&bytes), values, "{what}");
    }
}

/// All photos that lie beside the repository, against hashes that `parity/images.py` made of them with Pillow.
#[test]
fn every_shared_photo_decodes_and_crops_to_pillows_bytes() {
    let photos = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    if !photos.is_dir() {
        println!("skipped: there is no folder ../shared/data");
        return;
    }
    let list = std::fs::read_to_string(fixture("photos.txt")).unwrap();
    let wrong: Vec<&str> = list
        .par_lines()
        .filter(|line| {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().unwrap();
            let (decoded, cropped, path) = (word(), word(), word());
            let image = Image::open(photos.join(path)).unwrap();
            let crop = Transform::imagenet().cropped(&image);
            (crc(&image.pixels), crc(&crop.pixels)) != (decoded.into(), cropped.into())
        })
        .collect();
    assert!(list.lines().count() > 900);
    assert!(wrong.is_empty(), "{} photos differ: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
}
