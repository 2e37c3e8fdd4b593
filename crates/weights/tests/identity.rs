//! Published weights are known by their content.

use std::fs;

use engraft_weights::sha256_of;
use engraft_zoo::{PublishedWeights, WEIGHTS, weights_of_sha256};

/// The example of FIPS 180-2, appendix B.1, and a file of many buffers against coreutils' `sha256sum`
/// (`head -c 300000 /dev/zero | sha256sum`).
#[test]
fn a_files_hash_is_that_of_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (b"abc".to_vec(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (vec![0; 300_000], "886715e4051e827f4fe215df3053af3f85ad0d352db2c829c7487af6d78efe30"),
    ];
    for (bytes, sha256) in cases {
        let path = folder.path().join("file");
        fs::write(&path, bytes).unwrap();
        assert_eq!(sha256_of(&path).unwrap(), sha256);
    }
}

#[test]
fn a_renamed_file_is_still_the_published_one_and_another_under_its_name_is_not() {
    let made_up = PublishedWeights { architecture: "net", file_name: "net-ba7816bf.pth", ..WEIGHTS[0] };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        sha256_of(&path).unwrap()
    };
    assert!(made_up.is_file_of(&file("my weights.pth", "abc")));
    assert!(!made_up.is_file_of(&file("net-ba7816bf.pth", "abd")));
    assert_eq!(weights_of_sha256(&file("resnet18-f37072fd.pth", "abc")), None);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = sha256_of(&folder.path().join("none.pth")).unwrap_err().to_string();
    assert!(message.contains("none.pth does not exist"), "{message}");
}
