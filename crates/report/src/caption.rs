//! What stands on the blocks of a drawing.

use engraft_graph::{Conv2d, Module, Op};

use crate::blocks::Block;

impl Block {
    /// A line that says which modules it is: `features.3 – 5`; what it does if it is none.
    pub fn title(&self) -> String {
        match self.modules.as_slice() {
            [] => self.content.clone(),
            [path] => path.clone(),
            [first, .., last] => range(first, last),
        }
    }

    /// A second line, which says what the modules are: `3 × Fire`.
    pub fn subtitle(&self) -> String {
        match self.repeats {
            _ if self.modules.is_empty() => String::new(),
            1 => self.content.clone(),
            repeats if self.content.contains(", ") || is_repeat(&self.content) => {
                format!("{repeats} × ({})", self.content)
            }
            repeats => format!("{repeats} × {}", self.content),
        }
    }

    /// What stands in the block.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut cost = Vec::new();
        if self.parameters > 0 {
            cost.push(format!("{} parameters", quantity(self.parameters)));
        }
        if self.cost.multiply_adds > 0 {
            cost.push(format!("{} MAC", quantity(self.cost.multiply_adds)));
        }
        let mut lines = vec![self.title(), self.subtitle(), cost.join(" · ")];
        lines.retain(|line| !line.is_empty());
        lines
    }
}

/// What a module consists of: `2 × BasicBlock`, or its class, or the classes of its layers if its own says nothing.
pub(crate) fn describe(module: &Module) -> String {
    let says_nothing = ["Sequential", "ModuleList"].contains(&module.class.as_str());
    let containers: Vec<&Module> =
        module.children.iter().filter(|child| !child.children.is_empty()).collect();
    let inner = match containers[..] {
        [only] => repeated(only),
        _ => None,
    };
    match repeated(module).or(inner) {
        // Some classes are more telling than the convolutions that they consist of.
        Some((count, block)) if says_nothing || layers_with_weights(block) > 1 => {
            return format!("{count} × {}", block.class);
        }
        _ if !says_nothing => return module.class.clone(),
        _ => {}
    }
    let mut names = Vec::new();
    for child in &module.children {
        let name = child.op.as_ref().map_or_else(|| child.class.clone(), describe_op);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

/// How many children a module has, if all are containers of one class, and the first of them.
fn repeated(module: &Module) -> Option<(usize, &Module)> {
    let [first, rest @ ..] = module.children.as_slice() else { return None };
    let alike = |child: &Module| child.class == first.class && !child.children.is_empty();
    (!rest.is_empty() && module.children.iter().all(alike)).then_some((module.children.len(), first))
}

fn layers_with_weights(module: &Module) -> usize {
    let own = usize::from(module.op.as_ref().is_some_and(|op| op.widths().is_some()));
    own + module.children.iter().map(layers_with_weights).sum::<usize>()
}

/// Whether a content is one as `2 × BasicBlock`.
fn is_repeat(content: &str) -> bool {
    content.starts_with(|first: char| first.is_ascii_digit())
}

pub(crate) fn describe_op(op: &Op) -> String {
    match op {
        Op::Conv2d(Conv2d { kernel: [height, width], stride, .. }) => match stride {
            [1, 1] => format!("Conv2d {height}×{width}"),
            [stride, _] => format!("Conv2d {height}×{width} /{stride}"),
        },
        Op::Parameter { name, .. } => name.clone(),
        _ => op.name().into(),
    }
}

/// `features.3 – 5` from `features.3` and `features.5`.
fn range(first: &str, last: &str) -> String {
    let parent = |path: &str| path.rfind('.').map_or(0, |at| at + 1);
    match first[..parent(first)] == last[..parent(last)] {
        true => format!("{first} – {}", &last[parent(last)..]),
        false => format!("{first} – {last}"),
    }
}

/// A number with three digits and its unit: `9.41 k`.
fn quantity(number: u64) -> String {
    let units = ["", " k", " M", " G", " T"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", units[unit])
}

/// `64 × 56 × 56`: a shape without the batch.
pub(crate) fn sizes(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().skip(1).map(usize::to_string).collect();
    sizes.join(" × ")
}
