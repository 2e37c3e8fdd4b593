//! Whether a state dict has the tensors that a network needs, and which is which.

use engraft_tensor::{StateDict, Tensor, TensorData};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use engraft_graph::{TensorKind, TensorSpec, is_within};

use crate::WeightsError;

/// Whether a tensor is below one of the modules that are replaced.
fn is_replaced(name: &str, replaced: &[String]) -> bool {
    replaced.iter().any(|path| is_within(name, path))
}

/// A state dict that fits a network.
#[derive(Clone, Debug)]
pub struct Matched {
    /// The tensors under the network's names and in its order, without a replaced head, and without the
    /// constants ([`TensorKind::Index`]) that the file lacks.
    pub tensors: StateDict,
    /// What the user should know when the tensors were not matched by name.
    pub note: Option<String>,
}

/// A tensor that has the right name and is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherShape {
    /// Its name.
    pub name: String,
    /// What the file holds: `[10, 512]`.
    pub file: String,
    /// What the network needs: `[1000, 512]`.
    pub network: String,
}

/// How a weights file and a network differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// The weights file.
    pub path: PathBuf,
    /// Names of the tensors that the network needs and the file lacks.
    pub missing: Vec<String>,
    /// Names of the tensors that the file holds and the network does not know.
    pub left_over: Vec<String>,
    /// Tensors of the same name and another shape.
    pub other_shape: Vec<OtherShape>,
    /// The architecture that the file seems to belong to.
    pub looks_like: Option<String>,
}

impl std::error::Error for Mismatch {}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other_shape: Vec<_> = self
            .other_shape
            .iter()
            .map(|OtherShape { name, file, network }| {
                format!("{name} is {file}, the network needs {network}")
            })
            .collect();
        let parts = [
            part(&self.missing, "tensor is missing", "tensors are missing"),
            part(&self.left_over, "tensor is left over", "tensors are left over"),
            part(&other_shape, "tensor has another shape", "tensors have another shape"),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        write!(f, "the weights file {} does not fit the network: {}", self.path.display(), parts.join("; "))?;
        match &self.looks_like {
            Some(architecture) => write!(f, ". It looks like a file of {architecture}"),
            None => Ok(()),
        }
    }
}

/// `3 tensors are missing (a, b, ...)`, or nothing about an empty list.
fn part(names: &[String], one: &str, many: &str) -> Option<String> {
    const SHOWN: usize = 3;
    let what = match names.len() {
        0 => return None,
        1 => one,
        _ => many,
    };
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    Some(format!("{} {what} ({}{more})", names.len(), names[..names.len().min(SHOWN)].join(", ")))
}

/// Matches a file's tensors to those of a network, `specs` being all of them, head included, in state-dict
/// order. Of the modules at the paths in `replaced` (`fc`, or `layer4` and `fc`), in whose place a new head comes, the file
/// may lack tensors, have others, or have them in other shapes; if there are none every tensor must be there.
///
/// **By name** when all names and shapes fit. Otherwise **by order**, which [`Matched::note`] then says, if
///
/// - the file keeps the order in which its network defined the tensors ([`StateDict::keeps_order`]), and
/// - all tensors of the file pair off in that order with all tensors of the network (with or without a
///   replaced head), each pair equal in kind, which is the last component of the name, and in shape, and
/// - no tensor of the file that by name and shape belongs to one place in the network would come to another.
///
/// What order cannot tell is two layers of equal shape that the other network defines in exchanged order
/// under names of its own.
///
/// Names that torchvision itself renames while it loads a file (DenseNet's `norm.1`, ViT's `linear_1`) are
/// those of today.
///
/// Counters (`num_batches_tracked`) that a file lacks are zero, as they are never read in evaluation and
/// files before PyTorch 0.4.1 have none. Constants ([`TensorKind::Index`]) that it lacks are left out.
///
/// # Errors
/// [`ReadError::NotFinite`](engraft_tensor::ReadError::NotFinite) if a tensor that the network uses holds NaN or infinity; [`WeightsError::Mismatch`], with the name of the one of `architectures` that the file fits instead, if
/// any. They are looked at only then.
pub fn match_state<'a>(
    dict: StateDict,
    specs: &[TensorSpec],
    replaced: &[String],
    source: &Path,
    architectures: impl IntoIterator<Item = (&'a str, Vec<TensorSpec>)>,
) -> Result<Matched, WeightsError> {
    let dict = dict.map_names(todays_name);
    match by_name(&dict, specs, replaced) {
        Ok(pairs) => matched(dict, pairs, source, None),
        Err(difference) => match by_order(&dict, specs, replaced) {
            Some(pairs) => {
                let note = note(source, &dict, &pairs);
                matched(dict, pairs, source, Some(note))
            }
            None => {
                let others = architectures.into_iter().filter(|(_, candidate)| candidate != specs);
                let looks_like = looks_like(&dict, others).map(str::to_string);
                let difference = ends_early(&dict, specs, replaced).unwrap_or(difference);
                Err(Mismatch { path: source.to_path_buf(), looks_like, ..difference }.into())
            }
        },
    }
}

/// The architecture to which the tensors belong, apart from the module of the first level that holds its last
/// tensor (`fc`, `classifier`): the first one that fits by name, else the first that fits by order.
pub fn looks_like<'a>(
    dict: &StateDict,
    architectures: impl IntoIterator<Item = (&'a str, Vec<TensorSpec>)>,
) -> Option<&'a str> {
    let mut fits_by_order = None;
    for (architecture, specs) in architectures {
        let last = specs.last().and_then(|spec| spec.name.split('.').next()).unwrap_or_default();
        let head = [last.to_string()];
        if by_name(dict, &specs, &head).is_ok() {
            return Some(architecture);
        }
        if fits_by_order.is_none() && by_order(dict, &specs, &head).is_some() {
            fits_by_order = Some(architecture);
        }
    }
    fits_by_order
}

/// The name that torchvision gives a tensor while it loads an older file: DenseNet's `norm.1` is `norm1`
/// (`_load_state_dict` in `torchvision/models/densenet.py`), ViT's `linear_1` is a layer of a sequence
/// (`MLPBlock` in `vision_transformer.py`).
fn todays_name(name: String) -> String {
    let renamed = || {
        let (layer, own) = name.rsplit_once('.')?;
        let (module, number) = layer.rsplit_once('.')?;
        let (block, module_name) = module.rsplit_once('.')?;
        match (module_name, number) {
            ("norm" | "conv", "1" | "2") if kind(block).starts_with("denselayer") => {
                Some(format!("{module}{number}.{own}"))
            }
            ("mlp", "linear_1") => Some(format!("{module}.0.{own}")),
            ("mlp", "linear_2") => Some(format!("{module}.3.{own}")),
            _ => None,
        }
    };
    renamed().unwrap_or(name)
}

/// A tensor that the network needs, and the name that the file has for it, or `None` if it may lack it.
type Pair<'a> = (&'a TensorSpec, Option<String>);

fn by_name<'a>(
    dict: &StateDict,
    specs: &'a [TensorSpec],
    replaced: &[String],
) -> Result<Vec<Pair<'a>>, Mismatch> {
    let mut difference = Mismatch::default();
    let mut pairs = Vec::with_capacity(specs.len());
    for spec in specs.iter().filter(|spec| !is_replaced(&spec.name, replaced)) {
        match dict.get(&spec.name) {
            Some(tensor) if fits(tensor, spec) => pairs.push((spec, Some(spec.name.clone()))),
            _ if spec.kind == TensorKind::Counter => pairs.push((spec, None)),
            None if spec.kind == TensorKind::Index => pairs.push((spec, None)),
            Some(tensor) => difference.other_shape.push(other_shape(tensor, spec)),
            None => difference.missing.push(spec.name.clone()),
        }
    }
    let known: HashSet<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let is_left_over =
        |name: &&str| !known.contains(name) && !is_replaced(name, replaced) && !is_counter(name);
    difference.left_over = dict.names().filter(is_left_over).map(str::to_string).collect();
    if difference == Mismatch::default() { Ok(pairs) } else { Err(difference) }
}

fn by_order<'a>(dict: &StateDict, specs: &'a [TensorSpec], replaced: &[String]) -> Option<Vec<Pair<'a>>> {
    let all = expected(dict, specs);
    let without_head: Vec<_> =
        all.iter().copied().filter(|spec| !is_replaced(&spec.name, replaced)).collect();
    let expected = [all, without_head].into_iter().find(|expected| expected.len() == dict.len())?;
    if !agree_in_order(dict, &expected, replaced) {
        return None;
    }
    let mut names = expected.iter().zip(dict.names()).peekable();
    let pairs = specs.iter().map(|spec| {
        let found = names.next_if(|(next, _)| next.name == spec.name).map(|(_, name)| name.to_string());
        (spec, found)
    });
    Some(pairs.filter(|(spec, _)| !is_replaced(&spec.name, replaced)).collect())
}

/// The difference of a file that agrees in order as far as it goes, but ends before the network does.
fn ends_early(dict: &StateDict, specs: &[TensorSpec], replaced: &[String]) -> Option<Mismatch> {
    let expected = expected(dict, specs);
    let rest = expected
        .get(dict.len()..)
        .filter(|_| !dict.is_empty() && agree_in_order(dict, &expected, replaced))?;
    Some(Mismatch { missing: rest.iter().map(|spec| spec.name.clone()).collect(), ..Mismatch::default() })
}

/// What the file should hold: all tensors, but no counters or constants if it has none.
fn expected<'a>(dict: &StateDict, specs: &'a [TensorSpec]) -> Vec<&'a TensorSpec> {
    let kinds: HashSet<&str> = dict.names().map(kind).collect();
    let may_lack = |spec: &TensorSpec| matches!(spec.kind, TensorKind::Counter | TensorKind::Index);
    specs.iter().filter(|spec| !may_lack(spec) || kinds.contains(kind(&spec.name))).collect()
}

/// Whether the tensors pair off with the first of those that are expected.
fn agree_in_order(dict: &StateDict, expected: &[&TensorSpec], replaced: &[String]) -> bool {
    let agrees = |(spec, (name, tensor)): (&&TensorSpec, (&str, &Tensor))| {
        let is_right = || fits(tensor, spec) && !is_elsewhere(dict, spec, name);
        kind(&spec.name) == kind(name) && (is_replaced(&spec.name, replaced) || is_right())
    };
    dict.keeps_order() && expected.iter().zip(dict.iter()).all(agrees)
}

/// True if the file has the tensor under its right name, but not where order would take it from.
fn is_elsewhere(dict: &StateDict, spec: &TensorSpec, name: &str) -> bool {
    spec.kind != TensorKind::Counter
        && spec.name != name
        && dict.get(&spec.name).is_some_and(|tensor| fits(tensor, spec))
}

fn fits(tensor: &Tensor, spec: &TensorSpec) -> bool {
    let is_integer = matches!(tensor.data, TensorData::I64(_));
    tensor.shape == spec.shape && is_integer != spec.kind.is_float()
}

fn other_shape(tensor: &Tensor, spec: &TensorSpec) -> OtherShape {
    let integers = if matches!(tensor.data, TensorData::I64(_)) { " of integers" } else { "" };
    OtherShape {
        name: spec.name.clone(),
        file: format!("{:?}{integers}", tensor.shape),
        network: format!("{:?}", spec.shape),
    }
}

/// `running_mean` of `layer1.0.bn1.running_mean`.
fn kind(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn is_counter(name: &str) -> bool {
    kind(name) == "num_batches_tracked"
}

fn note(source: &Path, dict: &StateDict, pairs: &[Pair]) -> String {
    let renamed: Vec<_> = pairs
        .iter()
        .filter_map(|(spec, name)| Some((&spec.name, name.as_ref()?)))
        .filter(|(ours, theirs)| ours != theirs)
        .collect();
    let example = renamed.first().map_or(String::new(), |(ours, theirs)| format!(" ({theirs} for {ours})"));
    format!(
        "{}: {} of {} tensors have other names than in the network{example}; they were matched by their order, \
         in which all kinds and shapes agree",
        source.display(),
        renamed.len(),
        dict.len()
    )
}

/// Moves the tensors to the network's names.
/// What the network does not use, as the classifier of a file whose features alone are trained, may hold anything.
fn matched(
    dict: StateDict,
    pairs: Vec<Pair>,
    source: &Path,
    note: Option<String>,
) -> Result<Matched, WeightsError> {
    let tensors = take(dict, pairs);
    tensors.check_finite(source)?;
    Ok(Matched { tensors, note })
}

fn take(dict: StateDict, pairs: Vec<Pair>) -> StateDict {
    let mut tensors: HashMap<String, Tensor> = dict.into_iter().collect();
    let tensor = |(spec, name): (&TensorSpec, Option<String>)| {
        let found = name.and_then(|name| tensors.remove(&name));
        let zero = || (spec.kind == TensorKind::Counter).then(|| Tensor::counter(0));
        Some((spec.name.clone(), found.or_else(zero)?))
    };
    pairs.into_iter().filter_map(tensor).collect()
}
