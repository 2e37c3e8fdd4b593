//! Lists as people and their programs write them.

use std::fs;
use std::path::PathBuf;

use engraft_data::{DataError, Dataset, ListOptions, SplitSpec};
use tempfile::TempDir;

/// Twelve images in `DATA/photos`, and a list beside or in that folder.
fn data(list: &str, text: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("photos")).unwrap();
    (0..12).for_each(|i| fs::write(root.path().join(format!("photos/{i}.jpg")), "x").unwrap());
    let path = root.path().join(list);
    fs::write(&path, text).unwrap();
    (root, path)
}

fn read(text: impl AsRef<[u8]>) -> Result<Dataset, DataError> {
    let (_root, path) = data("labels.csv", text);
    Dataset::from_list(path, &ListOptions::default(), &SplitSpec::default())
}

/// What it was read as, and no warning.
fn read_as(text: impl AsRef<[u8]>) -> String {
    let dataset = read(text).unwrap();
    assert!(dataset.warnings.is_empty(), "{:?}", dataset.warnings);
    dataset.reading.to_string()
}

fn refusal(text: impl AsRef<[u8]>) -> String {
    let (root, path) = data("labels.csv", text);
    let result = Dataset::from_list(path, &ListOptions::default(), &SplitSpec::default());
    let message = result.expect_err("should be refused").to_string();
    message
        .replace(&format!("{}/", root.path().display()), "")
        .replace(&root.path().display().to_string(), "DATA")
}

/// Twelve lines, cats and dogs in turn, made by `line` from the number and the label.
fn twelve(line: impl Fn(usize, &str) -> String) -> String {
    (0..12).map(|i| line(i, ["cat", "dog"][i % 2]) + "\n").collect()
}

const TWELVE: &str = "a list, 12 photos, split 10/2/0; cat 6, dog 6";

#[test]
fn an_open_quotation_mark_is_an_error_of_its_line() {
    let lines = |bad: usize| {
        twelve(|i, label| format!("photos/{i}.jpg,{}{label}{}", if i == bad { "\"" } else { "" }, ""))
    };
    for bad in [0, 5, 11] {
        let expected = format!("labels.csv, line {}: a quotation mark is opened and not closed", bad + 1);
        assert_eq!(refusal(lines(bad)), expected);
    }
    let text = "photos/0.jpg,cat\nphotos/1.jpg,\"dog\nphotos/2.jpg,\"cat\"\nphotos/3.jpg,dog\n";
    assert_eq!(refusal(text), "labels.csv, line 2: a quotation mark is opened and not closed");
    assert_eq!(
        read_as(twelve(|i, label| format!("\"photos/{i}.jpg\",\"a \"\"{label}\"\", or so\""))),
        TWELVE.replace("cat", "a \"cat\", or so").replace("dog", "a \"dog\", or so")
    );
}

#[test]
fn semicolons_tabs_bars_and_a_named_separator_are_read() {
    for separator in [";", "\t", "|", ",", "  "] {
        assert_eq!(read_as(twelve(|i, label| format!("photos/{i}.jpg{separator}{label}"))), TWELVE);
    }
    let rows = twelve(|i, label| format!("photos/{i}.jpg;{label}"));
    assert_eq!(read_as(format!("sep=;\r\npath;label\r\n{}", rows.replace('\n', "\r\n"))), TWELVE);
    assert_eq!(read_as(format!("sep=;\r{}", rows.replace('\n', "\r"))), TWELVE);
    assert_eq!(read_as(format!("{rows};\n;\n")), TWELVE);
}

#[test]
fn a_line_with_another_number_of_columns_is_named() {
    let text = twelve(|i, label| format!("photos/{i}.jpg,{label}{}", if i == 7 { ", large" } else { "" }));
    assert_eq!(
        refusal(text),
        "labels.csv, line 8: it has 3 columns and most lines have 2, separated by ',': put a field that holds this sign into quotation marks"
    );
}

#[test]
fn an_unknown_header_is_told_by_the_files_that_exist() {
    assert_eq!(
        read_as("Bild;Klasse\n".to_owned() + &twelve(|i, label| format!("photos/{i}.jpg;{label}"))),
        TWELVE
    );
    assert_eq!(
        read_as("Klasse;Bild\n".to_owned() + &twelve(|i, label| format!("{label};photos/{i}.jpg"))),
        TWELVE
    );
    assert_eq!(
        read_as("filename;Klasse\n".to_owned() + &twelve(|i, label| format!("photos/{i}.jpg;{label}"))),
        TWELVE
    );
    assert_eq!(
        read_as("no;Bild;label\n".to_owned() + &twelve(|i, label| format!("{i};photos/{i}.jpg;{label}"))),
        TWELVE
    );
    assert_eq!(read_as(twelve(|i, label| format!("{label},photos/{i}.jpg"))), TWELVE);
}

#[test]
fn a_first_line_with_a_missing_file_is_no_header() {
    let text = "photos/gone.jpg;cat\n".to_owned() + &twelve(|i, label| format!("photos/{i}.jpg;{label}"));
    assert_eq!(refusal(text), "labels.csv: 1 of 13 files are not in DATA: photos/gone.jpg (line 1)");
}

#[test]
fn columns_that_could_each_be_the_label_are_shown() {
    let rows = twelve(|i, label| format!("photos/{i}.jpg;2024-05-{:02};pond;{label}", i % 9 + 1));
    assert_eq!(
        refusal(&rows),
        "labels.csv: which column is the label is not clear; there are 1 (photos/1.jpg), 2 (2024-05-02), 3 (pond), 4 (dog): \
         write a first line that names the columns \"path\" and \"label\" and the others anything, as in \"path;-;-;label\""
    );
    assert_eq!(
        refusal(format!("path;date;site;species\n{rows}")),
        "labels.csv: which column is the label is not clear; there are \"path\" (photos/0.jpg), \"date\" (2024-05-01), \"site\" (pond), \"species\" (cat): \
         in the first line, call one column \"path\" and one \"label\""
    );
    assert!(
        refusal(format!("path;class;site;label\n{rows}")).contains("which column is the label is not clear")
    );
    assert_eq!(read_as(format!("path;-;-;label\n{rows}")), TWELVE);
    assert_eq!(read_as(format!("Path;date;site;Label\n{rows}")), TWELVE);
}

#[test]
fn a_map_tells_the_label_among_columns_without_names() {
    let (_root, path) = data("labels.csv", twelve(|i, label| format!("photos/{i}.jpg {} {label}", i % 2)));
    let options = ListOptions { root: None, map: "0=ok,1=defective".parse().unwrap() };
    let dataset = Dataset::from_list(path, &options, &SplitSpec::default()).unwrap();
    assert_eq!(dataset.reading.classes, [("defective".to_owned(), 6), ("ok".to_owned(), 6)]);
}

#[test]
fn a_column_of_splits_without_its_name_decides_the_split() {
    let parts = ["train", "train", "Validation", "Validation", "test", "test"];
    let rows = twelve(|i, label| format!("photos/{i}.jpg,{label},{}", parts[i % 6]));
    assert_eq!(read_as(&rows), "a list with splits, 4/4/4; cat 6, dog 6");
    assert_eq!(read_as(format!("path,label,part\n{rows}")), "a list with splits, 4/4/4; cat 6, dog 6");
}

#[test]
fn backslashes_separate_folders() {
    assert_eq!(read_as(twelve(|i, label| format!("photos\\{i}.jpg,{label}"))), TWELVE);
    assert_eq!(read_as(twelve(|i, label| format!(".\\photos\\{i}.jpg;{label}"))), TWELVE);
    let message = refusal(twelve(|i, label| format!("C:\\photos\\{i}.jpg,{label}")));
    assert!(message.contains("12 of 12 files are not in DATA: C:\\photos\\0.jpg (line 1), "), "{message}");
    assert!(
        message.ends_with(", ...; they are paths of another computer: write them relative to the list"),
        "{message}"
    );
}

#[test]
fn paths_from_the_folder_above_are_found_and_it_is_said() {
    let text = twelve(|i, label| format!("photos/{i}.jpg,{label}"));
    let (root, path) = data("photos/labels.csv", &text);
    let dataset = Dataset::from_list(&path, &ListOptions::default(), &SplitSpec::default()).unwrap();
    let expected = format!("the paths in {} are relative to {}", path.display(), root.path().display());
    assert_eq!(dataset.warnings, [expected.as_str()]);
    assert!(dataset.train.iter().all(|sample| sample.path.is_file()));
    let (root, path) = data("labels.csv", &text);
    let options = ListOptions { root: Some(root.path().join("photos")), ..ListOptions::default() };
    let dataset = Dataset::from_list(&path, &options, &SplitSpec::default()).unwrap();
    assert!(dataset.warnings[0].ends_with(&format!("are relative to {}", root.path().display())));
}

#[test]
fn files_without_their_ending_are_hinted_at() {
    let message = refusal(twelve(|i, label| format!("photos/{i},{label}")));
    assert!(message.ends_with("; they are there with the ending .jpg: add it in the list"), "{message}");
}

#[test]
fn one_photo_spelt_in_two_ways_is_one() {
    let spelt =
        ["photos/0.jpg", "./photos/0.jpg", "photos//0.jpg", "photos/../photos/0.jpg", ".\\photos\\0.jpg"];
    for other in spelt {
        let rows = twelve(|i, label| format!("photos/{i}.jpg,{label}"));
        let dataset = read(format!("{rows}{other},cat\n")).unwrap();
        assert_eq!(dataset.reading.to_string(), TWELVE);
        assert!(dataset.warnings[0].ends_with("lines that name a file again and are not used: 1"));
        assert_eq!(
            refusal(format!("{rows}{other},dog\n")),
            format!("labels.csv: {other} is listed as \"cat\" in line 1 and as \"dog\" in line 13")
        );
    }
    let split = "path,label,split\nphotos/0.jpg,a,train\nphotos/1.jpg,b,train\n./photos/0.jpg,a,test\n";
    assert_eq!(
        refusal(split),
        "labels.csv, line 4: ./photos/0.jpg belongs to another split here than in line 2"
    );
}

#[test]
fn spelling_does_not_change_the_split() {
    let plain = read(twelve(|i, label| format!("photos/{i}.jpg,{label}"))).unwrap();
    let dotted = read(twelve(|i, label| format!(".\\photos\\{i}.jpg,{label}"))).unwrap();
    let names = |dataset: &Dataset| -> Vec<_> {
        dataset.valid.iter().map(|sample| sample.path.file_name().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&plain), names(&dotted));
}

#[test]
fn text_of_any_common_encoding_is_read() {
    let text = "path,label\n".to_owned()
        + &twelve(|i, label| {
            format!("photos/{i}.jpg,{}", label.replace("cat", "Käfer").replace("dog", "Fuß"))
        });
    let expected = "a list, 12 photos, split 10/2/0; Fuß 6, Käfer 6";
    let wide = |order: fn(u16) -> [u8; 2]| -> Vec<u8> { text.encode_utf16().flat_map(order).collect() };
    assert_eq!(read_as(&text), expected);
    assert_eq!(read_as(format!("\u{feff}{text}")), expected);
    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        assert_eq!(read_as(wide(order)), expected);
        assert_eq!(read_as([&order(0xfeff)[..], &wide(order)].concat()), expected);
    }
    let latin: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let dataset = read(latin).unwrap();
    assert_eq!(dataset.reading.to_string(), expected);
    assert_eq!(dataset.warnings.len(), 1);
    assert!(dataset.warnings[0].ends_with("labels.csv is not UTF-8 and was read as Windows-1252 (Latin-1): if letters look wrong, save it as UTF-8"));
}

#[test]
fn a_spreadsheet_and_a_photo_are_no_lists() {
    assert_eq!(refusal(b"PK\x03\x04 and so on"), "labels.csv is a spreadsheet: save it as CSV");
    for photo in [&b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01"[..], b"P6 2 1 255\n\xc8 \x28\x28 \xc8"] {
        assert!(refusal(photo).starts_with("labels.csv is no list of images"));
    }
}

#[test]
fn lines_without_a_label_are_named() {
    let text = twelve(|i, label| format!("photos/{i}.jpg,{}", if i % 3 == 1 { "" } else { label }));
    assert_eq!(refusal(text), "labels.csv, line 2: it has no label, nor have 3 other lines: 5, 8, 11");
}

#[test]
fn labels_that_look_alike_are_warned_of() {
    let dataset = read(twelve(|i, _| format!("photos/{i}.jpg,{}", ["cat", "Cat", "dog"][i % 3]))).unwrap();
    assert_eq!(dataset.warnings.len(), 1);
    assert!(
        dataset.warnings[0].starts_with("classes \"Cat\" and \"cat\" differ only in upper and lower case")
    );
}

/// A search of all classes for each row would need 10^9 comparisons.
#[test]
fn thirty_thousand_classes_are_no_matter() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a.jpg"), "x").unwrap();
    #[cfg(unix)]
    {
        // Names of one file are enough for as many photos.
        let text: String = (0..30_000).map(|i| format!("{i}.jpg,class {i}\n")).collect();
        (0..30_000).for_each(|i| {
            std::os::unix::fs::symlink("a.jpg", root.path().join(format!("{i}.jpg"))).unwrap();
        });
        let list = root.path().join("labels.csv");
        fs::write(&list, text).unwrap();
        let start = std::time::Instant::now();
        let split = SplitSpec { valid: 0.0, test: 0.0, seed: 0 };
        let dataset = Dataset::from_list(&list, &ListOptions::default(), &split).unwrap();
        assert_eq!(dataset.classes.len(), 30_000);
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
