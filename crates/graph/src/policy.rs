//! What is trained of a network with a new head, said in a word.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::GraphError;

/// What is trained, and in which order. As text: `head`, `last:2`, `head+last:2`.
///
/// ```
/// use engraft_graph::{Part, Policy};
///
/// let policy: Policy = "head+last:2".parse()?;
/// assert_eq!(policy, Policy { head_first: true, part: Part::Last(2) });
/// assert_eq!(policy.to_string(), "head+last:2");
/// # Ok::<(), engraft_graph::GraphError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Policy {
    /// Whether the head is found first, alone, and the part trains from there.
    pub head_first: bool,
    /// What is trained.
    pub part: Part,
}

/// A part of a network with a new head. The head is in all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// `head`: the new head alone.
    Head,
    /// `last:N`: the head and the last N [blocks](crate::Graft::blocks) before it.
    Last(usize),
    /// `from:PATH`: a module, and all that is computed after it begins.
    From(String),
    /// `norm`: the head, and weights and biases of all norms.
    Norm,
    /// `all`: everything.
    All,
}

impl Policy {
    /// The head alone.
    pub const HEAD: Policy = Policy { head_first: false, part: Part::Head };

    /// Everything at once.
    pub const ALL: Policy = Policy { head_first: false, part: Part::All };
}

impl FromStr for Policy {
    type Err = GraphError;

    fn from_str(text: &str) -> Result<Self, GraphError> {
        let bad = |reason: &str| GraphError::BadPolicy { text: text.into(), reason: reason.into() };
        let (head_first, part) = match text.strip_prefix("head+") {
            Some(part) => (true, part),
            None => (false, text),
        };
        let part = match part.split_once(':') {
            None if part == "head" && head_first => {
                return Err(bad("behind `head+` comes what trains after the head, as in head+last:1"));
            }
            None if part == "head" => Part::Head,
            None if part == "norm" => Part::Norm,
            None if part == "all" => Part::All,
            Some(("last", "0")) => {
                return Err(bad(
                    "no block would train: head trains the head alone, last:1 the last block too",
                ));
            }
            Some(("last", count)) => {
                let count = count.parse();
                Part::Last(count.map_err(|_| bad("a number of blocks is needed, as in last:1"))?)
            }
            Some(("from", "")) => return Err(bad("the path of a module is needed, as in from:layer4")),
            Some(("from", path)) => Part::From(path.into()),
            _ => {
                return Err(bad(
                    "head, last:N, from:PATH, norm or all is needed, or `head+` and one of the others",
                ));
            }
        };
        Ok(Policy { head_first, part })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.head_first { "head+" } else { "" })?;
        match &self.part {
            Part::Head => f.write_str("head"),
            Part::Last(count) => write!(f, "last:{count}"),
            Part::From(path) => write!(f, "from:{path}"),
            Part::Norm => f.write_str("norm"),
            Part::All => f.write_str("all"),
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = GraphError;

    fn try_from(text: String) -> Result<Self, GraphError> {
        text.parse()
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> String {
        policy.to_string()
    }
}
