//! Networks and modules as PyTorch prints them (`torch/nn/modules/module.py`, `__repr__`).

use std::fmt;

use crate::{Graph, Module};

impl fmt::Display for Graph {
    /// The text of `print(model)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_module(self, 0, f)
    }
}

fn write_module(module: &Module, depth: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match &module.op {
        Some(op) if module.children.is_empty() => return write!(f, "{}({})", module.class, op.arguments()),
        _ => write!(f, "{}(", module.class)?,
    }
    let mut children = module.children.as_slice();
    while let [first, ..] = children {
        let text = Indented(first, depth + 1).to_string();
        let alike =
            |child: &&Module| module.class == "ModuleList" && Indented(child, depth + 1).to_string() == text;
        let repeats = 1 + children[1..].iter().take_while(alike).count();
        write!(f, "\n{:1$}", "", 2 * (depth + 1))?;
        match repeats {
            1 => write!(f, "({}): {text}", first.name)?,
            _ => write!(f, "({}-{}): {repeats} x {text}", first.name, children[repeats - 1].name)?,
        }
        children = &children[repeats..];
    }
    if !module.children.is_empty() {
        write!(f, "\n{:1$}", "", 2 * depth)?;
    }
    f.write_str(")")
}

struct Indented<'a>(&'a Module, usize);

impl fmt::Display for Indented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_module(self.0, self.1, f)
    }
}

/// Two numbers as Python's `repr` writes a tuple.
pub(crate) struct Pair<T>(pub(crate) [T; 2]);

impl<T: fmt::Display> fmt::Display for Pair<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.0[0], self.0[1])
    }
}

/// A boolean as Python writes it.
pub(crate) struct Bool(pub(crate) bool);

impl fmt::Display for Bool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "True" } else { "False" })
    }
}

/// A float as Python's `repr` writes it: `1e-05`, `0.1`, `0.0`.
pub(crate) struct Float(pub(crate) f64);

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 != 0.0 && self.0.abs() < 1e-4 {
            let text = format!("{:e}", self.0);
            let (digits, exponent) = text.split_once("e-").unwrap_or((&text, "0"));
            write!(f, "{digits}e-{exponent:0>2}")
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Float;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases = [
            (1e-5, "1e-05"),
            (2.5e-6, "2.5e-06"),
            (1e-12, "1e-12"),
            (0.001, "0.001"),
            (0.5, "0.5"),
            (0.0, "0.0"),
        ];
        for (value, text) in cases {
            assert_eq!(Float(value).to_string(), text);
        }
    }
}
