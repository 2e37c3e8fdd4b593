//! `engraft models`

use std::cmp::Ordering;
use std::io::{self, Write};

use clap::{Args, ValueEnum};
use engraft_zoo::{PublishedWeights, WEIGHTS, default_weights};
use serde_json::json;

use super::Outcome;
use crate::output::json_line;

/// List the networks that a head can be grafted on, and their published weights
///
/// Without --weights the other commands take the weights marked with a star. GMAC are billions of multiply-adds for one image, top-1 and
/// top-5 are accuracies on ImageNet in percent, the input is the side of the image in pixels.
#[derive(Args)]
pub(crate) struct Models {
    /// Only networks whose name contains this text
    filter: Option<String>,

    /// Order of the rows
    #[arg(long, value_enum, value_name = "COLUMN", default_value = "name")]
    sort: Column,

    /// Print one JSON array (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// What the rows are sorted by; the best or the smallest first.
#[derive(Clone, Copy, ValueEnum)]
enum Column {
    Name,
    Parameters,
    Gmac,
    #[value(name = "top-1")]
    Top1,
    Input,
    Size,
}

impl Models {
    pub(crate) fn run(self) -> Outcome {
        let filter = self.filter.as_deref().unwrap_or_default();
        let known: Vec<&str> = engraft_zoo::architectures().collect();
        let is_listed = |entry: &&PublishedWeights| {
            entry.architecture.contains(filter) && known.contains(&entry.architecture)
        };
        let mut rows: Vec<&PublishedWeights> = WEIGHTS.iter().filter(is_listed).collect();
        if rows.is_empty() {
            return Err(
                format!("no network has a name with `{filter}` in it; `engraft models` lists all").into()
            );
        }
        // Stable, so that equals stay in the order of the catalogue.
        rows.sort_by(|a, b| self.compare(a, b));
        if self.json {
            json_line(&rows.into_iter().map(as_json).collect())?;
            return Ok(());
        }
        print(&rows)?;
        Ok(())
    }

    fn compare(&self, a: &PublishedWeights, b: &PublishedWeights) -> Ordering {
        match self.sort {
            Column::Name => Ordering::Equal,
            Column::Parameters => a.parameters.cmp(&b.parameters),
            Column::Gmac => a.gmac.total_cmp(&b.gmac),
            Column::Top1 => b.acc1.unwrap_or(0.0).total_cmp(&a.acc1.unwrap_or(0.0)),
            Column::Input => a.crop.cmp(&b.crop),
            Column::Size => a.file_mib.total_cmp(&b.file_mib),
        }
    }
}

fn is_default(entry: &PublishedWeights) -> bool {
    default_weights(entry.architecture).is_some_and(|default| default.tag == entry.tag)
}

fn licence(entry: &PublishedWeights) -> &'static str {
    entry.licence.unwrap_or("BSD-3-Clause")
}

fn print(rows: &[&PublishedWeights]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(
        stdout,
        "{:<19} {:<25} {:>10} {:>7} {:>6} {:>6} {:>5} {:>6}  licence",
        "name", "weights", "parameters", "GMAC", "top-1", "top-5", "input", "MB"
    )?;
    let percent = |accuracy: Option<f64>| accuracy.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
    for entry in rows {
        writeln!(
            stdout,
            "{:<19} {:<25} {:>8.1} M {:>7.2} {:>6} {:>6} {:>5} {:>6.0}  {}",
            entry.architecture,
            format!("{}{}", entry.tag, if is_default(entry) { " *" } else { "" }),
            entry.parameters as f64 / 1e6,
            entry.gmac,
            percent(entry.acc1),
            percent(entry.acc5),
            entry.crop,
            megabytes(entry),
            licence(entry),
        )?;
    }
    Ok(())
}

fn megabytes(entry: &PublishedWeights) -> f64 {
    entry.file_mib * 1.048_576
}

fn as_json(entry: &PublishedWeights) -> serde_json::Value {
    json!({
        "name": entry.architecture,
        "weights": entry.tag,
        "default": is_default(entry),
        "parameters": entry.parameters,
        "gmac": entry.gmac,
        "top1": entry.acc1,
        "top5": entry.acc5,
        "input": entry.crop,
        "megabytes": (10.0 * megabytes(entry)).round() / 10.0,
        "licence": licence(entry),
        "file": entry.file_name,
        "url": entry.url(),
    })
}
