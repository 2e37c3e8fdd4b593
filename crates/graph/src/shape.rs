//! Shape inference: the output shape of every node, for any input size.

use crate::{
    Attention, BatchNorm2d, Conv2d, Dim, Graph, GraphError, Linear, Node, Op, Pool, PositionBias, Resize,
    ResizeTo, Windows,
};

/// Sizes of a tensor's axes, batch first.
pub type Shape = Vec<usize>;

impl Graph {
    /// The output shape of every node for an input `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// Names the first node that cannot take its input, what it needs and what it gets.
    pub fn shapes(&self, input: &[usize]) -> Result<Vec<Shape>, GraphError> {
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.nodes.len());
        if self.nodes.iter().filter(|node| node.op == Op::Input).count() > 1 {
            return Err(GraphError::Malformed("a network has one input, but this one has several".into()));
        }
        for node in &self.nodes {
            let inputs: Vec<&[usize]> = node.inputs.iter().map(|id| shapes[id.0].as_slice()).collect();
            let inputs = if node.op == Op::Input { vec![input] } else { inputs };
            let inference = Inference { node, inputs };
            let shape = inference.output()?;
            let needs = || format!("whose output is smaller than {shape:?}");
            inference.require(elements(&shape).is_some(), needs, "no memory holds that many values")?;
            shapes.push(shape);
        }
        Ok(shapes)
    }

    /// The network's output shape for a batch of its own input size, without the batch.
    ///
    /// # Errors
    /// As [`shapes`](Self::shapes).
    pub fn output_shape(&self) -> Result<Shape, GraphError> {
        let input: Shape = [&[1], self.input.as_slice()].concat();
        let shapes = self.shapes(&input)?;
        Ok(shapes[self.output.0][1..].to_vec())
    }
}

/// How many values a tensor has; none if the bytes of so many could not be counted.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    let count = shape.iter().try_fold(1_usize, |count, size| count.checked_mul(*size))?;
    (count <= MOST_ELEMENTS).then_some(count)
}

/// The most values of a tensor: those of the most bytes that Rust allocates, as `f64`.
const MOST_ELEMENTS: usize = isize::MAX as usize / 8;

/// Whether an operation's attributes make sense, whatever its input is.
///
/// # Errors
/// When they contradict each other, divide by zero, or ask for tensors that cannot be.
pub(crate) fn check_attributes(node: &Node) -> Result<(), GraphError> {
    /// The largest window that positions have biases for, in tokens: its fourth power counts the pairs.
    const LARGEST_WINDOW: usize = 1 << 10;
    let (agree, reason) = match &node.op {
        Op::Conv2d(Conv2d { in_channels, out_channels, kernel, stride, dilation, groups, .. }) => (
            *groups > 0
                && in_channels.is_multiple_of(*groups)
                && out_channels.is_multiple_of(*groups)
                && *in_channels > 0
                && *out_channels > 0
                && kernel.iter().chain(stride).chain(dilation).all(|size| *size > 0),
            "groups divide the channels, and channels, kernel, stride and dilation are at least 1",
        ),
        Op::MaxPool2d(window) | Op::AvgPool2d { window, .. } => (
            window.kernel > 0 && window.stride > 0 && window.padding <= window.kernel / 2,
            "window and stride are at least 1, and the padding is at most half the window",
        ),
        Op::Linear(Linear { in_features, out_features, .. }) => {
            (*in_features > 0 && *out_features > 0, "there is at least one feature")
        }
        Op::Parameter { shape, .. } => (!shape.contains(&0), "its sizes are at least 1"),
        Op::AdaptiveAvgPool2d { output, .. } => {
            (!output.contains(&0), "its output is at least 1 pixel a side")
        }
        Op::Resize(Resize { to, .. }) => {
            let fits = match to {
                ResizeTo::Size(size) => !size.contains(&0),
                ResizeTo::Scale(scale) => scale.iter().all(|scale| scale.is_finite() && *scale > 0.0),
                ResizeTo::Like => true,
            };
            (fits, "sizes are at least 1, and scale factors more than 0")
        }
        Op::BatchNorm2d(BatchNorm2d { eps, .. })
        | Op::LayerNorm { eps, .. }
        | Op::LayerNorm2d { eps, .. } => (eps.is_finite() && *eps >= 0.0, "eps is not negative"),
        Op::Dropout { p, .. } | Op::StochasticDepth { p } => {
            ((0.0..1.0).contains(p), "a probability is at least 0 and less than 1")
        }
        Op::Mean { axes } => (axes.is_sorted_by(|a, b| a < b), "axes are ascending"),
        Op::Roll { shifts, axes } => {
            let distinct = (1..axes.len()).all(|i| !axes[..i].contains(&axes[i]));
            (distinct && shifts.len() == axes.len(), "each axis is rolled once, by its own shift")
        }
        Op::Attention(attention) => {
            let Attention { dim, heads, windows, position, .. } = attention;
            let biased = attention.biased_window();
            let windows_agree = |windows: &Windows| {
                windows.shift < windows.side && biased.is_none_or(|biased| biased == windows.side)
            };
            let agree = *dim > 0
                && *dim <= u32::MAX as usize
                && dim.is_multiple_of(*heads)
                && windows.as_ref().is_none_or(windows_agree)
                && biased.is_none_or(|side| (1..=LARGEST_WINDOW).contains(&side))
                // The network sees distances by the largest there is.
                && *position != PositionBias::Network { window: 1 };
            let reason =
                "heads divide the features, a shift is less than a window, and biases are for such a window";
            (agree, reason)
        }
        _ => (true, ""),
    };
    let error = |reason: &str| {
        let node = node.describe();
        GraphError::Malformed(format!("the attributes of {node} do not agree: {reason}"))
    };
    if !agree {
        return Err(error(reason));
    }
    match node.op.tensors().iter().all(|tensor| elements(&tensor.shape).is_some()) {
        true => Ok(()),
        false => Err(error("no memory holds its tensors")),
    }
}

struct Inference<'a> {
    node: &'a Node,
    inputs: Vec<&'a [usize]>,
}

impl Inference<'_> {
    fn output(&self) -> Result<Shape, GraphError> {
        check_attributes(self.node)?;
        self.count_inputs()?;
        match &self.node.op {
            Op::Input => {
                let filled = !self.input().contains(&0);
                self.require(filled, || "of sizes above zero".into(), "there must be something to compute")?;
                Ok(self.input().to_vec())
            }
            Op::Activation { .. } | Op::Dropout { .. } | Op::StochasticDepth { .. } | Op::Identity => {
                Ok(self.input().to_vec())
            }
            Op::Parameter { shape, .. } => Ok(shape.clone()),
            Op::Attention(attention) => self.attention(attention),
            Op::Softmax { axis } => self.axis(*axis).map(|_| self.input().to_vec()),
            Op::Conv2d(conv) => self.conv2d(conv),
            Op::Linear(linear) => self.linear(linear),
            Op::ChannelAffine { scale, shift } => {
                let [_, channels, _, _] = self.image()?;
                let fits = channels == scale.len() && channels == shift.len();
                self.require(
                    fits,
                    || format!("[_, {}, _, _]", scale.len()),
                    "it has constants for that many channels",
                )?;
                Ok(self.input().to_vec())
            }
            Op::BatchNorm2d(BatchNorm2d { features, .. }) | Op::LayerNorm2d { features, .. } => {
                let [_, channels, _, _] = self.image()?;
                self.require(
                    channels == *features,
                    || format!("[_, {features}, _, _]"),
                    "it normalises that many channels",
                )?;
                Ok(self.input().to_vec())
            }
            Op::LayerNorm { features, .. } => {
                let fits = self.input().last() == Some(features);
                self.require(fits, || format!("[.., {features}]"), "it normalises that many features")?;
                Ok(self.input().to_vec())
            }
            Op::MaxPool2d(window) | Op::AvgPool2d { window, .. } => self.pool(window),
            Op::AdaptiveAvgPool2d { output: [height, width], .. } => {
                let [batch, channels, ..] = self.image()?;
                Ok(vec![batch, channels, *height, *width])
            }
            Op::Resize(resize) => self.resize(resize),
            Op::Flatten { start } => {
                self.axis(*start)?;
                let (kept, merged) = self.input().split_at(*start);
                Ok([kept, &[merged.iter().product()]].concat())
            }
            Op::Mean { axes } => {
                for axis in axes {
                    self.axis(*axis)?;
                }
                let kept = self.input().iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
                Ok(kept.map(|(_, size)| *size).collect())
            }
            Op::Add | Op::Mul => self.broadcast(),
            Op::MatMul => self.matmul(),
            Op::Concat { axis } => self.concat(*axis),
            Op::Chunk { axis, index, parts } => {
                let size = self.axis(*axis)?;
                let divides = *parts > 0 && size % parts == 0 && index < parts;
                self.require(
                    divides,
                    || format!("whose axis {axis} divides by {parts}"),
                    "it is cut into equal parts",
                )?;
                let mut shape = self.input().to_vec();
                shape[*axis] = size / parts;
                Ok(shape)
            }
            Op::Select { axis, index } => {
                let size = self.axis(*axis)?;
                self.require(
                    *index < size,
                    || format!("whose axis {axis} is longer than {index}"),
                    "it takes that place",
                )?;
                let mut shape = self.input().to_vec();
                shape.remove(*axis);
                Ok(shape)
            }
            Op::ExpandBatch => {
                let [a, like] = self.pair()?;
                let fits = a.first() == Some(&1) && !like.is_empty();
                self.require(
                    fits,
                    || "[1, ..] and a batch".into(),
                    "it is repeated to the size of the batch",
                )?;
                Ok([&like[..1], &a[1..]].concat())
            }
            Op::PadToMultiple { axes, of } => {
                let mut shape = self.input().to_vec();
                for axis in axes {
                    let padded = self.axis(*axis)?.checked_next_multiple_of((*of).max(1));
                    shape[*axis] = padded.unwrap_or(usize::MAX);
                }
                Ok(shape)
            }
            Op::Reshape { shape } => self.reshape(shape),
            Op::Permute { axes } => {
                let mut sorted = axes.clone();
                sorted.sort_unstable();
                let all = sorted.iter().copied().eq(0..self.input().len());
                self.require(all, || format!("of {} axes", axes.len()), "every axis is moved once")?;
                Ok(axes.iter().map(|axis| self.input()[*axis]).collect())
            }
            Op::Roll { axes, .. } => {
                for axis in axes {
                    self.axis(*axis)?;
                }
                Ok(self.input().to_vec())
            }
        }
    }

    fn conv2d(&self, conv: &Conv2d) -> Result<Shape, GraphError> {
        let [batch, channels, height, width] = self.image()?;
        let expected = || format!("[_, {}, _, _]", conv.in_channels);
        self.require(channels == conv.in_channels, expected, "its weight has that many input channels")?;
        let size = |axis: usize, size: usize| {
            let reach = conv.dilation[axis].saturating_mul(conv.kernel[axis] - 1).saturating_add(1);
            let padding = conv.padding[axis].saturating_mul(2);
            let padded = size.saturating_add(padding);
            let needs = || format!("of at least {} pixels a side", reach.saturating_sub(padding).max(1));
            self.require(padded >= reach, needs, "its kernel must fit into the padded image")?;
            Ok((padded - reach) / conv.stride[axis] + 1)
        };
        Ok(vec![batch, conv.out_channels, size(0, height)?, size(1, width)?])
    }

    fn linear(&self, linear: &Linear) -> Result<Shape, GraphError> {
        let fits = self.input().last() == Some(&linear.in_features);
        self.require(
            fits,
            || format!("[.., {}]", linear.in_features),
            "its weight has that many input features",
        )?;
        let mut shape = self.input().to_vec();
        shape.pop();
        shape.push(linear.out_features);
        Ok(shape)
    }

    fn resize(&self, resize: &Resize) -> Result<Shape, GraphError> {
        let [batch, channels, height, width] = self.image()?;
        let [height, width] = match resize.to {
            ResizeTo::Size(size) => size,
            ResizeTo::Scale([down, across]) => {
                [(height as f64 * down) as usize, (width as f64 * across) as usize]
            }
            ResizeTo::Like => match self.pair()? {
                [_, &[_, _, height, width]] => [height, width],
                _ => return Err(self.error("and another image".into(), "it gets the size of that one")),
            },
        };
        let fits = height > 0 && width > 0;
        self.require(fits, || "of more pixels".into(), "a row and a column must be left of it")?;
        Ok(vec![batch, channels, height, width])
    }

    fn pool(&self, window: &Pool) -> Result<Shape, GraphError> {
        let [batch, channels, height, width] = self.image()?;
        let size = |size: usize| {
            let padded = size.saturating_add(2 * window.padding);
            let smallest = window.kernel.saturating_sub(2 * window.padding).max(1);
            let needs = || format!("of at least {smallest} pixels a side");
            self.require(padded >= window.kernel, needs, "its window must fit into the padded image")?;
            Ok(window.output_size(size))
        };
        Ok(vec![batch, channels, size(height)?, size(width)?])
    }

    fn broadcast(&self) -> Result<Shape, GraphError> {
        let [a, b] = self.pair()?;
        let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
        let mut shape = long.to_vec();
        let mut fits = true;
        for (size, other) in shape.iter_mut().rev().zip(short.iter().rev()) {
            fits &= *size == *other || *size == 1 || *other == 1;
            *size = if *size == 1 { *other } else { *size };
        }
        self.require(
            fits,
            || "and another of the same sizes".into(),
            "elements are paired; only a size of 1 is repeated",
        )?;
        Ok(shape)
    }

    fn attention(&self, attention: &Attention) -> Result<Shape, GraphError> {
        let shape = self.input();
        let Attention { dim, windows, .. } = attention;
        let biased = attention.biased_window();
        let (ranks, tokens) = match windows {
            Some(_) => (4..=4, None),
            None => (3..=4, biased.map(|side| side * side)),
        };
        let fits = ranks.contains(&shape.len())
            && shape.last() == Some(dim)
            && tokens.is_none_or(|tokens| shape[shape.len() - 2] == tokens);
        let needs = || match (windows, tokens) {
            (Some(_), _) => format!("[batch, height, width, {dim}]"),
            (None, Some(tokens)) => format!("[.., {tokens}, {dim}]"),
            (None, None) => format!("[.., tokens, {dim}]"),
        };
        self.require(
            fits,
            needs,
            "it projects that many features, and has biases for that many tokens if any",
        )?;
        Ok(shape.to_vec())
    }

    fn matmul(&self) -> Result<Shape, GraphError> {
        let [a, b] = self.pair()?;
        let needs = || "[.., n, k] and another [.., k, m]".into();
        let reason = "rows of the first are multiplied with columns of the second";
        self.require(a.len() == b.len() && a.len() >= 2, needs, reason)?;
        let (last, before) = (a.len() - 1, a.len() - 2);
        self.require(a[..before] == b[..before] && a[last] == b[before], needs, reason)?;
        let mut shape = a.to_vec();
        shape[last] = b[last];
        Ok(shape)
    }

    fn concat(&self, axis: usize) -> Result<Shape, GraphError> {
        let mut shape = self.input().to_vec();
        self.axis(axis)?;
        for other in &self.inputs[1..] {
            let fits = other.len() == shape.len()
                && (0..shape.len()).all(|i| i == axis || other[i] == self.input()[i]);
            self.require(
                fits,
                || "of the same sizes as the first".into(),
                &format!("only axis {axis} may differ"),
            )?;
            shape[axis] += other[axis];
        }
        Ok(shape)
    }

    fn reshape(&self, dims: &[Dim]) -> Result<Shape, GraphError> {
        let total: usize = self.input().iter().product();
        let mut shape = Vec::with_capacity(dims.len());
        for dim in dims {
            shape.push(match *dim {
                Dim::Keep(axis) => self.axis(axis)?,
                Dim::Div(axis, by) => {
                    let size = self.axis(axis)?;
                    let needs = || format!("whose axis {axis} divides by {by}");
                    self.require(by > 0 && size % by == 0, needs, "it is reshaped into that many parts")?;
                    size / by
                }
                Dim::Fixed(size) => size,
                Dim::Infer => 1,
            });
        }
        let known = shape.iter().fold(1_usize, |known, size| known.saturating_mul(*size));
        let inferred: Vec<usize> = (0..dims.len()).filter(|i| dims[*i] == Dim::Infer).collect();
        let fits = match inferred.len() {
            0 => known == total,
            1 => known > 0 && total.is_multiple_of(known),
            _ => false,
        };
        self.require(fits, || format!("that fills {dims:?}"), "the number of elements must stay the same")?;
        for axis in inferred {
            shape[axis] = total / known;
        }
        Ok(shape)
    }

    /// # Errors
    /// When the node reads fewer or more values than its operation takes.
    fn count_inputs(&self) -> Result<(), GraphError> {
        let (least, most) = match self.node.op {
            Op::Parameter { .. } => (0, 0),
            Op::Add
            | Op::Mul
            | Op::MatMul
            | Op::ExpandBatch
            | Op::Resize(Resize { to: ResizeTo::Like, .. }) => (2, 2),
            Op::Concat { .. } => (1, usize::MAX),
            _ => (1, 1),
        };
        match self.inputs.len() {
            count if (least..=most).contains(&count) => Ok(()),
            count => {
                let node = self.node.describe();
                let text = format!("{node} takes {least} as its number of inputs, not {count}");
                Err(GraphError::Malformed(text))
            }
        }
    }

    fn input(&self) -> &[usize] {
        self.inputs.first().copied().unwrap_or_default()
    }

    fn pair(&self) -> Result<[&[usize]; 2], GraphError> {
        match self.inputs[..] {
            [a, b] => Ok([a, b]),
            _ => Err(self.error("and a second one".into(), "it combines two tensors")),
        }
    }

    fn image(&self) -> Result<[usize; 4], GraphError> {
        let error = |_| self.error("[batch, channels, height, width]".into(), "it works on images");
        self.input().try_into().map_err(error)
    }

    fn axis(&self, axis: usize) -> Result<usize, GraphError> {
        let size = self.input().get(axis).copied();
        size.ok_or_else(|| self.error(format!("of more than {axis} axes"), "it works on that axis"))
    }

    fn require(&self, holds: bool, needs: impl Fn() -> String, reason: &str) -> Result<(), GraphError> {
        if holds { Ok(()) } else { Err(self.error(needs(), reason)) }
    }

    fn error(&self, needs: String, reason: &str) -> GraphError {
        let found: Vec<String> = self.inputs.iter().map(|shape| format!("{shape:?}")).collect();
        GraphError::Shape {
            node: self.node.describe(),
            needs,
            found: found.join(" and "),
            reason: reason.into(),
        }
    }
}

impl Pool {
    /// How many windows fit along an axis of `size` elements (ATen's `pooling_output_shape`): with `ceil_mode`, the last
    /// window may hang over the end but must begin inside the input or its left padding.
    pub fn output_size(&self, size: usize) -> usize {
        let span = (size + 2 * self.padding).saturating_sub(self.kernel);
        let stride = self.stride.max(1);
        if !self.ceil_mode {
            return span / stride + 1;
        }
        let windows = span.div_ceil(stride) + 1;
        if (windows - 1) * stride >= size + self.padding { windows - 1 } else { windows }
    }
}
