//! A CSV list of paths and labels as a dataset.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::columns::Columns;
use crate::dataset::{Dataset, Sample};
use crate::error::DataError;
use crate::labels::LabelMap;
use crate::list_paths::{Bases, identity};
use crate::names::twins;
use crate::reading::Source;
use crate::split::{SplitSpec, Unassigned};
use crate::split_name::{Part, part_of};
use crate::table::{NoTable, Row, Table};
use crate::text::{self, NoText};

/// How a list is read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListOptions {
    /// What paths in the list are relative to; `None`: the list's own folder.
    pub root: Option<PathBuf>,
    /// Classes for labels; an empty map takes each label as the name of its class.
    pub map: LabelMap,
}

/// How many rows a message names.
const SHOWN: usize = 5;

/// One line of the list.
struct Entry {
    line: usize,
    path: String,
    label: String,
    part: Option<Part>,
}

impl Dataset {
    /// Reads a list of image files and their labels.
    ///
    /// The text is UTF-8, UTF-16 or, with a warning, Windows-1252. The columns are separated by tabs, semicolons,
    /// commas, bars or runs of spaces; which one it is, the lines tell, or a first line `sep=;`. Fields may be
    /// quoted (RFC 4180), but not go over several lines.
    ///
    /// A first line may name columns: `path`, `file`, `filename` or `image`, and `label`, `class` or `target`.
    /// If it has other names, the column of paths is the one whose files exist, and the label's the only other
    /// one (or the only one whose labels are all in the map); where several are left, the answer is an error
    /// that shows them. Without such a line the same is asked of the columns alone.
    ///
    /// Paths are relative to `options.root` or the list's folder; if the files are not there but all in the
    /// folder above or the working folder, they are read from there with a warning. `\\` separates folders too.
    ///
    /// A column `split`, or one in which nothing stands but `train`, `valid` (or `val`) and `test`, decides the
    /// split, and only validation images that it does not give are taken from `train`; without that column,
    /// `split` divides all.
    ///
    /// The files may be of any format that [`Image::decode`](crate::Image::decode) reads, GIF included.
    ///
    /// # Errors
    /// When the list cannot be read or is none; a line has no label or an open quotation mark; a file does not
    /// exist; a label has no class in the map; a file is listed with two labels or in two splits; there are
    /// fewer than two classes, or a class is too small to be split.
    pub fn from_list(
        list: impl AsRef<Path>,
        options: &ListOptions,
        split: &SplitSpec,
    ) -> Result<Dataset, DataError> {
        let list = list.as_ref();
        split.check()?;
        let mut dataset = Dataset::default();
        let table = dataset.read(list)?;
        let bases = Bases::of(list, options.root.as_deref());
        let entries = entries(&table, &bases, &options.map, list)?;
        let classes = dataset.set_classes_of(&entries, &options.map, list)?;
        let files = dataset.locate(&entries, &bases, list)?;
        let has_splits = entries.iter().any(|entry| entry.part.is_some());
        let listed = dataset.once(entries.into_iter().zip(files).collect(), &classes, list)?;
        dataset.assign(listed, &classes, list, split)?;
        dataset.reading.source = Source::List { splits: has_splits };
        dataset.warnings.extend(twins(&dataset.classes));
        dataset.count();
        Ok(dataset)
    }

    fn read(&mut self, list: &Path) -> Result<Table, DataError> {
        let bytes = std::fs::read(list).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => DataError::Missing { path: list.into() },
            _ => DataError::Unreadable { path: list.into(), source },
        })?;
        let text = text::decode(&bytes).map_err(|no_text| match no_text {
            NoText::Spreadsheet => DataError::Spreadsheet { path: list.into() },
            NoText::Binary => DataError::NotAList { path: list.into() },
        })?;
        if let Some(encoding) = text.guessed {
            self.warnings.push(format!(
                "{} is not UTF-8 and was read as {encoding}: if letters look wrong, save it as UTF-8",
                list.display()
            ));
        }
        let table = Table::of(&text.text).map_err(|no_table| match no_table {
            NoTable::NoColumns => DataError::NotAList { path: list.into() },
            NoTable::Line(line, problem) => DataError::BadLine { list: list.into(), line, problem },
        })?;
        if table.rows.is_empty() {
            return Err(DataError::EmptyList { list: list.into() });
        }
        Ok(table)
    }

    /// Sets the names of the classes; returns which one each label belongs to.
    fn set_classes_of(
        &mut self,
        entries: &[Entry],
        map: &LabelMap,
        list: &Path,
    ) -> Result<HashMap<String, usize>, DataError> {
        let mut names: HashMap<&str, &str> = HashMap::new();
        for entry in entries {
            if names.contains_key(entry.label.as_str()) {
                continue;
            }
            let Some(class) = map.class_of(&entry.label) else {
                return Err(DataError::UnmappedLabel {
                    list: list.into(),
                    label: entry.label.clone(),
                    line: entry.line,
                    count: entries.iter().filter(|other| other.label == entry.label).count(),
                    known: map.keys(),
                });
            };
            names.insert(&entry.label, class);
        }
        self.classes = names.values().map(|class| (*class).to_owned()).collect();
        self.classes.sort();
        self.classes.dedup();
        match &self.classes[..] {
            [] => return Err(DataError::EmptyList { list: list.into() }),
            [class] => return Err(DataError::OneClass { class: class.clone() }),
            _ => {}
        }
        for class in map.classes().filter(|class| !self.classes.iter().any(|found| found == class)) {
            self.warnings.push(format!("no label of {} is mapped to class {class:?}", list.display()));
        }
        let index: HashMap<&str, usize> =
            self.classes.iter().enumerate().map(|(index, class)| (class.as_str(), index)).collect();
        Ok(names.into_iter().map(|(label, class)| (label.to_owned(), index[class])).collect())
    }

    /// The file of each entry.
    fn locate(&mut self, entries: &[Entry], bases: &Bases, list: &Path) -> Result<Vec<PathBuf>, DataError> {
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        let base = bases.best(&paths);
        let folder = if base.folder == Path::new("") { Path::new(".") } else { &base.folder };
        if !base.missing.is_empty() {
            let shown = base.missing.iter().take(SHOWN).map(|i| &entries[*i]);
            let shown = shown.map(|entry| format!("{} (line {})", entry.path, entry.line));
            return Err(DataError::MissingFiles {
                list: list.into(),
                root: folder.into(),
                missing: base.missing.len(),
                rows: entries.len(),
                files: shown.collect::<Vec<_>>().join(", "),
                hint: base.hint.map_or(String::new(), |hint| format!("; {hint}")),
            });
        }
        if !base.is_expected {
            let folder = folder.display();
            self.warnings.push(format!("the paths in {} are relative to {folder}", list.display()));
        }
        Ok(base.files.into_iter().flatten().collect())
    }

    /// Drops what is listed twice, because it would end up in two splits.
    fn once(
        &mut self,
        entries: Vec<(Entry, PathBuf)>,
        classes: &HashMap<String, usize>,
        list: &Path,
    ) -> Result<Vec<(Entry, PathBuf)>, DataError> {
        let mut first: HashMap<PathBuf, usize> = HashMap::new();
        let mut kept: Vec<(Entry, PathBuf)> = Vec::with_capacity(entries.len());
        let mut twice = 0;
        for (entry, file) in entries {
            let Some(known) = first.get(&identity(&file)) else {
                first.insert(identity(&file), kept.len());
                kept.push((entry, file));
                continue;
            };
            let (known, _) = &kept[*known];
            if classes[&known.label] != classes[&entry.label] {
                return Err(DataError::TwoLabels {
                    list: list.into(),
                    file: entry.path,
                    first: format!("{:?} in line {}", known.label, known.line),
                    second: format!("{:?} in line {}", entry.label, entry.line),
                });
            }
            if known.part != entry.part {
                let problem =
                    format!("{} belongs to another split here than in line {}", entry.path, known.line);
                return Err(DataError::BadLine { list: list.into(), line: entry.line, problem });
            }
            twice += 1;
        }
        if twice > 0 {
            self.warnings
                .push(format!("{}: lines that name a file again and are not used: {twice}", list.display()));
        }
        Ok(kept)
    }

    fn assign(
        &mut self,
        entries: Vec<(Entry, PathBuf)>,
        classes: &HashMap<String, usize>,
        list: &Path,
        split: &SplitSpec,
    ) -> Result<(), DataError> {
        let mut train = Vec::new();
        let mut split = *split;
        for (entry, path) in entries {
            let sample = Sample { path, label: classes[&entry.label] };
            if entry.part.is_some() {
                split.test = 0.0;
            }
            match entry.part {
                Some(Part::Valid) => self.valid.push(sample),
                Some(Part::Test) => self.test.push(sample),
                Some(Part::Train) | None => train.push(Unassigned { key: key(&entry.path), sample }),
            }
        }
        if !self.valid.is_empty() {
            split.valid = 0.0;
        }
        let mut seen = vec![false; self.classes.len()];
        train.iter().for_each(|sample| seen[sample.sample.label] = true);
        if let Some(missing) = seen.iter().position(|seen| !seen) {
            let class = self.classes[missing].clone();
            return Err(DataError::EmptyClass { folder: list.into(), class, found: String::new() });
        }
        let splits = split.split(&self.classes, train)?;
        self.train = splits.train;
        self.valid.extend(splits.valid);
        self.test.extend(splits.test);
        Ok(())
    }
}

/// What a path is called where the split is drawn: the same however it is spelt.
fn key(path: &str) -> String {
    let path = path.replace('\\', "/");
    path.split('/').filter(|part| !["", "."].contains(part)).collect::<Vec<_>>().join("/")
}

fn entries(table: &Table, bases: &Bases, map: &LabelMap, list: &Path) -> Result<Vec<Entry>, DataError> {
    let exists = |path: &str| bases.have(path);
    let columns = Columns::of(table, map, &exists)
        .map_err(|problem| DataError::UnclearColumns { list: list.into(), problem })?;
    let rows = &table.rows[usize::from(columns.named)..];
    let bad = |line: usize, problem: String| DataError::BadLine { list: list.into(), line, problem };
    for (column, what) in [(columns.path, "path"), (columns.label, "label")] {
        let is_empty = |row: &&Row| row.fields.get(column).is_none_or(String::is_empty);
        let lines: Vec<usize> = rows.iter().filter(is_empty).map(|row| row.line).collect();
        if let Some(&line) = lines.first() {
            let others: Vec<String> = lines.iter().skip(1).take(SHOWN).map(usize::to_string).collect();
            let more = match lines.len() - 1 {
                0 => String::new(),
                count => {
                    let dots = if count > SHOWN { ", ..." } else { "" };
                    format!(", nor have {count} other lines: {}{dots}", others.join(", "))
                }
            };
            return Err(bad(line, format!("it has no {what}{more}")));
        }
    }
    let entry = |row: &Row| {
        let field = |column: usize| row.fields[column].clone();
        let part =
            match columns.split.and_then(|column| row.fields.get(column)) {
                None => None,
                Some(name) => Some(part_of(&name.to_lowercase()).ok_or_else(|| {
                    bad(row.line, format!("its split is {name:?}, not train, valid or test"))
                })?),
            };
        Ok(Entry { line: row.line, path: field(columns.path), label: field(columns.label), part })
    };
    rows.iter().map(entry).collect()
}
