//! `engraft show`

use std::io::Write;

use clap::Args;

use super::Outcome;
use crate::network::architecture_names;

/// Print a network as PyTorch prints it
#[derive(Args)]
pub(crate) struct Show {
    /// Name of the architecture, as in torchvision
    #[arg(value_parser = architecture_names(), hide_possible_values = true)]
    arch: String,
}

impl Show {
    pub(crate) fn run(self) -> Outcome {
        let network = engraft_zoo::architecture(&self.arch)?;
        writeln!(std::io::stdout(), "{network}")?;
        Ok(())
    }
}
