//! Every format of `torch.save` and safetensors, compared with what torch reads; and files that are none.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use engraft_tensor::{ReadError, read_metadata};
use engraft_weights::{WeightsError, read_state_dict};
use proptest::prelude::*;
use support::{assert_holds, expected, file};
use tempfile::TempDir;

#[test]
fn every_pytorch_format_gives_what_torch_reads_in_the_order_of_the_file() {
    let expected = expected();
    let files = [
        "zip.pth",
        "legacy.pth",
        "tar.pth",
        "protocol4.pth",
        "views.pth",
        "views_legacy.pth",
        "views_tar.pth",
        "f64.pth",
        "f16.pth",
        "half_module.pth",
        "bf16.pth",
        "parameters.pth",
        "densenet_old_names.pth",
        "vit_old_names.pth",
        "nested.pth",
        "nested_model.pth",
        "data_parallel.pth",
        "nested_data_parallel.pth",
    ];
    for name in files {
        let dict = read_state_dict(&file(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_holds(&dict, &expected[name], name);
        assert!(dict.keeps_order(), "{name}");
    }
}

#[test]
fn a_whole_pickled_module_is_read_without_its_order() {
    let mut by_name = expected()["whole_module.pth"].clone();
    by_name.as_array_mut().unwrap().sort_by_key(|entry| entry[0].as_str().unwrap().to_string());
    let dict = read_state_dict(&file("whole_module.pth")).unwrap();
    assert_holds(&dict, &by_name, "whole_module.pth");
    assert!(!dict.keeps_order());
}

#[test]
fn safetensors_give_what_the_python_package_reads() {
    let expected = expected();
    for name in ["f32.safetensors", "f16.safetensors", "bf16.safetensors"] {
        let dict = read_state_dict(&file(name)).unwrap();
        assert!(!dict.keeps_order());
        let in_file_order = dict.names().map(|name| name.to_string()).collect::<Vec<_>>();
        let mut list = expected[name].clone();
        list.as_array_mut()
            .unwrap()
            .sort_by_key(|entry| in_file_order.iter().position(|name| name == entry[0].as_str().unwrap()));
        assert_holds(&dict, &list, name);
    }
}

#[test]
fn metadata_is_read_without_the_tensors() {
    let metadata = read_metadata(&file("f16.safetensors")).unwrap();
    let text = |text: &str| text.to_string();
    assert_eq!(metadata, BTreeMap::from([(text("epoch"), text("3")), (text("format"), text("pt"))]));
    assert_eq!(read_metadata(&file("bool.safetensors")).unwrap(), BTreeMap::new());
    let error = read_metadata(&file("zip.pth")).unwrap_err().to_string();
    assert!(error.contains("is no weights file"), "{error}");
}

#[test]
fn code_in_a_pickle_is_not_run() {
    let error = read_error(&file("command.pth"));
    assert!(error.contains("command.pth holds no state dict"), "{error}");
    assert!(error.contains("found posix.system"), "{error}");
    assert!(error.contains("no code in a weights file is ever run"), "{error}");

    let dict = read_state_dict(&file("command_beside_tensors.pth")).unwrap();
    assert_eq!(dict.names().collect::<Vec<_>>(), ["weight"]);
    assert!(!Path::new("code-in-a-weights-file-was-run").exists());
}

#[test]
fn what_is_no_state_dict_says_so() {
    let error = read_error(&file("list.pth"));
    assert!(error.contains("list.pth holds no state dict (Expected a dictionary at the root"), "{error}");
    assert!(error.contains("Save one with torch.save(model.state_dict(), ...)"), "{error}");
    let error = read_error(&file("no_tensor.pth"));
    assert!(error.contains("no_tensor.pth holds no state dict (there is no tensor in it)"), "{error}");
}

#[test]
fn other_types_are_named() {
    let error = read_error(&file("int32.pth"));
    assert!(
        error
            .ends_with("int32.pth: tensor `table` has the type I32; f16, bf16, f32, f64 and i64 can be read"),
        "{error}"
    );
    let error = read_error(&file("bool.safetensors"));
    assert!(
        error.ends_with(
            "bool.safetensors: tensor `mask` has the type BOOL; f16, bf16, f32, f64 and i64 can be read"
        ),
        "{error}"
    );
}

#[test]
fn nan_and_infinity_are_counted() {
    let path = file("not_finite.pth");
    let error = read_state_dict(&path).unwrap().check_finite(&path).unwrap_err().to_string();
    assert!(
        error.contains(
            "not_finite.pth contains 3 values that are NaN or infinite, the first of them in tensor `bad`"
        ),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_there() {
    let error = read_state_dict(Path::new("nowhere/vgg13.pth")).unwrap_err();
    assert_eq!(error.to_string(), "the weights file nowhere/vgg13.pth does not exist");
}

#[test]
fn a_folder_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = read_error(folder.path());
    assert!(
        error.starts_with(&format!("cannot read the weights file {}: ", folder.path().display())),
        "{error}"
    );
}

#[test]
fn files_that_are_no_weights_show_how_they_begin() {
    let (_folder, path) = write(b"");
    assert_eq!(
        read_error(&path),
        format!("the weights file {} is empty: delete it and fetch it again", path.display())
    );

    let (_folder, path) = write(b"\n<!DOCTYPE html>\n<html><head><title>404 Not Found</title>");
    let error = read_error(&path);
    assert!(error.contains("model.pth is no weights file: it begins with `<!DOCTYPE html>`."), "{error}");
    assert!(error.contains("a download that failed may have saved a web page in its place"), "{error}");

    let (_folder, path) = write(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a");
    let error = read_error(&path);
    assert!(error.contains("it begins with `version https://git-lfs.github.com/spec/`"), "{error}");

    let (_folder, path) = write(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    let error = read_error(&path);
    assert!(error.contains("it begins with `89 50 4e 47 0d 0a 1a 0a`"), "{error}");
}

/// Every length for the small files, so that each part of the format is once the one that is cut.
#[test]
fn a_file_cut_short_anywhere_is_an_error_that_says_so() {
    for name in ["views.pth", "views_legacy.pth", "legacy.pth", "views_tar.pth", "f32.safetensors", "zip.pth"]
    {
        let whole = fs::read(file(name)).unwrap();
        // A tar archive ends in blocks of zeros, and may do without them.
        let end = whole.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        let (_folder, path) = write(&whole);
        let cut = File::options().write(true).open(&path).unwrap();
        for length in (0..end).rev() {
            cut.set_len(length as u64).unwrap();
            let error = read_state_dict(&path).expect_err(&format!("{name} cut to {length} bytes"));
            let is_told = match error {
                WeightsError::Read(ReadError::Empty { .. }) => length == 0,
                WeightsError::Read(ReadError::NotWeights { .. }) => length < 262,
                WeightsError::Read(ReadError::Damaged { .. }) => {
                    error.to_string().contains("is damaged or cut short (")
                }
                _ => false,
            };
            assert!(is_told, "{name} cut to {length} bytes: {error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a damaged file reads as, it must not panic.
    #[test]
    fn a_damaged_file_does_not_panic(
        which in 0..4usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let name = ["views.pth", "views_legacy.pth", "views_tar.pth", "f32.safetensors"][which];
        let mut bytes = fs::read(file(name)).unwrap();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let (_folder, path) = write(&bytes);
        let _ = read_state_dict(&path);
    }
}

fn write(content: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pth");
    fs::write(&path, content).unwrap();
    (folder, path)
}

fn read_error(path: &Path) -> String {
    read_state_dict(path).expect_err("it cannot be read").to_string()
}
