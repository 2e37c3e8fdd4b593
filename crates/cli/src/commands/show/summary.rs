//! What the modules of a network cost, as a table.

use std::io::{self, Write};

use engraft_graph::ModuleCost;
use serde_json::json;

use crate::output::json_line;

/// Prints the modules of the first `depth` levels, then the network as a whole, which `modules` begins with.
pub(super) fn print(modules: &[ModuleCost], depth: usize, grafted: bool, as_json: bool) -> io::Result<()> {
    let [network, modules @ ..] = modules else { return Ok(()) };
    let shown = modules.iter().filter(|module| module.path.split('.').count() <= depth).chain([network]);
    if as_json {
        return shown.map(json).try_for_each(|object| json_line(&object));
    }
    let header = match grafted {
        true => {
            ["module", "class", "trainable", "frozen", "GMAC", "activations, MB"].map(String::from).to_vec()
        }
        false => ["module", "class", "parameters", "GMAC", "activations, MB"].map(String::from).to_vec(),
    };
    let rows: Vec<Vec<String>> = shown.map(|module| row(module, grafted)).collect();
    write_table(&header, &rows)
}

fn row(module: &ModuleCost, grafted: bool) -> Vec<String> {
    let name = if module.path.is_empty() { "total" } else { &module.path };
    let mut row = vec![name.to_string(), module.class.clone()];
    match grafted {
        true => row.extend([module.trainable, module.parameters - module.trainable].map(with_commas)),
        false => row.push(with_commas(module.parameters)),
    }
    row.push(format!("{:.3}", module.cost.multiply_adds as f64 / 1e9));
    row.push(format!("{:.2}", module.cost.activation_bytes as f64 / 1e6));
    row
}

/// The first two columns are words, the others numbers; the last row is set off.
fn write_table(header: &[String], rows: &[Vec<String>]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let width = |column: usize| {
        let cells = rows.iter().chain([&header.to_vec()]).map(|row| row[column].chars().count()).max();
        cells.unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |row: &[String]| -> String {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    writeln!(stdout, "{}", line(header))?;
    for (number, row) in rows.iter().enumerate() {
        if number + 1 == rows.len() {
            writeln!(stdout)?;
        }
        writeln!(stdout, "{}", line(row))?;
    }
    Ok(())
}

fn json(module: &ModuleCost) -> serde_json::Value {
    json!({
        "module": module.path,
        "class": module.class,
        "parameters": module.parameters,
        "trainable": module.trainable,
        "multiply_adds": module.cost.multiply_adds,
        "activation_bytes": module.cost.activation_bytes,
    })
}

/// `11,689,512`
fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::with_commas;

    #[test]
    fn thousands_are_set_apart() {
        let cases =
            [(0, "0"), (999, "999"), (1000, "1,000"), (123_456, "123,456"), (11_689_512, "11,689,512")];
        for (number, text) in cases {
            assert_eq!(with_commas(number), text);
        }
    }
}
