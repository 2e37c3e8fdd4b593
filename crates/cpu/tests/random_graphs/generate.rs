//! Random valid networks: chains that the engine fuses, what is almost such a chain, and whatever else the graph allows.

mod chains;
mod single;
mod tokens;

use engraft_engine::SplitMix64;
use engraft_graph::{Activation, Op, Shape};

use crate::case::{Case, Step};

/// Channels that vectors and tiles of some instruction set divide, or nearly do.
const CHANNELS: [usize; 13] = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40];

const ACTIVATIONS: [Activation; 10] = [
    Activation::ReLU,
    Activation::LeakyReLU { negative_slope: 0.01 },
    Activation::LeakyReLU { negative_slope: -0.75 },
    Activation::ReLU6,
    Activation::SiLU,
    Activation::Hardswish,
    Activation::Hardsigmoid,
    Activation::Sigmoid,
    Activation::GELU,
    Activation::Tanh,
];

/// What a network may cost, so that thousands of them take seconds.
#[derive(Clone, Copy)]
struct Limits {
    /// Values of one tensor.
    values: usize,
    /// For all inputs.
    multiply_adds: u64,
    steps: usize,
}

const SMALL: Limits = Limits { values: 60_000, multiply_adds: 12_000_000, steps: 14 };
/// Few images at a time go through the first steps of such networks.
const LARGE: Limits = Limits { values: 4_000_000, multiply_adds: 60_000_000, steps: 5 };

/// The network of a seed.
pub fn case(seed: u64) -> Case {
    let mut random = SplitMix64::new(seed);
    let (limits, input, batches) = match random.below(400) {
        0 => {
            let input = vec![random.below(40) + 1, random.below(64) + 48, random.below(64) + 48];
            (LARGE, input, vec![8, [1, 3, 8][random.below(3)]])
        }
        1 => {
            // The weights of some convolutions are too many for the larger of Winograd's tiles.
            let channels = [64, 128, 352, 512, 1024][random.below(5)];
            (LARGE, vec![channels, random.below(5) + 1, random.below(5) + 1], batches(&mut random))
        }
        _ => (SMALL, input(&mut random), batches(&mut random)),
    };
    // Some networks get images of several sizes.
    let resized = input.len() == 3 && limits.values == SMALL.values && random.below(4) == 0;
    let of_batch = |batch: usize| {
        let mut input = input.clone();
        if resized {
            input[1..].copy_from_slice(&sides(&mut random));
        }
        // What is too large is made smaller.
        while batch * input.iter().product::<usize>() > limits.values {
            let largest = input.iter_mut().skip(usize::from(resized)).max();
            *largest.unwrap_or_else(|| unreachable!("an input has axes")) /= 2;
        }
        [&[batch], &input[..]].concat()
    };
    let case = Case::new(batches.into_iter().map(of_batch).collect());
    let wanted = match random.below(8) {
        0 => random.below(3),
        1..6 => random.below(7) + 2,
        _ => random.below(limits.steps) + 1,
    };
    let shapes = case.shapes().unwrap_or_else(|| unreachable!("the input is the output"));
    let mut generator = Generator { random, case, shapes, limits, multiply_adds: 0 };
    generator.network(wanted.min(limits.steps));
    generator.case.pruned()
}

/// The shape of an input, mostly an image.
fn input(random: &mut SplitMix64) -> Vec<usize> {
    match random.below(50) {
        0 => vec![random.below(40) + 1],
        1..4 => vec![random.below(12) + 1, random.below(40) + 1],
        4 => (0..4).map(|_| random.below(7) + 1).collect(),
        _ => {
            let [height, width] = sides(random);
            vec![channels(random), height, width]
        }
    }
}

fn sides(random: &mut SplitMix64) -> [usize; 2] {
    [0, 1].map(|_| match random.below(4) {
        0 => random.below(40) + 1,
        1 => random.below(3) + 1,
        _ => random.below(14) + 1,
    })
}

/// Batches that one network gets. More than sixteen images do not go through it at once.
fn batches(random: &mut SplitMix64) -> Vec<usize> {
    match random.below(16) {
        0 => vec![random.below(9) + 1],
        1 => vec![1, random.below(8) + 1],
        2 => vec![17, 1],
        3 => vec![2, 19],
        4 => vec![3, 3],
        _ => {
            let mut batches = vec![1, 8, 3];
            random.shuffle(&mut batches);
            batches
        }
    }
}

fn channels(random: &mut SplitMix64) -> usize {
    if random.below(4) > 0 { CHANNELS[random.below(CHANNELS.len())] } else { random.below(40) + 1 }
}

struct Generator {
    random: SplitMix64,
    case: Case,
    /// By input, of each value.
    shapes: Vec<Vec<Shape>>,
    limits: Limits,
    /// Of all steps so far.
    multiply_adds: u64,
}

impl Generator {
    fn network(&mut self, wanted: usize) {
        let mut x = 0;
        for _ in 0..4 * wanted {
            if self.case.steps.len() >= wanted {
                break;
            }
            if self.chance(15) {
                x = self.random.below(self.case.steps.len() + 1);
            }
            x = self.grow(x).unwrap_or(x);
        }
        let last = self.join(x).unwrap_or(x);
        self.case.output = if self.chance(4) { self.random.below(self.case.steps.len() + 1) } else { last };
        if self.chance(6) {
            self.case.aux.push(self.random.below(self.case.steps.len() + 1));
        }
    }

    /// True with this many percent.
    fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.below(from.len())]
    }

    fn channels(&mut self) -> usize {
        channels(&mut self.random)
    }

    fn activation(&mut self) -> Op {
        let function = self.pick(&ACTIVATIONS);
        function.into()
    }

    /// The shape of a value for the first input.
    fn shape(&self, value: usize) -> &Shape {
        &self.shapes[0][value]
    }

    fn rank(&self, value: usize) -> usize {
        self.shape(value).len()
    }

    fn image(&self, value: usize) -> Option<[usize; 4]> {
        self.shape(value)[..].try_into().ok()
    }

    /// Appends a step, if the graph is valid with it for every input, and not too large.
    fn push(&mut self, op: impl Into<Op>, inputs: &[usize]) -> Option<usize> {
        let op = op.into();
        let number = self.case.steps.len() + 1;
        let name = match &op {
            Op::Parameter { .. } => String::new(),
            op if op.tensors().is_empty() => String::new(),
            _ => format!("l{number}"),
        };
        self.push_named(op, inputs, name)
    }

    fn push_named(&mut self, op: Op, inputs: &[usize], name: String) -> Option<usize> {
        self.case.steps.push(Step { op, inputs: inputs.to_vec(), name });
        let number = self.case.steps.len();
        let shapes = self.case.shapes().filter(|shapes| {
            let values = |shapes: &Vec<Shape>| shapes[number].iter().product::<usize>();
            shapes.iter().all(|shapes| (1..=self.limits.values).contains(&values(shapes)))
        });
        let multiply_adds = self.multiply_adds + self.last_multiply_adds();
        match shapes.filter(|_| multiply_adds <= self.limits.multiply_adds) {
            Some(shapes) => {
                self.shapes = shapes;
                self.multiply_adds = multiply_adds;
                Some(number)
            }
            None => {
                self.case.steps.pop();
                None
            }
        }
    }

    /// Of the last step, for all inputs.
    fn last_multiply_adds(&self) -> u64 {
        let graph = Case { output: self.case.steps.len(), ..self.case.clone() }.graph();
        let last = |input: &Shape| Some(graph.costs(input).ok()?.last()?.multiply_adds);
        self.case.inputs.iter().filter_map(last).sum()
    }

    fn parameter(&mut self, shape: Vec<usize>) -> Option<usize> {
        let name = format!("p{}", self.case.steps.len() + 1);
        self.push(Op::Parameter { name, shape }, &[])
    }

    /// One more chain, or a single operation, behind a value.
    fn grow(&mut self, x: usize) -> Option<usize> {
        if self.chance(6) {
            return self.shared(x);
        }
        if self.image(x).is_some() && self.chance(65) {
            return match self.random.below(16) {
                0..4 => self.convolution(x),
                4 => self.before_product(x),
                5 => self.squeeze_excitation(x),
                6 | 7 => self.inverted_residual(x),
                8 => self.dense_block(x),
                9 => self.convnext(x),
                10 => self.classifier(x),
                11 => self.tokens(x),
                12 => self.windows(x),
                13 => self.pool(x),
                14 => self.pyramid(x),
                _ => self.shuffle(x),
            };
        }
        if self.rank(x) == 3 && self.chance(50) {
            return self.transformer(x);
        }
        self.single(x)
    }

    /// With some chance, something between two steps of a chain.
    fn between(&mut self, x: usize) -> usize {
        let y = match self.random.below(45) {
            0 => self.push(Op::Identity, &[x]),
            1 => self.push(Op::dropout(0.3), &[x]),
            2 => self.push(Op::StochasticDepth { p: 0.2 }, &[x]),
            3 | 4 => self.permuted(x),
            // Another reader.
            5 | 6 => {
                let op = self.activation();
                self.push(op, &[x]);
                None
            }
            7 => self.sum(x),
            8 => self.product(x),
            9 => self.single(x),
            _ => None,
        };
        y.filter(|y| self.rank(*y) == self.rank(x)).unwrap_or(x)
    }

    /// Axes in another order, mostly with the batch first.
    fn permuted(&mut self, x: usize) -> Option<usize> {
        let rank = self.rank(x);
        let mut axes: Vec<usize> = (0..rank).collect();
        let first = usize::from(!self.chance(4)).min(rank);
        self.random.shuffle(&mut axes[first..]);
        self.push(Op::Permute { axes }, &[x])
    }

    fn divisor(&mut self, of: usize) -> usize {
        let divisors: Vec<usize> = (1..=of).filter(|divisor| of.is_multiple_of(*divisor)).collect();
        self.pick(&divisors)
    }

    /// A layer that is there already, called again.
    fn shared(&mut self, x: usize) -> Option<usize> {
        // Builders give each attention tensors of its own.
        let named = |step: &&Step| !step.name.is_empty() && !matches!(step.op, Op::Attention(_));
        let layers: Vec<Step> = self.case.steps.iter().filter(named).cloned().collect();
        if layers.is_empty() {
            return None;
        }
        let layer = &layers[self.random.below(layers.len())];
        let all: Vec<usize> = (0..=self.case.steps.len()).rev().collect();
        for input in [x].into_iter().chain(all) {
            if self.chance(60)
                && let Some(y) = self.push_named(layer.op.clone(), &[input], layer.name.clone())
            {
                return Some(y);
            }
        }
        None
    }

    /// A value of `x` and of some that nobody reads.
    fn join(&mut self, x: usize) -> Option<usize> {
        let mut joined = x;
        let read = |value: usize, case: &Case| case.steps.iter().any(|step| step.inputs.contains(&value));
        let unread: Vec<usize> =
            (0..=self.case.steps.len()).filter(|value| *value != x && !read(*value, &self.case)).collect();
        for other in unread {
            if self.chance(30) {
                continue;
            }
            let sum = if self.chance(50) { self.push(Op::Add, &[joined, other]) } else { None };
            joined = match sum {
                Some(sum) => sum,
                None => {
                    let [a, b] = [joined, other].map(|value| match self.rank(value) {
                        2 => Some(value),
                        1 => None,
                        _ => self.push(Op::Flatten { start: 1 }, &[value]),
                    });
                    let (Some(a), Some(b)) = (a, b) else { continue };
                    self.push(Op::Concat { axis: 1 }, &[a, b]).unwrap_or(joined)
                }
            };
        }
        Some(joined)
    }
}
