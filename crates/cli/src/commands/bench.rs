//! `engraft bench`

mod protocol;

use std::error::Error;
use std::io::{self, Write};
use std::time::Instant;

use clap::Args;
use engraft::{Graph, Network, Pretrained, SplitMix64, StateDict, Tensor};
use engraft_cpu::{CpuEngine, CpuNetwork, Profile, default_threads};
use serde_json::json;

use self::protocol::{answer, passes};
use super::Outcome;
use crate::machine::processor;
use crate::network::{LoadingOutput, architecture_names, thread_count};
use crate::output::json_line;

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

/// What was measured of a network.
struct Measured {
    /// The median of all passes, of a batch.
    seconds: f64,
    /// Floating-point operations of a batch, a multiply-add being two.
    operations: f64,
    memory_bytes: usize,
}

impl Bench {
    pub(crate) fn run(self) -> Outcome {
        let threads = self.threads.map_or_else(default_threads, |threads| threads as usize);
        let engine = CpuEngine::new(threads);
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

    /// Says what the first pass cost, then times passes on request.
    fn serve(&self, arch: &str, engine: &CpuEngine) -> Outcome {
        let (graph, state) = self.load(arch)?;
        let input = self.input(&graph);
        let operations = operations(&graph, &input)?;
        let start = Instant::now();
        let mut network = engine.compile(&graph, state)?;
        let load_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        network.forward(&input)?;
        json_line(&json!({
            "versions": { "engraft": env!("CARGO_PKG_VERSION") },
            "instruction_set": engine.instruction_set(),
            "gflop": operations / 1e9,
            "load_seconds": load_seconds,
            "first_pass_seconds": start.elapsed().as_secs_f64(),
        }))?;
        let pass = || {
            network.forward(&input)?;
            Ok(())
        };
        answer(pass, || engine.peak_flops())
    }

    fn load(&self, arch: &str) -> Result<(Graph, StateDict), Box<dyn Error>> {
        let pretrained = Pretrained::new(arch, Some(&self.weights))?.with_size(self.size);
        let whole = pretrained.network()?;
        let mut output = LoadingOutput::default();
        let state = pretrained.load(&whole, None, 0, &mut |event| output.event(event))?;
        Ok((whole.without_aux(), state))
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
    let mut pass = || {
        network.forward(input)?;
        Ok(())
    };
    // The first pass packs the weights and allocates.
    passes(&mut pass, 0.0, 2)?;
    let mut seconds = passes(&mut pass, TIMED, LEAST_PASSES)?;
    seconds.sort_by(f64::total_cmp);
    Ok(Measured {
        seconds: seconds[seconds.len() / 2],
        operations: operations(graph, input)?,
        memory_bytes: network.memory_bytes(),
    })
}

/// Floating-point operations of a pass, a multiply-add being two.
fn operations(graph: &Graph, input: &Tensor) -> Result<f64, Box<dyn Error>> {
    let multiply_adds: u64 = graph.costs(&input.shape)?.iter().map(|cost| cost.multiply_adds).sum();
    Ok(2.0 * multiply_adds as f64)
}
