//! Drawings for Graphviz.

use std::fmt::{self, Write};

use crate::blocks::{Drawing, Part};
use crate::caption::sizes;

impl Drawing {
    /// The text that `dot` reads.
    pub fn to_dot(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_dot(&mut text);
        text
    }

    fn write_dot(&self, f: &mut String) -> fmt::Result {
        writeln!(f, "digraph network {{")?;
        writeln!(f, "  node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\"];")?;
        writeln!(f, "  edge [fontname=\"Helvetica\", fontsize=11];")?;
        for (place, block) in self.blocks.iter().enumerate() {
            let [fill, stroke] = block.part.colours();
            let lines = escaped(&block.lines().join("\n")).replace('\n', "\\n");
            writeln!(f, "  b{place} [label=\"{lines}\", fillcolor=\"{fill}\", color=\"{stroke}\"];")?;
        }
        for edge in &self.edges {
            writeln!(f, "  b{} -> b{} [label=\" {}\"];", edge.from, edge.to, sizes(&edge.shape))?;
        }
        writeln!(f, "}}")
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

impl Part {
    /// Colours of area and border.
    pub(crate) fn colours(self) -> [&'static str; 2] {
        match self {
            Part::Body => ["#f3f5f7", "#66727f"],
            Part::Frozen => ["#e2edf8", "#3f77ad"],
            Part::Head => ["#fde8d0", "#cf7a1f"],
        }
    }
}
