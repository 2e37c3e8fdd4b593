//! Files that are no usable pictures, and pictures of unusual sizes.

use std::path::{Path, PathBuf};

use engraft_data::{Batch, Batches, Failed, FileStamp, Image, Transform};
use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/fixtures/images"));
    std::fs::read(folder.join(name)).unwrap()
}

fn message(bytes: &[u8]) -> String {
    Image::decode(bytes).expect_err("should not decode").to_string()
}

#[test]
fn a_truncated_file_is_an_error_in_every_format() {
    let names =
        ["rgb420.jpg", "progressive.jpg", "cmyk.jpg", "rgb.png", "rgb.bmp", "palette.gif", "rgb_raw.tif"];
    for name in names {
        let bytes = fixture(name);
        for percent in [50, 75, 90] {
            let message = message(&bytes[..bytes.len() * percent / 100]);
            assert!(message.contains("truncated"), "{name} cut at {percent} %: {message}");
        }
    }
    let webp = fixture("lossy.webp");
    assert!(message(&webp[..webp.len() / 2]).contains("damaged"));
}

#[test]
fn a_jpeg_that_ends_early_with_an_end_marker_is_truncated() {
    let mut bytes = fixture("rgb444.jpg");
    bytes.truncate(bytes.len() * 3 / 4);
    bytes.extend([0xff, 0xd9]);
    assert!(message(&bytes).contains("truncated"));
}

#[test]
fn a_jpeg_that_lacks_only_its_end_marker_is_complete() {
    let bytes = fixture("rgb420.jpg");
    let (whole, without) = (Image::decode(&bytes), Image::decode(&bytes[..bytes.len() - 2]));
    assert_eq!(whole.unwrap(), without.unwrap());
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    assert_eq!(message(b""), "the file is empty");
    let words = message(b"These are words, not pixels.");
    assert!(words.contains("it is no image that can be read (JPEG, PNG,"), "{words}");
    assert!(words.ends_with("it begins with the text \"These are words, not pix\""), "{words}");
    assert!(message(&[0, 1, 2, 0xfe]).ends_with("it begins with the bytes 00 01 02 fe"));
}

#[test]
fn a_jpeg_of_12_bits_is_not_supported() {
    let mut bytes = fixture("grey.jpg");
    let frame = bytes.windows(4).position(|at| at == [0xff, 0xc0, 0, 11]).unwrap();
    (bytes[frame + 1], bytes[frame + 4]) = (0xc1, 12);
    let expected =
        "JPEG of this kind is not supported (12-bit samples): save the image as an 8-bit JPEG or PNG";
    assert_eq!(message(&bytes), expected);
}

#[test]
fn a_tiff_with_a_palette_is_not_supported() {
    let mut bytes = fixture("rgb_raw.tif");
    let photometric = bytes.windows(4).position(|at| at == [0x06, 0x01, 3, 0]).unwrap();
    bytes[photometric + 8] = 3;
    let expected = "TIFF of this kind is not supported (a palette): save the image as an 8-bit JPEG or PNG";
    assert_eq!(message(&bytes), expected);
}

#[test]
fn too_many_pixels_are_refused_before_they_are_allocated() {
    let mut bytes = fixture("rgb.png");
    bytes[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    let check = crc_of_header(&bytes);
    bytes[29..33].copy_from_slice(&check);
    assert!(message(&bytes).starts_with("30000 x 30000 pixels are too many"), "{}", message(&bytes));
}

fn crc_of_header(png: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(&png[12..29]);
    crc.sum().to_be_bytes()
}

#[test]
fn one_pixel_becomes_a_whole_input() {
    let image = Image::decode(&fixture("one_pixel.jpg")).unwrap();
    assert_eq!((image.width, image.height), (1, 1));
    let input = Transform::imagenet().apply(&image);
    assert_eq!(input.len(), 3 * 224 * 224);
    let red = (f32::from(image.pixels[0]) / 255.0 - 0.485) / 0.229;
    assert!(input[..224 * 224].iter().all(|value| *value == red));
}

#[test]
fn a_photo_of_12000_by_9000_pixels_becomes_an_input() {
    let (width, height) = (12_000, 9_000);
    let mut pixels = vec![40; width * height];
    pixels[width * height / 2..].fill(200);
    let bytes = compress(&pixels, width, height, PixelFormat::Grayscale, 75, Subsampling::S444).unwrap();
    drop(pixels);
    let image = Image::decode(&bytes).unwrap();
    assert_eq!((image.width, image.height), (12_000, 9_000));
    let crop = Transform::imagenet().cropped(&image);
    assert_eq!((crop.width, crop.height), (224, 224));
    assert_eq!((crop.pixels[0], crop.pixels[3 * 224 * 224 - 1]), (40, 200));
}

/// Ten pictures, three of them bad.
fn folder_with_bad_files() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let photo = fixture("rgb420.jpg");
    let mut paths = Vec::new();
    for index in 0..10 {
        let path = folder.path().join(format!("{index}.jpg"));
        match index {
            2 => std::fs::write(&path, &photo[..photo.len() / 2]).unwrap(),
            3 => std::fs::write(&path, "not a photo").unwrap(),
            9 => {}
            _ => std::fs::write(&path, [&photo[..], &[index]].concat()).unwrap(),
        }
        paths.push(path);
    }
    (folder, paths)
}

fn indices_of(batch: &Batch) -> Vec<usize> {
    batch.pictures.iter().map(|picture| picture.index).collect()
}

#[test]
fn batches_are_full_in_order_and_name_the_files_that_fail() {
    let (_folder, paths) = folder_with_bad_files();
    let transform = Transform { resize: 20, crop: 16, ..Transform::imagenet() };
    let expected = transform.apply(&Image::open(&paths[0]).unwrap());
    let batches: Vec<_> = Batches::new(paths.clone(), transform, 3).collect();
    let indices: Vec<Vec<usize>> = batches.iter().map(indices_of).collect();
    assert_eq!(indices, [&[0, 1, 4][..], &[5, 6, 7], &[8]]);
    for batch in &batches {
        assert_eq!(batch.images.len(), batch.pictures.len() * expected.len());
        assert!(batch.images.chunks(expected.len()).all(|image| image == expected));
    }
    let failed: Vec<_> = batches.iter().flat_map(|batch| &batch.failed).collect();
    assert_eq!(failed.iter().map(|failed| failed.index).collect::<Vec<_>>(), [2, 3, 9]);
    let words =
        ["2.jpg: the image file is truncated", "3.jpg: it is no image", "9.jpg: cannot read the file"];
    for (Failed { error, .. }, words) in failed.iter().zip(words) {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn batches_can_be_dropped_early_and_can_be_empty() {
    let (_folder, paths) = folder_with_bad_files();
    let transform = Transform::imagenet();
    let mut batches = Batches::new(paths, transform.clone(), 1);
    assert_eq!(indices_of(&batches.next().unwrap()), [0]);
    drop(batches);
    assert_eq!(Batches::new(Vec::new(), transform, 4).count(), 0);
}

#[test]
fn many_batches_stay_in_order() {
    let (_folder, paths) = folder_with_bad_files();
    let paths = vec![paths[0].clone(); 300];
    let transform = Transform { resize: 8, crop: 8, ..Transform::imagenet() };
    let seen: Vec<usize> = Batches::new(paths, transform, 2).flat_map(|batch| indices_of(&batch)).collect();
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
}

#[test]
fn what_is_known_is_hashed_and_not_decoded() {
    let (_folder, paths) = folder_with_bad_files();
    let hash = |index: usize| *blake3::hash(&std::fs::read(&paths[index]).unwrap()).as_bytes();
    let (known, broken) = ([hash(0), hash(4), hash(3)], hash(2));
    let transform = Transform { resize: 8, crop: 8, ..Transform::imagenet() };
    let skipping = Batches::skipping(paths.clone(), transform, 100, move |hash| known.contains(hash));
    let batches: Vec<Batch> = skipping.collect();
    assert_eq!(batches.len(), 1);
    let batch = &batches[0];
    assert_eq!(batch.paths(), 10);
    assert_eq!(indices_of(batch), [1, 5, 6, 7, 8]);
    assert_eq!(batch.images.len(), 5 * 3 * 8 * 8);
    let skipped: Vec<_> = batch.known.iter().map(|known| (known.index, known.content.hash)).collect();
    // 3 is no image, which nobody looked at.
    assert_eq!(skipped, [(0, known[0]), (3, known[2]), (4, known[1])]);
    for picture in &batch.pictures {
        assert_eq!(picture.content.hash, hash(picture.index));
        assert_eq!(picture.content.stamp, FileStamp::of(&paths[picture.index]).unwrap());
    }
    let failed: Vec<_> =
        batch.failed.iter().map(|failed| (failed.index, failed.content.map(|c| c.hash))).collect();
    assert_eq!(failed, [(2, Some(broken)), (9, None)]);
}

#[test]
fn many_known_files_are_handed_out_before_a_batch_is_full() {
    let (_folder, paths) = folder_with_bad_files();
    let paths = vec![paths[0].clone(); 2500];
    let batches = Batches::skipping(paths, Transform::imagenet(), 16, |_| true);
    let counts: Vec<_> = batches.map(|batch| (batch.pictures.len(), batch.known.len())).collect();
    assert_eq!(counts, [(0, 1024), (0, 1024), (0, 452)]);
}

#[test]
fn a_panic_is_an_error_of_its_file_and_nobody_waits() {
    let (_folder, paths) = folder_with_bad_files();
    let bad = *blake3::hash(&std::fs::read(&paths[5]).unwrap()).as_bytes();
    let transform = Transform { resize: 8, crop: 8, ..Transform::imagenet() };
    let batches = Batches::skipping(paths, transform, 4, move |hash| {
        assert_ne!(*hash, bad, "a test of what a panic does");
        false
    });
    let failed: Vec<_> = batches.flat_map(|batch| batch.failed).collect();
    assert_eq!(failed.iter().map(|failed| failed.index).collect::<Vec<_>>(), [2, 3, 5, 9]);
    let message = failed[2].error.to_string();
    assert!(message.contains("5.jpg: the program failed on this image"), "{message}");
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.jpg");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let socket = folder.path().join("socket.jpg");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [pipe, socket, "/dev/zero".into(), folder.path().into()] {
        let message = Image::open(&path).unwrap_err().to_string();
        assert_eq!(message, format!("{}: it is no regular file", path.display()));
        assert!(FileStamp::of(&path).is_err());
        let batch = Batches::new(vec![path], Transform::imagenet(), 1).next().unwrap();
        assert_eq!((batch.failed.len(), batch.paths()), (1, 1));
    }
}

#[test]
fn a_file_beyond_the_limit_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.jpg");
    std::fs::File::create(&path).unwrap().set_len(40 << 30).unwrap();
    let message = Image::open(&path).unwrap_err().to_string();
    assert!(
        message.ends_with("too large for an image: 42949672960 bytes (the limit is 536,870,912)"),
        "{message}"
    );
}

#[test]
fn a_stamp_changes_with_the_file() {
    let (_folder, paths) = folder_with_bad_files();
    let first = FileStamp::of(&paths[0]).unwrap();
    assert_eq!(first.size, std::fs::metadata(&paths[0]).unwrap().len());
    assert_eq!(first, FileStamp::of(&paths[0]).unwrap());
    let file = std::fs::File::options().write(true).open(&paths[0]).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    file.set_modified(later).unwrap();
    let touched = FileStamp::of(&paths[0]).unwrap();
    assert_eq!((touched.size, touched.inode), (first.size, first.inode));
    assert!(touched.mtime_ns > first.mtime_ns + 1_000_000_000);
    std::fs::remove_file(&paths[1]).unwrap();
    assert!(FileStamp::of(&paths[1]).unwrap_err().to_string().contains("1.jpg: cannot read the file"));
}

/// A 1 x 1 TIFF of one floating-point number.
fn float_tiff(value: f32) -> Vec<u8> {
    let entries: [(u16, u16, u32); 9] = [
        (256, 3, 1),
        (257, 3, 1),
        (258, 3, 32),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (279, 4, 4),
        (339, 3, 3),
    ];
    let mut bytes = b"II*\0\x0c\0\0\0".to_vec();
    bytes.extend(value.to_le_bytes());
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn floating_point_samples_are_read_in_two_ranges_and_refused_beyond() {
    for (value, byte) in [(0.0, 0), (0.5, 128), (1.0, 255), (1.5, 1), (200.9, 200), (255.0, 255)] {
        assert_eq!(Image::decode(&float_tiff(value)).unwrap().pixels, [byte; 3], "{value}");
    }
    for value in [-0.5, 255.5, 40000.0, f32::NAN, f32::INFINITY] {
        let message = message(&float_tiff(value));
        assert!(message.starts_with("TIFF of this kind is not supported (values "), "{message}");
        assert!(message.contains("numbers are read from 0 to 1 or from 0 to 255"), "{message}");
    }
}

#[test]
fn a_jpeg_of_very_many_scans_is_refused() {
    let bytes = fixture("progressive.jpg");
    let start = bytes.windows(2).rposition(|at| at == [0xff, 0xda]).unwrap();
    let end = bytes.len() - 2;
    let scan = &bytes[start..end];
    let message = message(&[&bytes[..end], &scan.repeat(200), &[0xff, 0xd9]].concat());
    assert!(message.contains("JPEG") && message.contains("100"), "{message}");
}

#[test]
fn content_is_hashed_by_blake3_also_of_what_is_not_decoded() {
    let (_folder, paths) = folder_with_bad_files();
    let mut batch = Batches::skipping(paths.clone(), Transform::imagenet(), 16, |_| true).next().unwrap();
    batch.known.sort_by_key(|known| known.index);
    assert_eq!((batch.known.len(), batch.failed.len()), (9, 1));
    for known in &batch.known {
        let expected = blake3::hash(&std::fs::read(&paths[known.index]).unwrap());
        assert_eq!(known.content.hash, *expected.as_bytes());
    }
    assert_ne!(batch.known[0].content.hash, batch.known[1].content.hash);
    assert!(batch.failed[0].error.to_string().contains("9.jpg: cannot read the file"));
}
