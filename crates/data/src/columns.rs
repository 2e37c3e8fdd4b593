//! Which columns of a list hold paths, labels and splits: by their names, by the files that exist, and what is left.

use crate::labels::LabelMap;
use crate::split_name::{Part, part_of};
use crate::table::{Row, Table};

/// Names of columns, in lower case.
const PATHS: [&str; 9] =
    ["path", "filename", "file", "image", "file_name", "filepath", "image_path", "img", "image_id"];
const LABELS: [&str; 6] = ["label", "class", "target", "labels", "category", "class_name"];
const SPLITS: [&str; 1] = ["split"];

/// How many rows are looked at to see whether a column holds files.
const SAMPLE: usize = 100;

/// Where in a row the fields are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    pub path: usize,
    pub label: usize,
    pub split: Option<usize>,
    /// By the first row, which is no data then.
    pub named: bool,
}

impl Columns {
    /// `exists`: whether a field is the path of a file. The error is a sentence about the list.
    pub fn of(table: &Table, map: &LabelMap, exists: &dyn Fn(&str) -> bool) -> Result<Columns, String> {
        let first = &table.rows[0];
        let finder = Finder { table, map, exists };
        let paths = finder.called(&PATHS);
        let labels = finder.called(&LABELS);
        let files = finder.files();
        let named = if !paths.is_empty() && !labels.is_empty() {
            true
        } else {
            let is_path = |field: &String| exists(field) || looks_like_path(field);
            let column = files.first().or(paths.first()).copied().unwrap_or(0);
            // A first row whose path is missing and reads like one is a row with a missing file.
            first.fields.get(column).is_some_and(|field| !is_path(field))
                && table.rows[1..].iter().any(|row| row.fields.get(column).is_some_and(is_path))
        };
        let (paths, labels) = if named { (paths, labels) } else { Default::default() };

        let width = table.rows.iter().map(|row| row.fields.len()).max().unwrap_or(0);
        let path = match (&paths[..], &files[..]) {
            ([path], _) | ([], [path]) => *path,
            ([], []) if width == 2 => {
                if let [label] = labels[..] {
                    1 - label
                } else {
                    0
                }
            }
            // Among several names, the one whose files are there.
            (_, [path]) if paths.contains(path) => *path,
            ([], []) if !named => 0,
            _ => return Err(finder.unclear("the path", named)),
        };
        let rows = &table.rows[usize::from(named)..];
        let split = named.then(|| finder.called(&SPLITS)).and_then(|found| found.first().copied());
        let split = split.or_else(|| {
            let open = (0..width).filter(|column| *column != path && !labels.contains(column));
            open.into_iter().find(|column| are_splits(rows, *column))
        });
        let label = match labels[..] {
            [label] => label,
            [] => {
                let is_open =
                    |column: &usize| *column != path && Some(*column) != split && !is_empty(rows, *column);
                let open: Vec<usize> = (0..width).filter(is_open).collect();
                match open[..] {
                    [label] => label,
                    // All labels of a row are missing: the error names its line.
                    [] if width == 2 => 1 - path.min(1),
                    _ => finder.mapped(&open, rows).ok_or_else(|| finder.unclear("the label", named))?,
                }
            }
            _ => return Err(finder.unclear("the label", named)),
        };
        Ok(Columns { path, label, split, named })
    }
}

/// The question which column is which.
struct Finder<'a> {
    table: &'a Table,
    map: &'a LabelMap,
    exists: &'a dyn Fn(&str) -> bool,
}

impl Finder<'_> {
    /// The columns that the first row calls by one of these names.
    fn called(&self, names: &[&str]) -> Vec<usize> {
        let is_called = |(_, field): &(usize, &String)| names.contains(&field.to_lowercase().as_str());
        self.table.rows[0].fields.iter().enumerate().filter(is_called).map(|(column, _)| column).collect()
    }

    /// The columns whose fields are files that exist, as far as a sample of the rows shows: those with the most.
    fn files(&self) -> Vec<usize> {
        let rows = &self.table.rows;
        let step = rows.len().div_ceil(SAMPLE).max(1);
        let mut counts: Vec<usize> = vec![0; rows[0].fields.len()];
        for row in rows.iter().rev().step_by(step) {
            for (count, field) in counts.iter_mut().zip(&row.fields) {
                *count += usize::from(!field.is_empty() && (self.exists)(field));
            }
        }
        let most = counts.iter().copied().max().filter(|most| *most > 0);
        let columns = counts.iter().enumerate();
        columns.filter(|(_, count)| Some(**count) == most).map(|(column, _)| column).collect()
    }

    /// The only column all of whose labels are in the map.
    fn mapped(&self, open: &[usize], rows: &[Row]) -> Option<usize> {
        if self.map.is_empty() {
            return None;
        }
        let has_class = |row: &Row, column: usize| {
            row.fields.get(column).is_some_and(|field| self.map.class_of(field).is_some())
        };
        let mut found = open.iter().filter(|column| rows.iter().all(|row| has_class(row, **column)));
        found.next().copied().filter(|_| found.next().is_none())
    }

    /// A sentence that shows the columns and how to name them.
    fn unclear(&self, what: &str, named: bool) -> String {
        let rows = &self.table.rows;
        let example = rows.get(1).unwrap_or(&rows[0]);
        let columns: Vec<String> = (0..example.fields.len())
            .map(|column| {
                let name = rows[0].fields.get(column).filter(|_| named);
                let name = name.map_or_else(|| (column + 1).to_string(), |name| format!("{name:?}"));
                format!("{name} ({})", example.fields[column])
            })
            .collect();
        let columns = columns.join(", ");
        if named {
            return format!(
                "which column is {what} is not clear; there are {columns}: in the first line, call one column \"path\" and one \"label\""
            );
        }
        let separator = self.table.separator.to_string();
        let files = self.files();
        let mut names = vec!["-"; example.fields.len()];
        names[files.first().copied().unwrap_or(0)] = "path";
        if let Some(last) = names.iter_mut().rev().find(|name| **name == "-") {
            *last = "label";
        }
        format!(
            "which column is {what} is not clear; there are {columns}: write a first line that names the columns \"path\" and \"label\" and the others anything, as in {:?}",
            names.join(&separator)
        )
    }
}

fn looks_like_path(field: &str) -> bool {
    field.contains(['.', '/', '\\'])
}

fn is_empty(rows: &[Row], column: usize) -> bool {
    rows.iter().all(|row| row.fields.get(column).is_none_or(String::is_empty))
}

/// Whether all fields of a column say training, validation or test, and not all the same.
fn are_splits(rows: &[Row], column: usize) -> bool {
    let part = |row: &Row| row.fields.get(column).and_then(|field| part_of(&field.to_lowercase()));
    let mut parts = rows.iter().map(part);
    let Some(Some(first)) = parts.next() else { return false };
    let mut found = vec![first];
    for part in parts {
        match part {
            Some(part) => found.push(part),
            None => return false,
        }
    }
    found.contains(&Part::Train) && found.iter().any(|part| *part != Part::Train)
}
