//! Files are written whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use engraft_tensor::{
    StateDict, Tensor, WriteError, read_metadata, write_atomically, write_safetensors_rows,
};

/// A file that the Python package wrote (`parity/state_dicts.py`).
fn file(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/fixtures/state_dicts")).join(name)
}

fn names_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn metadata() -> BTreeMap<String, String> {
    ["classes", "arch", "transform", "head", "format"]
        .map(|key| (key.to_string(), format!("{{\"{key}\": \"Käfer\"}}")))
        .into()
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.safetensors");
    let dict = StateDict::read_safetensors(&file("f32.safetensors")).unwrap();
    dict.write_safetensors(&path, &metadata()).unwrap();
    assert_eq!(StateDict::read_safetensors(&path).unwrap(), dict);
    assert_eq!(read_metadata(&path).unwrap(), metadata());
    assert_eq!(names_in(folder.path()), ["network.safetensors"]);
}

/// The reference is the file that the Python package wrote of the same tensors; only its header may have
/// another order.
#[test]
fn the_values_lie_as_the_python_package_lays_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.safetensors");
    StateDict::read_safetensors(&file("f32.safetensors"))
        .unwrap()
        .write_safetensors(&path, &BTreeMap::new())
        .unwrap();
    let values = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(header % 8, 0);
        bytes[8 + header..].to_vec()
    };
    assert_eq!(values(&path), values(&file("f32.safetensors")));
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let dict = StateDict::read_safetensors(&file("f32.safetensors")).unwrap();
    let mut reversed: Vec<_> = dict.clone().into_iter().collect();
    reversed.reverse();
    let reversed: StateDict = reversed.into_iter().collect();
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    dict.write_safetensors(&first, &metadata()).unwrap();
    reversed.write_safetensors(&second, &metadata()).unwrap();
    assert_eq!(fs::read(first).unwrap(), fs::read(second).unwrap());
}

/// A disk that fills up while the file is written.
#[test]
fn a_full_disk_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("best.safetensors");
    fs::write(&path, "old").unwrap();
    let error = write_atomically(&path, |file| {
        file.write_all(&[7; 100_000])?;
        Err(io::ErrorKind::StorageFull.into())
    })
    .unwrap_err();
    assert_eq!(error.to_string(), format!("cannot write {}: the disk is full", path.display()));
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(names_in(folder.path()), ["best.safetensors"]);
}

#[test]
fn a_missing_folder_is_named() {
    let error = StateDict::new()
        .write_safetensors(Path::new("nowhere/best.safetensors"), &BTreeMap::new())
        .unwrap_err();
    assert_eq!(error.to_string(), "cannot write nowhere/best.safetensors: the folder nowhere does not exist");
}

#[test]
fn a_folder_in_the_place_of_the_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("best.safetensors");
    fs::create_dir(&path).unwrap();
    let error = write_atomically(&path, |file| file.write_all(b"new")).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot write {}: ", path.display())), "{error}");
    assert_eq!(names_in(folder.path()), ["best.safetensors"]);
    assert!(path.is_dir());
}

#[test]
fn errors_of_the_system_become_sentences() {
    let says =
        |kind: io::ErrorKind| WriteError::new(Path::new("out/best.safetensors"), kind.into()).to_string();
    assert_eq!(
        says(io::ErrorKind::PermissionDenied),
        "cannot write out/best.safetensors: no permission to write in out"
    );
    assert_eq!(
        says(io::ErrorKind::ReadOnlyFilesystem),
        "cannot write out/best.safetensors: out is on a read-only file system"
    );
    assert_eq!(
        says(io::ErrorKind::QuotaExceeded),
        "cannot write out/best.safetensors: the disk quota is used up"
    );
}

/// The superuser may write anywhere, so for it there is nothing to test.
#[cfg(unix)]
#[test]
fn no_permission_is_an_error() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(folder.path().join("probe"), "").is_ok() {
        println!("skipped: this user may write in a read-only folder");
        return;
    }
    let path = folder.path().join("best.safetensors");
    let error = write_atomically(&path, |file| file.write_all(b"new")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot write {}: no permission to write in {}", path.display(), folder.path().display())
    );
}

/// Others may read the file if they may read a file that is written the ordinary way.
#[cfg(unix)]
#[test]
fn permissions_are_those_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let [ordinary, atomic] = ["ordinary", "atomic"].map(|name| folder.path().join(name));
    fs::write(&ordinary, "").unwrap();
    write_atomically(&atomic, |_| Ok(())).unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(atomic), mode(ordinary));
}

#[test]
fn rows_that_are_written_one_by_one_make_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, rows) = (folder.path().join("whole.safetensors"), folder.path().join("rows.safetensors"));
    let names = |count: usize| -> BTreeMap<String, String> {
        let names: Vec<String> = (0..count).map(|i| format!("Käfer {i}.jpg")).collect();
        [("paths".to_string(), names.join(" "))].into()
    };
    // All that were announced, some, and none.
    for count in [1200, 7, 0] {
        let values: Vec<f32> = (0..6 * count).map(|value| value as f32 - 0.5).collect();
        write_safetensors_rows(&rows, "features", &[2, 3], (1200, &names(1200)), |append| {
            values.chunks(6).try_for_each(append)?;
            Ok::<_, WriteError>(names(count))
        })
        .unwrap();
        let dict: StateDict =
            [("features".to_string(), Tensor::f32([count, 2, 3], values))].into_iter().collect();
        assert_eq!(StateDict::read_safetensors(&rows).unwrap(), dict);
        assert_eq!(read_metadata(&rows).unwrap(), names(count));
        if count == 1200 {
            dict.write_safetensors(&whole, &names(count)).unwrap();
            assert!(fs::read(&whole).unwrap() == fs::read(&rows).unwrap());
        }
    }
}

#[test]
fn rows_that_end_early_leave_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.safetensors");
    fs::write(&path, "old").unwrap();
    let none = BTreeMap::new();
    let stopped = || WriteError::new(Path::new("stopped"), io::Error::other("stopped"));
    let error = write_safetensors_rows(&path, "features", &[1], (2, &none), |append| {
        append(&[1.0])?;
        Err(stopped())
    });
    assert_eq!(error.unwrap_err().path, Path::new("stopped"));
    // Metadata that have no room.
    let error = write_safetensors_rows(&path, "features", &[1], (2, &none), |append| {
        append(&[1.0])?;
        Ok::<_, WriteError>(metadata())
    });
    assert!(error.unwrap_err().to_string().contains("the header is longer than was said"));
    assert_eq!(names_in(folder.path()), ["rows.safetensors"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}
