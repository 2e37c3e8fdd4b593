//! Which weights a file holds is a matter of its content.

use std::fs;
use std::path::Path;

use engraft::Pretrained;

/// A file that PyTorch's own check takes for `mobilenet_v2-7ebf99e0.pth` (IMAGENET1K_V2): zeros, and a number that was searched for until the
/// SHA-256 began with 7ebf99e0 (`sha256sum` says the same). Its size is that of the published file, as the catalogue knows it.
fn write_content_of_version_2(path: &Path) {
    let mut content = vec![0; 14_258_560];
    content.extend(770_696_252_u64.to_le_bytes());
    fs::write(path, content).unwrap();
}

fn resize(path: &Path) -> u32 {
    Pretrained::new("mobilenet_v2", path.to_str()).unwrap().transform().resize
}

#[test]
fn weights_are_known_by_their_content_whatever_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let renamed = folder.path().join("mine.pth");
    write_content_of_version_2(&renamed);
    assert_eq!(resize(&renamed), 232, "the transform of IMAGENET1K_V2");

    // The same but for one byte, under the published name.
    let named = folder.path().join("mobilenet_v2-7ebf99e0.pth");
    let mut content = fs::read(&renamed).unwrap();
    content[0] = 1;
    fs::write(&named, content).unwrap();
    assert_eq!(resize(&named), 256, "the transform of the original training");
    let notes = Pretrained::new("mobilenet_v2", named.to_str()).unwrap().notes();
    assert!(notes[0].contains("has the name of published weights and another content"), "{notes:?}");
    let notes = Pretrained::new("mobilenet_v2", renamed.to_str()).unwrap().notes();
    assert!(notes.is_empty(), "{notes:?}");

    // The weights of another network.
    let other = Pretrained::new("mobilenet_v3_small", renamed.to_str()).unwrap();
    assert_eq!(other.transform().resize, 256);
}
