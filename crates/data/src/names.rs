//! Names of classes that a person takes for one and a computer does not.

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;

/// Warnings about classes whose names differ only in case, in spaces or in how their accents are encoded.
pub(crate) fn twins(classes: &[String]) -> Vec<String> {
    let mut first: HashMap<String, &str> = HashMap::new();
    let mut warnings = Vec::new();
    for class in classes {
        match first.get(folded(class).as_str()) {
            None => {
                first.insert(folded(class), class);
            }
            Some(other) => warnings.push(format!(
                "classes {other:?} and {class:?} differ only in {}: they are two classes here; if they should be one, give them one name",
                difference(other, class)
            )),
        }
    }
    warnings
}

/// The class that `name` may be meant for, and what it differs in.
pub(crate) fn twin_of<'a>(name: &str, classes: &'a [String]) -> Option<(&'a str, &'static str)> {
    let twin = classes.iter().find(|class| folded(class) == folded(name))?;
    Some((twin, difference(twin, name)))
}

/// What names that are meant alike have in common. `macOS` decomposes accents, Linux and Windows do not.
fn folded(name: &str) -> String {
    let lower: String = name.nfc().collect::<String>().to_lowercase();
    let words = lower.split(|c: char| c.is_whitespace() || c == '_' || c == '-');
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn difference(a: &str, b: &str) -> &'static str {
    let accents = |name: &str| name.nfc().collect::<String>();
    if accents(a) == accents(b) {
        "how their accents are encoded"
    } else if a.to_lowercase() == b.to_lowercase() {
        "upper and lower case"
    } else if a.trim() == b.trim() {
        "a space at the beginning or the end"
    } else {
        "case, spaces, hyphens or accents"
    }
}
