//! `engraft bench`

mod protocol;

use std::error::Error;
use std::io::{self, Write};
use std::time::Instant;

use clap::{Args, ValueEnum};
use engraft::{Graph, Network, Pretrained, SplitMix64, StateDict, Tensor, Trainer};
use engraft_cpu::{CpuEngine, CpuNetwork, CpuTrainer, Profile, default_threads, free_memory};
use engraft_engine::{Rate, Rule, Targets, Training};
use serde_json::json;

use self::protocol::{answer, passes};
use super::Outcome;
use super::train::memory_size;
use crate::machine::processor;
use crate::network::{LoadingOutput, architecture_names, thread_count};
use crate::output::{json_line, note};

/// How long passes are timed, in seconds.
const TIMED: f64 = 1.0;

/// Passes that are timed at least.
const LEAST_PASSES: usize = 5;

/// Say how fast networks are on this machine, before you choose one
#[derive(Args)]
#[command(override_usage = "engraft bench [OPTIONS] ARCH...")]
pub(crate) struct Bench {
    /// Names of architectures, as in torchvision (`resnet18`, `vgg13`, ...)
    #[arg(value_name = "ARCH", required = true, value_parser = architecture_names(), hide_possible_values = true)]
    archs: Vec<String>,

    /// Images in a batch
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,

    /// Threads; by default one a core
    #[arg(long, value_name = "N", value_parser = thread_count())]
    threads: Option<u32>,

    /// `random`, or a file of weights, which makes no difference to the time
    #[arg(long, value_name = "random|FILE", default_value = "random")]
    weights: String,

    /// Side of the square image, in pixels; by default what the network's weights expect
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=4096))]
    size: Option<u32>,

    /// Train the whole network instead: batches forward and backward, and updates
    #[arg(long)]
    train: bool,

    /// The rule of updates
    #[arg(long, value_enum, default_value = "adam", requires = "train")]
    optimizer: Optimizer,

    /// Whether batch norms take the statistics of each batch
    #[arg(long, value_enum, default_value = "live", requires = "train")]
    norm: Norm,

    /// How much memory the training may take, as in `4GB`; what does not fit is computed in parts, or twice. By default four fifths of
    /// what is free
    #[arg(long, value_name = "SIZE", value_parser = memory_size, requires = "train")]
    memory: Option<u64>,

    /// Print what each step of the pass is, and how long it takes
    #[arg(long, conflicts_with = "json")]
    profile: bool,

    /// Print one JSON object a network (docs/json.md)
    #[arg(long)]
    json: bool,

    /// Time passes on request, as bench/compare.py wants it
    #[arg(long, hide = true, conflicts_with_all = ["json", "profile"])]
    serve: bool,
}

/// The rule of updates.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Optimizer {
    /// Stochastic gradient descent with a momentum of 0.9
    Sgd,
    /// Adam
    Adam,
}

/// What batch norms normalise by.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Norm {
    /// The statistics of each batch
    Live,
    /// Their running statistics
    Frozen,
}

/// What was measured of a network.
struct Measured {
    /// The median of all passes, of a batch.
    seconds: f64,
    /// Floating-point operations of a batch, a multiply-add being two.
    operations: f64,
    memory_bytes: usize,
}

/// A training, one step after the other.
struct Steps {
    trainer: CpuTrainer,
    targets: Targets,
    done: u64,
}

impl Steps {
    /// A batch forward and backward, and an update.
    fn step(&mut self, input: &Tensor) -> Outcome {
        self.done += 1;
        self.trainer.accumulate(input, &self.targets, 1.0, self.done)?;
        self.trainer.update(&[Rate { learning_rate: 1e-4, weight_decay: 0.0 }], None, None)?;
        Ok(())
    }
}

impl Bench {
    pub(crate) fn run(self) -> Outcome {
        let threads = self.threads.map_or_else(default_threads, |threads| threads as usize);
        let engine = match self.memory.or_else(free_memory) {
            Some(bytes) => CpuEngine::new(threads).with_memory(bytes),
            None => CpuEngine::new(threads),
        };
        if self.serve {
            return self.archs.iter().try_for_each(|arch| self.serve(arch, &engine));
        }
        let peak = engine.peak_flops();
        if !self.json {
            let mut stdout = io::stdout().lock();
            writeln!(
                stdout,
                "{}, {}, {} threads, peak {:.0} GFLOP/s, batch {}",
                processor(),
                engine.instruction_set(),
                engine.threads(),
                peak / 1e9,
                self.batch
            )?;
            let columns = ["network", "images/s", "ms a batch", "GFLOP/s", "of peak", "memory"];
            let [network, rest @ ..] = columns;
            writeln!(stdout, "{network:<22}{}", rest.map(|column| format!("{column:>12}")).concat())?;
        }
        for arch in &self.archs {
            let (graph, state) = self.load(arch)?;
            if self.train {
                let input = self.input(&graph);
                let (measured, profile) = self.training(&engine, &graph, state, &input)?;
                self.print(arch, &engine, &measured, peak)?;
                if let Some(profile) = profile {
                    writeln!(io::stdout().lock(), "{profile}")?;
                }
                continue;
            }
            let mut network = engine.compile(&graph, state)?;
            let input = self.input(&graph);
            let measured = measure(&graph, &mut network, &input)?;
            self.print(arch, &engine, &measured, peak)?;
            if self.profile {
                let profile: Profile = network.profile(&input)?;
                writeln!(io::stdout().lock(), "{profile}")?;
            }
        }
        Ok(())
    }

    /// Says what the first pass cost, then times passes on request: steps of a training, if these are asked for.
    fn serve(&self, arch: &str, engine: &CpuEngine) -> Outcome {
        let (graph, state) = self.load(arch)?;
        let input = self.input(&graph);
        let passes = if self.train { 3.0 } else { 1.0 };
        let operations = passes * operations(&graph, &input)?;
        let start = Instant::now();
        let mut pass: Box<dyn FnMut() -> Outcome> = if self.train {
            let mut steps = self.steps(engine, &graph, state)?;
            Box::new(move || steps.step(&input))
        } else {
            let mut network = engine.compile(&graph, state)?;
            Box::new(move || Ok(network.forward(&input).map(drop)?))
        };
        let load_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        pass()?;
        json_line(&json!({
            "versions": { "engraft": env!("CARGO_PKG_VERSION") },
            "instruction_set": engine.instruction_set(),
            "gflop": operations / 1e9,
            "load_seconds": load_seconds,
            "first_pass_seconds": start.elapsed().as_secs_f64(),
        }))?;
        answer(pass, || engine.peak_flops())
    }

    fn load(&self, arch: &str) -> Result<(Graph, StateDict), Box<dyn Error>> {
        let pretrained = Pretrained::new(arch, Some(&self.weights))?.with_size(self.size);
        let whole = pretrained.network()?;
        let mut output = LoadingOutput::default();
        let state = pretrained.load(&whole, None, 0, &mut |event| output.event(event))?;
        Ok((whole.without_aux(), state))
    }

    /// Times the training of everything. Operations count three times the forward pass's.
    fn training(
        &self,
        engine: &CpuEngine,
        graph: &Graph,
        state: StateDict,
        input: &Tensor,
    ) -> Result<(Measured, Option<Profile>), Box<dyn Error>> {
        let mut steps = self.steps(engine, graph, state)?;
        if let Some(text) = steps.trainer.memory(&input.shape)?.and_then(|plan| plan.note()) {
            note(&text);
        }
        let seconds = median(|| steps.step(input))?;
        let profile = if self.profile { Some(steps.trainer.profile(input, &steps.targets)?) } else { None };
        let operations = 3.0 * operations(graph, input)?;
        Ok((Measured { seconds, operations, memory_bytes: steps.trainer.memory_bytes() }, profile))
    }

    /// A training of everything, with labels that mean nothing.
    fn steps(&self, engine: &CpuEngine, graph: &Graph, state: StateDict) -> Result<Steps, Box<dyn Error>> {
        let rule = match self.optimizer {
            Optimizer::Sgd => Rule::Sgd { momentum: 0.9, nesterov: false },
            Optimizer::Adam => Rule::ADAM,
        };
        let live = self.norm == Norm::Live;
        let training = Training { group: &|_| Some(0), live_norms: &|_| live, rule };
        let trainer = engine.train(graph, state, &training)?;
        let classes = graph.output_shape()?.first().copied().unwrap_or(1);
        let labels: Vec<usize> = (0..self.batch as usize).map(|example| example % classes).collect();
        Ok(Steps { trainer, targets: Targets::labels(&labels), done: 0 })
    }

    /// A batch of noise.
    fn input(&self, graph: &Graph) -> Tensor {
        let shape = [&[self.batch as usize], graph.input()].concat();
        let mut random = SplitMix64::new(0);
        let values = (0..shape.iter().product()).map(|_| (2.0 * random.uniform() - 1.0) as f32).collect();
        Tensor::f32(shape, values)
    }

    fn print(&self, arch: &str, engine: &CpuEngine, measured: &Measured, peak: f64) -> io::Result<()> {
        let Measured { seconds, operations, memory_bytes } = *measured;
        let rate = operations / seconds;
        if self.json {
            return json_line(&json!({
                "arch": arch,
                "machine": processor(),
                "instruction_set": engine.instruction_set(),
                "threads": engine.threads(),
                "batch": self.batch,
                "images_per_second": f64::from(self.batch) / seconds,
                "milliseconds": 1e3 * seconds,
                "gflops": rate / 1e9,
                "peak_gflops": peak / 1e9,
                "peak_fraction": rate / peak,
                "peak_memory_bytes": memory_bytes,
            }));
        }
        writeln!(
            io::stdout().lock(),
            "{arch:<22}{:>12.1}{:>12.2}{:>12.1}{:>12}{:>9.0} MB",
            f64::from(self.batch) / seconds,
            1e3 * seconds,
            rate / 1e9,
            format!("{:.0} %", 100.0 * rate / peak),
            memory_bytes as f64 / 1e6,
        )
    }
}

fn measure(graph: &Graph, network: &mut CpuNetwork, input: &Tensor) -> Result<Measured, Box<dyn Error>> {
    let seconds = median(|| {
        network.forward(input)?;
        Ok(())
    })?;
    Ok(Measured { seconds, operations: operations(graph, input)?, memory_bytes: network.memory_bytes() })
}

/// The median time of several passes, in seconds. The first ones pack the weights and allocate.
fn median(mut pass: impl FnMut() -> Outcome) -> Result<f64, Box<dyn Error>> {
    passes(&mut pass, 0.0, 2)?;
    let mut seconds = passes(&mut pass, TIMED, LEAST_PASSES)?;
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

/// Floating-point operations of a pass, a multiply-add being two.
fn operations(graph: &Graph, input: &Tensor) -> Result<f64, Box<dyn Error>> {
    let multiply_adds: u64 = graph.costs(&input.shape)?.iter().map(|cost| cost.multiply_adds).sum();
    Ok(2.0 * multiply_adds as f64)
}
