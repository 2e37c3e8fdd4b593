//! Alone in its process, because it measures the memory of all of it.

use std::io::Write;

use engraft_data::Image;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/fixtures/images/rgb.png");

#[test]
fn a_profile_that_inflates_without_end_costs_no_memory_and_not_the_picture() {
    let plain = std::fs::read(FIXTURE).unwrap();
    let mut profile = flate2::write::ZlibEncoder::new(b"bomb\0\0".to_vec(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    (0..1024).for_each(|_| profile.write_all(&zeros).unwrap());
    let profile = [&b"iCCP"[..], &profile.finish().unwrap()].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&profile);
    let length = (profile.len() as u32 - 4).to_be_bytes();
    let bomb = [&plain[..33], &length, &profile, &crc.sum().to_be_bytes(), &plain[33..]].concat();
    let before = peak_memory();
    assert_eq!(Image::decode(&bomb).unwrap(), Image::decode(&plain).unwrap());
    if let (Some(before), Some(after)) = (before, peak_memory()) {
        assert!(after - before < 300 << 20, "{} MiB", (after - before) >> 20);
    }
}

/// The most memory that the process has had, in bytes, where Linux tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}
