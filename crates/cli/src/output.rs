//! Text for people, JSON for machines, files for both.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;

use engraft::{WriteError, check_writable};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// Prints one JSON object on a line of its own.
pub(crate) fn json_line(value: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{value}")?;
    stdout.flush()
}

/// A number in JSON with the digits that an `f32` has, not those of the `f64` that is nearest to it.
pub(crate) fn json_number(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}

/// A path in JSON, which knows Unicode alone: bytes that are none become U+FFFD.
pub(crate) fn json_path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Whether a result could be written here, before the work that it takes.
pub(crate) fn check_out(path: &Path) -> Result<(), WriteError> {
    if path.is_dir() {
        return Err(WriteError::new(path, io::Error::other("it is a folder; name a file")));
    }
    check_writable(path)
}

/// Prints lines of a result for people.
pub(crate) fn print_line(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{}", escaped(text))
}

/// Prints a line about something that is worth knowing but no result.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", escaped(text));
}

/// The text as a terminal may get it: names of files and classes are a stranger's, and control characters in them, but for the ends of lines, could
/// move the cursor or change the window.
fn escaped(text: &str) -> Cow<'_, str> {
    let is_control = |character: char| character.is_control() && character != '\n';
    if !text.contains(is_control) {
        return text.into();
    }
    let escape = |character: char| match is_control(character) {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect::<String>().into()
}

/// A bar that counts images; drawn on a terminal only.
pub(crate) fn image_bar(label: &str) -> ProgressBar {
    bar(label, "{prefix} {wide_bar} {pos}/{len} images, {eta} left")
}

/// A bar that counts bytes; drawn on a terminal only.
pub(crate) fn byte_bar(label: &str) -> ProgressBar {
    bar(label, "{prefix} {wide_bar} {bytes}/{total_bytes}, {eta} left")
}

fn bar(label: &str, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style).with_prefix(label.to_string())
}

/// A share as a percentage with one digit, as in `94.8 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
