//! Text to lines of fields. Own code, because a quotation mark that stays open must be an error of its line: readers
//! of RFC 4180 take all lines that follow for one field.

/// A line that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Counted from 1.
    pub line: usize,
    pub fields: Vec<String>,
}

/// Lines of fields.
#[derive(Debug)]
pub(crate) struct Table {
    /// Space: runs of white space.
    pub separator: char,
    pub rows: Vec<Row>,
}

/// Why text is no table.
#[derive(Debug)]
pub(crate) enum NoTable {
    /// No separator gives columns.
    NoColumns,
    /// One line is unlike the others.
    Line(usize, String),
}

/// Tried in this order.
const SEPARATORS: [char; 4] = ['\t', ';', ',', '|'];

impl Table {
    /// Splits lines at the first separator that gives each the same number of fields, at least two; else at
    /// spaces. A first line `sep=;`, which Excel writes and reads, names the separator.
    pub fn of(text: &str) -> Result<Table, NoTable> {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut lines: Vec<(usize, &str)> =
            text.lines().enumerate().map(|(index, line)| (index + 1, line)).collect();
        lines.retain(|(_, line)| !line.trim().is_empty());
        let given = lines.first().and_then(|(_, line)| named_separator(line));
        if given.is_some() {
            lines.remove(0);
        }
        if lines.is_empty() {
            return Ok(Table { separator: ',', rows: Vec::new() });
        }
        let mut best: Option<Attempt> = None;
        for separator in given.map_or(SEPARATORS.to_vec(), |separator| vec![separator]) {
            let attempt = Attempt::new(&lines, separator);
            if attempt.fitting > 0 && attempt.fitting == attempt.lines.len() {
                return Ok(attempt.into_table());
            }
            if attempt.fitting > best.as_ref().map_or(0, |best| best.fitting) {
                best = Some(attempt);
            }
        }
        // A few lines that are wrong do not make a list of something else.
        if let Some(best) = best.filter(|best| 2 * best.fitting >= lines.len()) {
            return Err(best.first_problem());
        }
        let words = |(line, text): &(usize, &str)| Row {
            line: *line,
            fields: text.split_whitespace().map(str::to_owned).collect(),
        };
        let rows: Vec<Row> = lines.iter().map(words).collect();
        match rows.iter().all(|row| row.fields.len() > 1) {
            true => Ok(Table { separator: ' ', rows }),
            false => Err(NoTable::NoColumns),
        }
    }
}

fn named_separator(line: &str) -> Option<char> {
    let line = line.trim_matches('"');
    let name = line.get(..4).filter(|name| name.eq_ignore_ascii_case("sep="))?;
    let mut rest = line[name.len()..].chars();
    rest.next().filter(|_| rest.next().is_none())
}

/// The lines split at one separator.
struct Attempt {
    separator: char,
    /// The number of columns that most lines have.
    width: usize,
    /// How many lines have so many.
    fitting: usize,
    lines: Vec<(usize, Result<Vec<String>, Unclosed>)>,
}

impl Attempt {
    fn new(lines: &[(usize, &str)], separator: char) -> Attempt {
        let mut lines: Vec<_> = lines.iter().map(|(line, text)| (*line, fields(text, separator))).collect();
        // Empty rows of a spreadsheet.
        lines.retain(|(_, fields)| !matches!(fields, Ok(fields) if fields.iter().all(String::is_empty)));
        let mut counts = std::collections::BTreeMap::new();
        for fields in lines.iter().filter_map(|(_, fields)| fields.as_ref().ok()) {
            *counts.entry(fields.len()).or_insert(0) += 1;
        }
        counts.remove(&1);
        let (width, fitting) = counts.into_iter().max_by_key(|(_, count)| *count).unwrap_or((0, 0));
        Attempt { separator, width, fitting, lines }
    }

    fn into_table(self) -> Table {
        let rows =
            self.lines.into_iter().filter_map(|(line, fields)| Some(Row { line, fields: fields.ok()? }));
        Table { separator: self.separator, rows: rows.collect() }
    }

    fn first_problem(self) -> NoTable {
        let width = self.width;
        for (line, fields) in self.lines {
            match fields {
                Err(Unclosed) => {
                    return NoTable::Line(line, "a quotation mark is opened and not closed".into());
                }
                Ok(fields) if fields.len() != width => {
                    let found = fields.len();
                    let problem = format!(
                        "it has {found} columns and most lines have {width}, separated by {:?}: put a field that holds this sign into quotation marks",
                        self.separator
                    );
                    return NoTable::Line(line, problem);
                }
                Ok(_) => {}
            }
        }
        NoTable::NoColumns
    }
}

struct Unclosed;

/// The fields of a line, without the spaces around them. One that begins with a quotation mark ends with the
/// next that is not doubled (RFC 4180).
fn fields(line: &str, separator: char) -> Result<Vec<String>, Unclosed> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let start = rest.trim_start_matches(|c: char| c.is_whitespace() && c != separator);
        let mut field = String::new();
        rest = start;
        if let Some(mut quoted) = start.strip_prefix('"') {
            loop {
                let end = quoted.find('"').ok_or(Unclosed)?;
                field.push_str(&quoted[..end]);
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        quoted = after;
                    }
                    None => break,
                }
            }
            rest = quoted;
        }
        let (last, after) = match rest.split_once(separator) {
            Some((field, after)) => (field, Some(after)),
            None => (rest, None),
        };
        field.push_str(last);
        fields.push(field.trim().to_owned());
        match after {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}
