//! What is noted of a picture besides its pixels.

use std::path::Path;

use engraft_data::{Decoded, Note, Notes};

fn notes(name: &str) -> Notes {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/fixtures/images"));
    Decoded::from_bytes(&std::fs::read(folder.join(name)).unwrap()).unwrap().notes
}

#[test]
fn each_file_has_its_notes_and_no_others() {
    use Note::{Alpha, Cmyk, Dark, Deep, Frames, Profile, Turned};
    let cases: [(&str, &[Note]); 39] = [
        ("rgb420.jpg", &[]),
        ("orientation1.jpg", &[]),
        ("exif_rotated.jpg", &[Turned]),
        ("orientation6.png", &[Turned]),
        ("orientation8.webp", &[Turned]),
        ("orientation2.tif", &[Turned]),
        ("cmyk.jpg", &[Cmyk]),
        ("cmyk.tif", &[Cmyk]),
        ("profile_srgb.jpg", &[]),
        ("profile_p3.jpg", &[Profile]),
        ("profile_p3.png", &[Profile]),
        ("profile_p3.webp", &[Profile]),
        ("profile_p3.tif", &[Profile]),
        ("rgb.png", &[]),
        ("opaque.png", &[]),
        ("rgba.png", &[Alpha]),
        ("la.png", &[Alpha]),
        ("rgba16.png", &[Alpha, Deep]),
        ("rgb_trns.png", &[]),
        ("palette8_trns.png", &[Alpha]),
        ("rgb16.png", &[Deep]),
        ("grey16.png", &[Deep]),
        ("grey16_dark.png", &[Deep, Dark]),
        ("animated.png", &[Frames]),
        ("rgb.bmp", &[]),
        ("palette.gif", &[]),
        ("transparent.gif", &[Alpha]),
        ("animated.gif", &[Frames]),
        ("rgb_raw.tif", &[]),
        ("rgba.tif", &[Alpha]),
        ("la.tif", &[Alpha]),
        ("grey16.tif", &[Deep]),
        ("grey16_dark.tif", &[Deep, Dark]),
        ("grey_float.tif", &[Deep]),
        ("two_pages.tif", &[Frames]),
        ("lossy.webp", &[]),
        ("lossy_alpha.webp", &[Alpha]),
        ("animated.webp", &[Frames]),
        ("rgb.ppm", &[]),
    ];
    for (name, expected) in cases {
        assert_eq!(notes(name), expected.iter().copied().collect::<Notes>(), "{name}");
    }
}

#[test]
fn notes_are_one_number_where_they_are_serialised() {
    let notes: Notes = [Note::Turned, Note::Profile].into_iter().collect();
    assert_eq!(serde_json::to_string(&notes).unwrap(), "9");
    assert_eq!(serde_json::from_str::<Notes>("9").unwrap(), notes);
    assert_eq!(notes.iter().collect::<Vec<_>>(), [Note::Turned, Note::Profile]);
    assert!(!notes.is_empty() && Notes::default().is_empty());
    for (number, note) in Note::ALL.into_iter().enumerate() {
        assert_eq!(note as usize, number);
    }
}
