//! A CSV list of paths and labels as a dataset.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use crate::dataset::{Dataset, Sample};
use crate::error::DataError;
use crate::labels::LabelMap;
use crate::split::{SplitSpec, Unassigned};

/// How a list is read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListOptions {
    /// What paths in the list are relative to; `None`: the list's own folder.
    pub root: Option<PathBuf>,
    /// Classes for labels; an empty map takes each label as the name of its class.
    pub map: LabelMap,
}

/// Names of columns, in lower case.
const PATH_COLUMNS: [&str; 9] =
    ["path", "filename", "file", "image", "file_name", "filepath", "image_path", "img", "image_id"];
const LABEL_COLUMNS: [&str; 3] = ["label", "class", "target"];

/// How many rows a message names.
const SHOWN: usize = 5;

/// One line of the list.
struct Row {
    line: usize,
    path: String,
    label: String,
    split: Option<Split>,
}

#[derive(Clone, Copy)]
enum Split {
    Train,
    Valid,
    Test,
}

impl Dataset {
    /// Reads a list of image files and their labels.
    ///
    /// The columns are separated by tabs, semicolons, commas or runs of spaces; which one it is, the lines
    /// tell. If the first line names columns (`path`, `file`, `filename` or `image`, and `label`, `class` or
    /// `target`), those are used, else the first is the path and the second the label; others are passed
    /// over. Fields may be quoted (RFC 4180).
    ///
    /// A named column `split` with `train`, `valid` (or `val`) and `test` decides the split, and only
    /// validation images that it does not give are taken from `train`; without that column, `split` divides
    /// all.
    ///
    /// The files may be of any format that [`Image::decode`](crate::Image::decode) reads, GIF included.
    ///
    /// # Errors
    /// When the list cannot be read or is none; a file does not exist; a label has no class in the map; a
    /// file is listed with two labels; there are fewer than two classes, or a class is too small to be
    /// split.
    pub fn from_list(
        list: impl AsRef<Path>,
        options: &ListOptions,
        split: &SplitSpec,
    ) -> Result<Dataset, DataError> {
        let list = list.as_ref();
        split.check()?;
        let rows = read(list)?;
        let labels = classes_of(&rows, &options.map, list)?;
        let mut dataset = Dataset { classes: labels.values().cloned().collect(), ..Dataset::default() };
        dataset.classes.sort();
        dataset.classes.dedup();
        match &dataset.classes[..] {
            [] => return Err(DataError::EmptyList { list: list.into() }),
            [class] => return Err(DataError::OneClass { class: class.clone() }),
            _ => {}
        }
        for class in options.map.classes().filter(|class| !labels.values().any(|found| found == class)) {
            dataset.warnings.push(format!("no label of {} is mapped to class {class:?}", list.display()));
        }
        let rows = dataset.unique(rows, list)?;
        let root = options.root.as_deref().or(list.parent()).unwrap_or(Path::new(""));
        check_files(&rows, root, list)?;
        dataset.assign(rows, root, &labels, list, split)?;
        Ok(dataset)
    }

    /// Drops what is listed twice, because it would end up in two splits.
    fn unique(&mut self, rows: Vec<Row>, list: &Path) -> Result<Vec<Row>, DataError> {
        let mut first: HashMap<String, (usize, String)> = HashMap::new();
        let mut unique = Vec::with_capacity(rows.len());
        let mut twice = 0;
        for row in rows {
            match first.get(&row.path) {
                None => {
                    first.insert(row.path.clone(), (row.line, row.label.clone()));
                    unique.push(row);
                }
                Some((_, label)) if *label == row.label => twice += 1,
                Some((line, label)) => {
                    return Err(DataError::TwoLabels {
                        list: list.into(),
                        file: row.path,
                        first: format!("{label:?} in line {line}"),
                        second: format!("{:?} in line {}", row.label, row.line),
                    });
                }
            }
        }
        if twice > 0 {
            self.warnings
                .push(format!("{}: lines that name a file again and are not used: {twice}", list.display()));
        }
        Ok(unique)
    }

    fn assign(
        &mut self,
        rows: Vec<Row>,
        root: &Path,
        labels: &BTreeMap<String, String>,
        list: &Path,
        split: &SplitSpec,
    ) -> Result<(), DataError> {
        let mut train = Vec::new();
        let mut split = *split;
        for row in rows {
            let class = &labels[&row.label];
            let label = self.classes.iter().position(|known| known == class).unwrap_or_default();
            let sample = Sample { path: root.join(&row.path), label };
            if row.split.is_some() {
                split.test = 0.0;
            }
            match row.split {
                Some(Split::Valid) => self.valid.push(sample),
                Some(Split::Test) => self.test.push(sample),
                Some(Split::Train) | None => train.push(Unassigned { key: row.path, sample }),
            }
        }
        if !self.valid.is_empty() {
            split.valid = 0.0;
        }
        let mut seen = vec![false; self.classes.len()];
        train.iter().for_each(|sample| seen[sample.sample.label] = true);
        if let Some(missing) = seen.iter().position(|seen| !seen) {
            return Err(DataError::EmptyClass {
                folder: list.into(),
                class: self.classes[missing].clone(),
                found: String::new(),
            });
        }
        let splits = split.split(&self.classes, train)?;
        self.train = splits.train;
        self.valid.extend(splits.valid);
        self.test.extend(splits.test);
        Ok(())
    }
}

/// Which class each label that occurs belongs to.
fn classes_of(rows: &[Row], map: &LabelMap, list: &Path) -> Result<BTreeMap<String, String>, DataError> {
    let mut labels = BTreeMap::new();
    for row in rows {
        if labels.contains_key(&row.label) {
            continue;
        }
        let Some(class) = map.class_of(&row.label) else {
            return Err(DataError::UnmappedLabel {
                list: list.into(),
                label: row.label.clone(),
                line: row.line,
                count: rows.iter().filter(|other| other.label == row.label).count(),
                known: map.keys(),
            });
        };
        labels.insert(row.label.clone(), class.to_owned());
    }
    Ok(labels)
}

fn check_files(rows: &[Row], root: &Path, list: &Path) -> Result<(), DataError> {
    let missing: Vec<&Row> = rows.iter().filter(|row| !root.join(&row.path).is_file()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let shown = missing.iter().take(SHOWN).map(|row| format!("{} (line {})", row.path, row.line));
    Err(DataError::MissingFiles {
        list: list.into(),
        root: root.into(),
        missing: missing.len(),
        rows: rows.len(),
        files: shown.collect::<Vec<_>>().join(", "),
    })
}

fn read(list: &Path) -> Result<Vec<Row>, DataError> {
    let bytes = std::fs::read(list).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => DataError::Missing { path: list.into() },
        _ => DataError::Unreadable { path: list.into(), source },
    })?;
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let text = text.ok_or_else(|| DataError::NotAList { path: list.into() })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut records = records(text, list)?;
    if records.is_empty() {
        return Err(DataError::EmptyList { list: list.into() });
    }
    let columns = Columns::of(&records[0].1);
    if columns.named {
        records.remove(0);
    }
    records.into_iter().map(|(line, fields)| columns.row(line, &fields, list)).collect()
}

/// Lines (counted from 1) and their fields.
type Records = Vec<(usize, Vec<String>)>;

/// Splits at the first separator that gives each line the same number of fields, at least two; else at spaces.
fn records(text: &str, list: &Path) -> Result<Records, DataError> {
    for separator in [b'\t', b';', b','] {
        let Some(records) = separated(text, separator) else {
            continue;
        };
        let width = records.first().map_or(0, |(_, fields)| fields.len());
        if width > 1 && records.iter().all(|(_, fields)| fields.len() == width) {
            return Ok(records);
        }
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let spaced =
        |(index, line): (usize, &str)| (index + 1, line.split_whitespace().map(str::to_owned).collect());
    let records: Records = lines.map(spaced).collect();
    match records.iter().find(|(_, fields)| fields.len() < 2) {
        Some(_) => Err(DataError::NotAList { path: list.into() }),
        None => Ok(records),
    }
}

fn separated(text: &str, separator: u8) -> Option<Records> {
    let mut reader = csv::ReaderBuilder::new();
    reader.delimiter(separator).has_headers(false).flexible(true).trim(csv::Trim::All);
    let mut records = Records::new();
    for record in reader.from_reader(text.as_bytes()).records() {
        let record = record.ok()?;
        let line = record.position().map_or(0, csv::Position::line);
        records.push((line as usize, record.iter().map(str::to_owned).collect()));
    }
    Some(records)
}

/// Where in a line the fields are.
struct Columns {
    path: usize,
    label: usize,
    split: Option<usize>,
    /// By the first line, which is no data then.
    named: bool,
}

impl Columns {
    fn of(first: &[String]) -> Columns {
        let find =
            |names: &[&str]| first.iter().position(|field| names.contains(&field.to_lowercase().as_str()));
        match (find(&PATH_COLUMNS), find(&LABEL_COLUMNS)) {
            (Some(path), Some(label)) => Columns { path, label, split: find(&["split"]), named: true },
            _ => Columns { path: 0, label: 1, split: None, named: false },
        }
    }

    fn row(&self, line: usize, fields: &[String], list: &Path) -> Result<Row, DataError> {
        let bad = |problem: &dyn Display| DataError::BadLine {
            list: list.into(),
            line,
            problem: problem.to_string(),
        };
        let field = |column: usize| fields.get(column).filter(|field| !field.is_empty());
        let path = field(self.path).ok_or_else(|| bad(&"it has no path"))?.clone();
        let label = field(self.label).ok_or_else(|| bad(&"it has no label"))?.clone();
        let split = match self.split.and_then(|column| fields.get(column)).map(|name| name.to_lowercase()) {
            None => None,
            Some(name) => Some(match name.as_str() {
                "train" | "training" => Split::Train,
                "valid" | "val" | "validation" => Split::Valid,
                "test" => Split::Test,
                _ => return Err(bad(&format_args!("its split is {name:?}, not train, valid or test"))),
            }),
        };
        Ok(Row { line, path, label, split })
    }
}
