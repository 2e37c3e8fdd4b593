//! Graft a new classification head on any pretrained vision network and train it on a folder of images.
//!
//! This crate is the command line: what was typed becomes a job for the libraries, and what they tell becomes text or JSON.
//! A file of [`commands`] is one subcommand.

mod commands;
mod interrupt;
mod machine;
mod network;
mod output;
mod photo_notes;
mod training_output;

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Burn allocates every intermediate tensor anew; glibc's allocator returns them to the system each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Graft a new classification head on any pretrained vision network and train it on a folder of images.
#[derive(Parser)]
#[command(name = "engraft", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Models(commands::models::Models),
    Show(commands::show::Show),
    Train(Box<commands::train::Train>),
    Predict(commands::predict::Predict),
    Info(commands::info::Info),
    Features(commands::features::Features),
    Bench(commands::bench::Bench),
    Cache(commands::cache::Cache),
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(with_hyphens(std::env::args_os()));
    let result = match cli.command {
        Command::Models(command) => command.run(),
        Command::Show(command) => command.run(),
        Command::Train(command) => command.run(),
        Command::Predict(command) => command.run(),
        Command::Info(command) => command.run(),
        Command::Features(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Cache(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(error.as_ref());
            if error.is::<commands::Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// Options may be written with underscores, as in `--hidden_units`. What comes after `--` are no options.
fn with_hyphens(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut options = true;
    arguments.map(move |argument| {
        options &= argument != "--";
        match argument.to_str() {
            Some(text) if options && text.starts_with("--") => {
                let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
                OsString::from(name.replace('_', "-") + value)
            }
            _ => argument,
        }
    })
}

/// The one place where errors are printed.
fn report(error: &(dyn Error + 'static)) {
    // A closed pipe, as in `engraft show resnet50 | head`, is no failure that anybody needs to read about.
    if let Some(error) = error.downcast_ref::<std::io::Error>()
        && error.kind() == std::io::ErrorKind::BrokenPipe
    {
        return;
    }
    output::note(&format!("error: {error}"));
    if let Some(hint) = error.downcast_ref().and_then(hint) {
        output::note(&format!("hint: {hint}"));
    }
}

/// By which option an error of the library can be met: the library knows none.
fn hint(error: &engraft::Error) -> Option<&'static str> {
    use engraft::{EngineError, Error, GraphError, TrainError, WeightsError};
    Some(match error {
        Error::Engine(EngineError::Device(_)) => "leave --gpu away to run on the CPU",
        Error::Graph(GraphError::NoSuchModule { .. }) => "`engraft show ARCH` prints all modules",
        Error::Graph(GraphError::NoHead { .. }) => "say with --cut PATH what the head replaces",
        Error::NoPublishedWeights { .. } | Error::UnknownWeights { .. } => {
            "--weights takes a file, a name of published weights, or `random`"
        }
        Error::Weights(WeightsError::Download { .. } | WeightsError::WrongHash { .. }) => {
            "--weights FILE takes weights that you have"
        }
        Error::OptionsChanged { .. } | Error::Train(TrainError::PhotosChanged { .. }) => {
            "--force goes on with what there is now; `engraft train` without --resume begins a new run"
        }
        Error::Train(TrainError::RunExists { .. }) => {
            "--resume RUN goes on with it, --run NAME names another"
        }
        Error::Train(TrainError::NotLinear | TrainError::NotKept) => {
            "--solver adam trains any head; --train head+last:1 finds a linear head by lbfgs before more is trained"
        }
        Error::Graph(GraphError::TooFewBlocks { .. }) => {
            "`engraft show ARCH` prints all modules; --train from:PATH names one to begin with"
        }
        Error::Train(TrainError::Cache { .. }) => "--no-cache keeps no features",
        Error::Train(TrainError::Strict { .. } | TrainError::Contradicting { .. }) => {
            "without --strict such photos are left out"
        }
        Error::Train(TrainError::NoCheckpoint { .. }) => "`--arch ARCH --weights FILE` uses a weights file",
        Error::AuxiliaryHeads(_) => "--train all trains everything; --aux drop leaves auxiliary heads away",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn underscores_in_names_of_options_are_hyphens() {
        let cases = [
            ("--hidden_units", "--hidden-units"),
            ("--learning_rate=0.1", "--learning-rate=0.1"),
            ("--weights=my_file.pth", "--weights=my_file.pth"),
            ("my_folder", "my_folder"),
            ("-x_y", "-x_y"),
            ("--", "--"),
            ("--my_photo.jpg", "--my_photo.jpg"),
        ];
        let typed = cases.iter().map(|(typed, _)| OsString::from(typed));
        let read: Vec<OsString> = cases.iter().map(|(_, read)| read.into()).collect();
        assert_eq!(with_hyphens(typed).collect::<Vec<_>>(), read);
    }
}
