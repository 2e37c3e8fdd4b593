//! Whether the CPU engine computes what Burn computes, whatever the threads and the instruction set.

use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use engraft_burn::BurnEngine;
use engraft_cpu::CpuEngine;
use engraft_engine::suite::fixture::relative_difference;
use engraft_engine::suite::formula;
use engraft_engine::{Engine, SplitMix64};
use engraft_graph::{Op, Shape};
use engraft_kernels::Level;
use engraft_tensor::{StateDict, Tensor};

use crate::case::{Case, Step};

/// After this time a case hangs. The slowest takes a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Differences up to this, relative to the largest value of an output, are rounding.
const TOLERANCE: f32 = 1e-4;

/// By so much values are changed after each step, to see what becomes of rounding errors.
const NOISE: f32 = 1e-6;

/// How many times what becomes of such changes a difference may be.
const NOISE_MARGIN: f32 = 30.0;

/// Values are compared as if the largest was at least this.
const SMALLEST_SCALE: f32 = 1e-3;

/// What became of a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Agrees,
    /// There is nothing to compare with: Burn panics or fails, though the graph is valid.
    BurnFails(String),
    /// The network's values are infinite, or differ so much after small changes that no comparison tells anything.
    Unstable,
    Fails(Failure),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub kind: Kind,
    pub text: String,
}

/// Kinds of failures; one that is shrunk stays what it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    WrongShape,
    WrongValues,
    /// Other bits on one thread than on three.
    Threads,
    Error,
    /// Where.
    Panic(String),
    Hang,
}

/// Judges cases in a thread that is given up when it hangs.
pub struct Judge {
    cases: Sender<Case>,
    verdicts: Receiver<Verdict>,
}

/// What the first thread that panicked during a case said, and where.
static PANIC: Mutex<Option<[String; 2]>> = Mutex::new(None);

static REMEMBER: Once = Once::new();

/// One case at a time, so that a panic is that case's.
static BUSY: Mutex<()> = Mutex::new(());

/// The name of the threads that judge.
const THREAD: &str = "judge";

impl Judge {
    pub fn new() -> Judge {
        REMEMBER.call_once(remember_panics);
        let (cases, received) = channel::<Case>();
        let (send, verdicts) = channel();
        let work = move || {
            let mut engines = Engines::new();
            for case in received {
                let verdict = engines.verdict(&case);
                if matches!(verdict, Verdict::Fails(_)) {
                    engines = Engines::new();
                }
                if send.send(verdict).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name(THREAD.into()).spawn(work).unwrap();
        Judge { cases, verdicts }
    }

    pub fn verdict(&mut self, case: &Case) -> Verdict {
        let _one_at_a_time = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
        self.cases.send(case.clone()).unwrap();
        match self.verdicts.recv_timeout(PATIENCE) {
            Ok(verdict) => verdict,
            Err(RecvTimeoutError::Timeout) => {
                *self = Judge::new();
                let text = format!("no result after {PATIENCE:?}");
                Verdict::Fails(Failure { kind: Kind::Hang, text })
            }
            Err(RecvTimeoutError::Disconnected) => unreachable!("the thread catches all panics"),
        }
    }
}

/// Remembers panics of judges and of engines instead of printing them.
fn remember_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let thread = thread::current();
        let name = thread.name().unwrap_or_default();
        if name != THREAD && !name.starts_with("engraft-") {
            return print(info);
        }
        let mut first = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            *first = Some([place, info.payload_as_str().unwrap_or_default().to_string()]);
        }
    }));
}

/// Runs something that may panic; the error tells where and what.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, [String; 2]> {
    let panicked = || PANIC.lock().unwrap_or_else(PoisonError::into_inner);
    *panicked() = None;
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|_| panicked().take().unwrap_or_default())
}

struct Engines {
    burn: BurnEngine,
    one: CpuEngine,
    three: CpuEngine,
    /// With the other instruction sets of the machine.
    others: Vec<CpuEngine>,
}

impl Engines {
    fn new() -> Engines {
        let others = Level::all().into_iter().filter(|level| *level != Level::detect());
        Engines {
            burn: BurnEngine::cpu(),
            one: CpuEngine::new(1),
            three: CpuEngine::new(3),
            others: others.map(|level| CpuEngine::with_level(level, 2)).collect(),
        }
    }

    fn verdict(&self, case: &Case) -> Verdict {
        let state = formula::state(&case.graph(), formula::NORM);
        let expected = match caught(|| outputs(&self.burn, case, &state)) {
            Ok(Ok(outputs)) => outputs,
            Ok(Err(error)) => return Verdict::BurnFails(error),
            Err([place, message]) => return Verdict::BurnFails(format!("{place}: {message}")),
        };
        let finite = |output: &Tensor| {
            output.as_f32().is_some_and(|values| values.iter().all(|value| value.is_finite()))
        };
        if !expected.iter().all(finite) {
            return Verdict::Unstable;
        }
        let fails = |kind, text| Verdict::Fails(Failure { kind, text });
        // One of the other instruction sets is enough; which one, the network decides.
        let other = self.others.get(case.steps.len() % self.others.len().max(1));
        let mut of_three = Vec::new();
        for (number, engine) in [&self.three, &self.one].into_iter().chain(other).enumerate() {
            let name = format!("{}, {} threads", engine.instruction_set(), engine.threads());
            let found = match caught(|| outputs(engine, case, &state)) {
                Ok(Ok(outputs)) => outputs,
                Ok(Err(error)) => return fails(Kind::Error, format!("{name}: {error}")),
                Err([place, message]) => {
                    return fails(
                        Kind::Panic(place.clone()),
                        format!("{name}: panicked at {place}: {message}"),
                    );
                }
            };
            match number {
                0 => of_three.clone_from(&found),
                1 if bits(&found) != bits(&of_three) => {
                    return fails(Kind::Threads, "one thread and three compute different bits".into());
                }
                1 => continue,
                _ => {}
            }
            for ((found, expected), input) in found.iter().zip(&expected).zip(&case.inputs) {
                if found.shape != expected.shape {
                    let text =
                        format!("{name}, input {input:?}: {:?}, not {:?}", found.shape, expected.shape);
                    return fails(Kind::WrongShape, text);
                }
                let difference = difference(found, expected);
                if difference <= TOLERANCE {
                    continue;
                }
                let Some(noise) = self.noise(case, input, expected) else { return Verdict::Unstable };
                if difference.is_nan() || difference > TOLERANCE + NOISE_MARGIN * noise {
                    let text = format!("{name}, input {input:?}: off by {difference:e} of the largest value");
                    return fails(Kind::WrongValues, text);
                }
            }
        }
        Verdict::Agrees
    }

    /// How much the output for an input changes when each value within the network changes by [`NOISE`]; none if it then is not even
    /// finite.
    fn noise(&self, case: &Case, input: &Shape, output: &Tensor) -> Option<f32> {
        let noisy = with_noise(case, input)?;
        let mut state = formula::state(&noisy.graph(), formula::NORM);
        let mut random = SplitMix64::new(1);
        let is_noise =
            |step: &&Step| matches!(&step.op, Op::Parameter { name, .. } if name.starts_with("noise"));
        for step in noisy.steps.iter().filter(is_noise) {
            let Op::Parameter { name, shape } = &step.op else { continue };
            let mut value = || if random.below(2) == 0 { 1.0 + NOISE } else { 1.0 - NOISE };
            let values = (0..shape.iter().product()).map(|_| value()).collect();
            state.insert(name.clone(), Tensor::f32(shape.clone(), values));
        }
        let changed = caught(|| outputs(&self.burn, &noisy, &state)).ok()?.ok()?;
        let noise = difference(&changed[0], output);
        (!noise.is_nan()).then_some(noise)
    }
}

/// The same network for one input, in which each value is multiplied by a parameter.
fn with_noise(case: &Case, input: &Shape) -> Option<Case> {
    let one = Case { inputs: vec![input.clone()], aux: Vec::new(), ..case.clone() };
    let shapes = one.shapes()?.swap_remove(0);
    let mut noisy = Case { steps: Vec::new(), ..one.clone() };
    let mut number = Vec::new();
    for (value, shape) in shapes.iter().enumerate() {
        let plain = match value.checked_sub(1).map(|step| &one.steps[step]) {
            None => 0,
            Some(step) => {
                let inputs = step.inputs.iter().map(|input| number[*input]).collect();
                noisy.steps.push(Step { inputs, ..step.clone() });
                noisy.steps.len()
            }
        };
        let name = format!("noise{value}");
        let op = Op::Parameter { name, shape: shape.clone() };
        noisy.steps.push(Step { op, inputs: Vec::new(), name: String::new() });
        let inputs = vec![plain, noisy.steps.len()];
        noisy.steps.push(Step { op: Op::Mul, inputs, name: String::new() });
        number.push(noisy.steps.len());
    }
    noisy.output = number[one.output];
    Some(noisy)
}

/// The outputs of one network for all inputs, one after the other.
fn outputs(engine: &impl Engine, case: &Case, state: &StateDict) -> Result<Vec<Tensor>, String> {
    let mut network = engine.network(&case.graph(), state.clone()).map_err(|error| error.to_string())?;
    let mut forward =
        |shape: &Shape| network.forward(&formula::inputs("x", shape)).map_err(|error| error.to_string());
    case.inputs.iter().map(&mut forward).collect()
}

fn difference(found: &Tensor, expected: &Tensor) -> f32 {
    let [found, expected] = [found, expected].map(|tensor| tensor.as_f32().unwrap_or_default());
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    relative_difference(found, expected) * (scale / scale.max(SMALLEST_SCALE))
}

fn bits(tensors: &[Tensor]) -> Vec<Vec<u32>> {
    let bits =
        |tensor: &Tensor| tensor.as_f32().unwrap_or_default().iter().map(|value| value.to_bits()).collect();
    tensors.iter().map(bits).collect()
}
