//! The tree of modules as text, with shapes behind its lines or marks in front of them.

use std::collections::HashMap;
use std::io;

use engraft_graph::{ModuleCost, Shape};
use serde_json::json;
use similar::{ChangeTag, TextDiff};

use crate::output::json_line;

/// Adds to each line of PyTorch's text that begins a module the shape of its output: ` -> [1, 64, 112, 112]`.
///
/// A line that stands for several equal modules gets the shape of the last.
pub(super) fn with_shapes(text: &str, modules: &[ModuleCost]) -> String {
    let shapes: HashMap<&str, Option<&Shape>> =
        modules.iter().map(|module| (module.path.as_str(), module.output.as_ref())).collect();
    let mut open: Vec<&str> = Vec::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let inner = line.trim_start();
        let depth = (line.len() - inner.len()) / 2;
        // `(name): Class(...`, or `(0-3): 4 x Class(...`; the network itself has no name.
        let name = inner.strip_prefix('(').and_then(|rest| rest.split_once("): "));
        open.truncate(depth.saturating_sub(1));
        if let Some((name, content)) = name {
            let folded = content.split_once(" x ").is_some_and(|(count, _)| count.parse::<usize>().is_ok());
            open.push(if folded { name.split('-').next_back().unwrap_or(name) } else { name });
        }
        let begins = name.is_some() || depth == 0 && inner != ")";
        match shapes.get(open.join(".").as_str()) {
            Some(Some(shape)) if begins => lines.push(format!("{line} -> {shape:?}")),
            _ => lines.push(line.into()),
        }
    }
    lines.join("\n")
}

/// The lines of `new`, and between them those that only `old` has, as in a diff: `+` and `-` mark the changes.
pub(super) fn changes(old: &str, new: &str) -> String {
    let (old, new) = (old.to_string() + "\n", new.to_string() + "\n");
    let diff = TextDiff::from_lines(&old, &new);
    let marked = diff.iter_all_changes().map(|change| {
        let mark = match change.tag() {
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
            ChangeTag::Equal => ' ',
        };
        format!("{mark} {change}")
    });
    marked.collect()
}

pub(super) fn print_json(modules: &[ModuleCost]) -> io::Result<()> {
    modules.iter().try_for_each(|module| {
        json_line(&json!({ "module": module.path, "class": module.class, "shape": module.output }))
    })
}

#[cfg(test)]
mod tests {
    use engraft_graph::{Activation, Builder, Conv2d};

    use super::*;

    #[test]
    fn a_line_that_stands_for_several_modules_has_the_last_ones_shape() {
        let (mut b, x) = Builder::new("Net", 4, 8);
        let x = b.module("blocks", "ModuleList", |b| {
            ["0", "1"].into_iter().fold(x, |x, name| {
                b.module(name, "Block", |b| {
                    let x = b.layer("conv", Conv2d::new(4, 4, 3).stride(2).padding(1), x);
                    b.layer("relu", Activation::ReLU, x)
                })
            })
        });
        let graph = b.finish(x);
        let modules = graph.module_costs(&[1, 4, 8, 8], |_| true).unwrap();
        let expected = "\
Net( -> [1, 4, 2, 2]
  (blocks): ModuleList( -> [1, 4, 2, 2]
    (0-1): 2 x Block( -> [1, 4, 2, 2]
      (conv): Conv2d(4, 4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)) -> [1, 4, 2, 2]
      (relu): ReLU() -> [1, 4, 2, 2]
    )
  )
)";
        assert_eq!(with_shapes(&graph.to_string(), &modules), expected);
    }
}
