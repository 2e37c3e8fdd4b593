//! `engraft show`

mod summary;
mod tree;

use std::error::Error;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use engraft_graph::{Graft, Graph, GraphError, HeadSpec};
use engraft_report::{Drawing, Part};
use engraft_tensor::write_atomically;

use super::Outcome;
use crate::network::architecture_names;
use crate::output::{check_out, note};

/// Print a network as PyTorch prints it, what it costs, or what a graft changes
#[derive(Args)]
pub(crate) struct Show {
    /// Name of the architecture, as in torchvision
    #[arg(value_parser = architecture_names(), hide_possible_values = true)]
    arch: String,

    /// Add the shape of its output to each module, `[batch, channels, height, width]`
    #[arg(long, group = "view")]
    shapes: bool,

    /// Print what each module costs instead: parameters, multiply-adds and memory for one image
    #[arg(long, group = "view")]
    summary: bool,

    /// Print a drawing for Graphviz instead, as in `engraft show resnet18 --dot | dot -Tpdf -o resnet18.pdf`
    #[arg(long, group = "view")]
    dot: bool,

    /// Draw the network to an SVG file instead
    #[arg(long, group = "view", value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Size of the image in pixels, by default the one that the network was designed for
    #[arg(long, value_name = "SIDE|HEIGHTxWIDTH", value_parser = image_size, requires = "view")]
    size: Option<[usize; 2]>,

    /// How many levels of modules there are in --summary (by default 2) or in a drawing (by default as many as it takes to see
    /// the stages)
    #[arg(long, value_name = "N", requires = "view", conflicts_with = "shapes")]
    depth: Option<NonZeroUsize>,

    /// Print one JSON object a line, with --shapes or --summary (docs/json.md)
    #[arg(long, requires = "view", conflicts_with_all = ["dot", "svg"])]
    json: bool,

    #[command(flatten)]
    graft: GraftArgs,
}

/// A graft, to be looked at only.
#[derive(Args)]
#[command(next_help_heading = "What `engraft train` would train")]
struct GraftArgs {
    /// Graft a new head first; lines that go are marked with -, those that come with +
    #[arg(long)]
    graft: bool,

    /// Classes of the new head
    #[arg(long, value_name = "N", default_value = "10", requires = "graft")]
    classes: NonZeroUsize,

    /// Units of the hidden layers of the new head, in order; without it the head is one linear layer
    #[arg(long, value_name = "N", num_args = 1.., value_delimiter = ',', requires = "graft")]
    hidden_units: Vec<NonZeroUsize>,

    /// Probability of dropping a unit after each hidden layer
    #[arg(long, value_name = "P", default_value = "0.2", requires = "graft", allow_negative_numbers = true)]
    dropout: f64,

    /// Module that the head replaces, with all behind it (`classifier.6`, `layer3`); without it the whole classifier
    #[arg(long, value_name = "PATH", requires = "graft")]
    cut: Option<String>,
}

impl Show {
    pub(crate) fn run(self) -> Outcome {
        let network = self.network()?;
        let graft = self.graft.apply(&network)?;
        let graph = graft.as_ref().map_or(&network, |graft| &graft.graph);
        let input = [&[1], network.input()].concat();
        let is_drawing = self.dot || self.svg.is_some();
        if let Some(Graft { report, .. }) = &graft {
            // Machines read nothing but what they asked for.
            match self.json || is_drawing {
                true => note(&report.to_string()),
                false => writeln!(io::stdout(), "{report}\n")?,
            }
        }
        if is_drawing {
            return self.draw(graph, &input, graft.as_ref());
        }
        if self.summary || self.json {
            let is_trained = |name: &str| graft.as_ref().is_none_or(|graft| graft.is_of_head(name));
            let modules = graph.module_costs(&input, is_trained)?;
            match self.summary {
                true => summary::print(
                    &modules,
                    self.depth.map_or(2, NonZeroUsize::get),
                    graft.is_some(),
                    self.json,
                )?,
                false => tree::print_json(&modules)?,
            }
            return Ok(());
        }
        let before = self.tree(&network, &input)?;
        let text = match graft {
            Some(_) => tree::changes(&before, &self.tree(graph, &input)?),
            None => before + "\n",
        };
        io::stdout().write_all(text.as_bytes())?;
        Ok(())
    }

    /// PyTorch's text, with shapes if asked for.
    fn tree(&self, graph: &Graph, input: &[usize]) -> Result<String, GraphError> {
        let text = graph.to_string();
        match self.shapes {
            true => Ok(tree::with_shapes(&text, &graph.module_costs(input, |_| true)?)),
            false => Ok(text),
        }
    }

    /// The architecture, for images of the size asked for.
    fn network(&self) -> Result<Graph, Box<dyn Error>> {
        let network = match self.size {
            Some([height, width]) if height == width => {
                engraft_zoo::architecture_of_size(&self.arch, height)?
            }
            Some([height, width]) => engraft_zoo::architecture(&self.arch)?.for_input(&[3, height, width])?,
            None => engraft_zoo::architecture(&self.arch)?,
        };
        // Auxiliary heads may need larger images than the network itself.
        let input = [&[1], network.input()].concat();
        Ok(if network.shapes(&input).is_ok() { network } else { network.without_aux() })
    }

    fn draw(&self, graph: &Graph, input: &[usize], graft: Option<&Graft>) -> Outcome {
        let trunk = match graft {
            Some(graft) => Some(graft.graph.until(graft.features)),
            None => graph.before_head(None).ok(),
        };
        let of_trunk = trunk.map(|trunk| trunk.module_paths());
        let is_of_head = |module: &str| {
            !module.is_empty()
                && of_trunk.as_ref().is_some_and(|paths| !paths.iter().any(|path| path == module))
        };
        let part = |module: &str| match graft {
            _ if is_of_head(module) => Part::Head,
            Some(_) => Part::Frozen,
            None => Part::Body,
        };
        let drawing = Drawing::of(graph, input, self.depth.map(NonZeroUsize::get), part)?;
        match &self.svg {
            Some(path) => {
                check_out(path)?;
                write_atomically(path, |file| file.write_all(drawing.to_svg().as_bytes()))?;
            }
            None => io::stdout().write_all(drawing.to_dot().as_bytes())?,
        }
        Ok(())
    }
}

impl GraftArgs {
    fn apply(&self, network: &Graph) -> Result<Option<Graft>, Box<dyn Error>> {
        if !self.graft {
            return Ok(None);
        }
        let hidden_units = self.hidden_units.iter().map(|units| units.get()).collect();
        let head = HeadSpec { hidden_units, classes: self.classes.get(), dropout: self.dropout };
        Ok(Some(network.graft(&head, self.cut.as_deref())?))
    }
}

/// `[height, width]` from `224` or `192x160`.
fn image_size(text: &str) -> Result<[usize; 2], String> {
    let (height, width) = text.split_once('x').unwrap_or((text, text));
    // Sizes beyond those of any image would only overflow the counts.
    let side = |text: &str| text.parse::<u16>().ok().filter(|side| *side > 0).map(usize::from);
    match (side(height), side(width)) {
        (Some(height), Some(width)) => Ok([height, width]),
        _ => Err("pixels from 1 to 65535 are needed, as in 224 or 192x160".into()),
    }
}
