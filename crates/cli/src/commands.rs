//! The subcommands.

pub(crate) mod bench;
pub(crate) mod cache;
pub(crate) mod features;
pub(crate) mod info;
pub(crate) mod models;
pub(crate) mod predict;
pub(crate) mod show;
pub(crate) mod train;

use std::error::Error;

/// What a command gives: nothing, or an error that is a sentence for the user.
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// A wrong command line that clap cannot see; the program ends with code 2.
#[derive(Debug)]
pub(crate) struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n\nFor more information, try '--help'.", self.0)
    }
}

impl Error for Usage {}

pub(crate) fn usage(text: &str) -> Box<dyn Error> {
    Box::new(Usage(text.into()))
}
