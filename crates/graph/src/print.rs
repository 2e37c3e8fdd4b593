//! Networks and modules as PyTorch prints them (`torch/nn/modules/module.py`, `__repr__`).

use std::fmt;

use crate::{Activation, Graph, Module, Op, Pool};

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
        Some(op) if module.children.is_empty() => return write_layer(&module.class, op, f),
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

/// One layer, as in `Linear(in_features=512, out_features=1000, bias=True)`.
fn write_layer(name: &str, op: &Op, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match op {
        Op::Conv2d(conv) => {
            write!(f, "{name}({}, {}", conv.in_channels, conv.out_channels)?;
            write!(f, ", kernel_size={}, stride={}", Pair(conv.kernel), Pair(conv.stride))?;
            if conv.padding != [0; 2] {
                write!(f, ", padding={}", Pair(conv.padding))?;
            }
            if conv.dilation != [1; 2] {
                write!(f, ", dilation={}", Pair(conv.dilation))?;
            }
            if conv.groups != 1 {
                write!(f, ", groups={}", conv.groups)?;
            }
            f.write_str(if conv.bias { ")" } else { ", bias=False)" })
        }
        Op::Linear(linear) => write!(
            f,
            "{name}(in_features={}, out_features={}, bias={})",
            linear.in_features,
            linear.out_features,
            Bool(linear.bias)
        ),
        Op::BatchNorm2d(norm) => write!(
            f,
            "{name}({}, eps={}, momentum={}, affine=True, bias=True, track_running_stats=True)",
            norm.features,
            Float(norm.eps),
            Float(norm.momentum)
        ),
        Op::LayerNorm { features, eps } | Op::LayerNorm2d { features, eps } => {
            write!(f, "{name}(({features},), eps={}, elementwise_affine=True, bias=True)", Float(*eps))
        }
        Op::Activation { function: Activation::GELU, .. } => write!(f, "{name}(approximate='none')"),
        Op::StochasticDepth { p } => write!(f, "{name}(p={}, mode=row)", Float(*p)),
        // Hardswish and Hardsigmoid take the option as well, but do not print it.
        Op::Activation {
            function: Activation::ReLU | Activation::ReLU6 | Activation::SiLU,
            inplace: true,
        } => {
            write!(f, "{name}(inplace=True)")
        }
        Op::Dropout { p, inplace } => write!(f, "{name}(p={}, inplace={})", Float(*p), Bool(*inplace)),
        Op::MaxPool2d(Pool { kernel, stride, padding, ceil_mode }) => write!(
            f,
            "{name}(kernel_size={kernel}, stride={stride}, padding={padding}, dilation=1, ceil_mode={})",
            Bool(*ceil_mode)
        ),
        Op::AvgPool2d { window: Pool { kernel, stride, padding, .. }, .. } => {
            write!(f, "{name}(kernel_size={kernel}, stride={stride}, padding={padding})")
        }
        Op::AdaptiveAvgPool2d { output: [side, _], square: true } => write!(f, "{name}(output_size={side})"),
        Op::AdaptiveAvgPool2d { output, .. } => write!(f, "{name}(output_size={})", Pair(*output)),
        Op::Flatten { start } => write!(f, "{name}(start_dim={start}, end_dim=-1)"),
        _ => write!(f, "{name}()"),
    }
}

struct Pair([usize; 2]);

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.0[0], self.0[1])
    }
}

struct Bool(bool);

impl fmt::Display for Bool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "True" } else { "False" })
    }
}

/// A float as Python's `repr` writes it: `1e-05`, `0.1`, `0.0`.
struct Float(f64);

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
