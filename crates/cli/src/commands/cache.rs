//! `engraft cache`

use std::fs;
use std::io;
use std::path::Path;

use clap::{Args, Subcommand};
use engraft::{cache_dir, default_cache_size, disk_usage, features_folder, index_folder};
use serde_json::json;

use super::Outcome;
use crate::output::{json_line, json_path, print_line};

/// Say how large the cache is, or empty it
///
/// The cache holds the features of your images, so that they need not be computed again, an index, so that they need not be read again, and
/// downloaded weights. It lies where
/// $ENGRAFT_CACHE says, else in $XDG_CACHE_HOME/engraft, else in ~/.cache/engraft.
#[derive(Args)]
pub(crate) struct Cache {
    #[command(subcommand)]
    action: Option<Action>,

    /// Print a JSON object (docs/json.md)
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Delete the features and what is known of your images; downloaded weights stay
    Clear,
}

impl Cache {
    pub(crate) fn run(self) -> Outcome {
        let root = cache_dir();
        let (features, index) = (features_folder(&root), index_folder(&root));
        let error = |error: io::Error| format!("cannot read the cache {}: {error}", root.display());
        let (_, features_bytes) = disk_usage(&features).map_err(error)?;
        let (_, index_bytes) = disk_usage(&index).map_err(error)?;
        let (_, weights_bytes) = disk_usage(&root.join("weights")).map_err(error)?;
        if let Some(Action::Clear) = self.action {
            delete(&features)?;
            delete(&index)?;
        }
        let limit = default_cache_size(&root);
        let cleared = self.action.is_some();
        if self.json {
            json_line(&json!({
                "path": json_path(&root),
                "features_bytes": features_bytes,
                "index_bytes": index_bytes,
                "weights_bytes": weights_bytes,
                "limit_bytes": limit,
                "cleared": cleared,
            }))?;
        } else {
            let deleted = if cleared { ", deleted" } else { "" };
            let limit = megabytes(limit);
            print_line(&format!("cache     {}", root.display()))?;
            print_line(&format!("features  {}{deleted}", megabytes(features_bytes)))?;
            print_line(&format!("limit     {limit} of features; `engraft train --cache-size` sets another"))?;
            print_line(&format!("index     {}{deleted}", megabytes(index_bytes)))?;
            print_line(&format!("weights   {}", megabytes(weights_bytes)))?;
        }
        Ok(())
    }
}

fn delete(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot delete {}: {error}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
