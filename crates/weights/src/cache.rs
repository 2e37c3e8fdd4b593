//! The folders in which weights are kept.

use std::env;
use std::path::PathBuf;

/// Engraft's cache: `$ENGRAFT_CACHE`, else `$XDG_CACHE_HOME/engraft`, else `~/.cache/engraft`. It need not
/// exist.
pub fn cache_dir() -> PathBuf {
    engraft_cache(&environment)
}

/// Where weights files are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightsFolders {
    /// PyTorch's own cache, which is read only.
    pub torch: PathBuf,
    /// Engraft's, where downloads go.
    pub engraft: PathBuf,
}

impl WeightsFolders {
    /// `$TORCH_HOME/hub/checkpoints`, else `$XDG_CACHE_HOME/torch/hub/checkpoints`, else
    /// `~/.cache/torch/hub/checkpoints` (as `torch.hub` has it), and `weights` in [`cache_dir`].
    pub fn from_env() -> Self {
        Self::from_lookup(&environment)
    }

    fn from_lookup(lookup: &impl Fn(&str) -> Option<PathBuf>) -> Self {
        let torch_home = lookup("TORCH_HOME").unwrap_or_else(|| user_cache(lookup).join("torch"));
        Self {
            torch: torch_home.join("hub").join("checkpoints"),
            engraft: engraft_cache(lookup).join("weights"),
        }
    }
}

fn engraft_cache(lookup: &impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    lookup("ENGRAFT_CACHE").unwrap_or_else(|| user_cache(lookup).join("engraft"))
}

fn user_cache(lookup: &impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let home = || lookup("HOME").unwrap_or_else(env::temp_dir);
    lookup("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache"))
}

/// A folder that the environment names. A variable that is set but empty counts as not set.
fn environment(name: &str) -> Option<PathBuf> {
    let folder = if name == "HOME" { env::home_dir() } else { env::var_os(name).map(PathBuf::from) };
    folder.filter(|folder| !folder.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(variables: &[(&str, &str)]) -> (String, String, String) {
        let lookup = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
        };
        let WeightsFolders { torch, engraft } = WeightsFolders::from_lookup(&lookup);
        let text = |path: PathBuf| path.display().to_string();
        (text(torch), text(engraft), text(engraft_cache(&lookup)))
    }

    #[test]
    fn the_most_specific_variable_decides() {
        let owned = |torch: &str, engraft: &str, cache: &str| {
            (torch.to_string(), engraft.to_string(), cache.to_string())
        };
        let home = ("HOME", "/home/ada");
        let xdg = ("XDG_CACHE_HOME", "/cache");
        assert_eq!(
            folders(&[home]),
            owned(
                "/home/ada/.cache/torch/hub/checkpoints",
                "/home/ada/.cache/engraft/weights",
                "/home/ada/.cache/engraft"
            )
        );
        assert_eq!(
            folders(&[home, xdg]),
            owned("/cache/torch/hub/checkpoints", "/cache/engraft/weights", "/cache/engraft")
        );
        assert_eq!(
            folders(&[home, xdg, ("TORCH_HOME", "/torch"), ("ENGRAFT_CACHE", "/engraft")]),
            owned("/torch/hub/checkpoints", "/engraft/weights", "/engraft")
        );
    }
}
