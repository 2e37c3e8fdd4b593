//! A folder to run the program in, photos and weights for it, and what it says.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use engraft_engine::{SplitMix64, initial_state};
use engraft_tensor::{StateDict, Tensor, TensorData, read_metadata};
use serde_json::Value;
use tempfile::TempDir;

/// A frozen network of one convolution, whose features tell colours apart: next to no work.
pub const TINY: &str = "--arch squeezenet1_1 --weights random --train head --cut features.3";

/// The same, and enough steps to tell the classes of [`Sandbox::flowers`] apart.
pub const LEARNS: &str = "--arch squeezenet1_1 --weights random --train head --cut features.3 \
                          --epochs 60 --learning-rate 0.05";

/// Where a program runs: its caches are here too, and no network is in reach.
pub struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    /// A sandbox with the photos of [`flowers`](Self::flowers).
    pub fn with_flowers() -> Self {
        let sandbox = Self::new();
        sandbox.flowers();
        sandbox
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with its arguments; the program runs in the sandbox.
    pub fn engraft(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_engraft"));
        command.args(arguments);
        self.set_up(&mut command);
        command
    }

    /// Folder and environment of a command.
    pub fn set_up(&self, command: &mut Command) {
        command.current_dir(self.folder.path());
        command.env("HOME", self.path("home")).env("TORCH_HOME", self.path("torch"));
        command.env("ENGRAFT_CACHE", self.path("cache")).env_remove("XDG_CACHE_HOME");
        for proxy in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(proxy, "http://127.0.0.1:1");
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy");
    }

    /// Runs the program with the arguments that a line holds, separated by spaces.
    pub fn run(&self, line: &str) -> Run {
        Run::of(&mut self.engraft(&words(line)))
    }

    /// The events of `engraft train` with these arguments.
    pub fn train(&self, line: &str) -> Vec<Value> {
        self.run(&format!("train --json {line}")).succeeded().objects()
    }

    /// `folder/class/0.ppm` and so on, in a colour a class.
    pub fn photos(&self, folder: &str, classes: &[&str], count: usize) {
        for (colour, class) in classes.iter().enumerate() {
            for i in 0..count {
                self.photo(&format!("{folder}/{class}/{i}.ppm"), colour);
            }
        }
    }

    /// A photo that depends on its name and its colour.
    pub fn photo(&self, name: &str, colour: usize) {
        const COLOURS: [[usize; 3]; 3] = [[200, 40, 40], [40, 200, 40], [40, 40, 200]];
        let (width, height) = (40, 30);
        let mut noise = SplitMix64::new(name.bytes().fold(0, |seed, byte| 31 * seed + u64::from(byte)));
        let mut bytes = format!("P6 {width} {height} 255\n").into_bytes();
        for channel in (0..width * height).flat_map(|_| COLOURS[colour]) {
            bytes.push((channel + noise.below(40)) as u8);
        }
        self.write(name, bytes);
    }

    /// `flowers/{train,valid,test}` with the classes 1, 2 and 10: 12, 6 and 3 photos.
    pub fn flowers(&self) {
        for (split, count) in [("train", 4), ("valid", 2), ("test", 1)] {
            self.photos(&format!("flowers/{split}"), &["1", "2", "10"], count);
        }
    }

    /// Writes a file, and its folder if need be.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Writes a weights file with the traces of a training: statistics and counters that are none of the initial ones.
    pub fn weights(&self, name: &str, arch: &str, seed: u64) -> StateDict {
        let specs = engraft_zoo::architecture(arch).unwrap().state();
        let mut random = SplitMix64::new(seed);
        let used = |(name, mut tensor): (String, Tensor)| {
            match &mut tensor.data {
                TensorData::I64(counter) => counter[0] = 1234,
                TensorData::F32(values) if name.ends_with("running_var") => {
                    values.iter_mut().for_each(|value| *value = 0.02 + 0.01 * random.uniform() as f32);
                }
                TensorData::F32(values) if name.ends_with("running_mean") => {
                    values.iter_mut().for_each(|value| *value = 0.02 * (random.uniform() as f32 - 0.5));
                }
                TensorData::F32(_) => {}
            }
            (name, tensor)
        };
        let state: StateDict = initial_state(&specs, seed).into_iter().map(used).collect();
        self.save(name, &state);
        state
    }

    /// Writes a state dict without metadata.
    pub fn save(&self, name: &str, state: &StateDict) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        state.write_safetensors(&self.path(name), &BTreeMap::new()).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn tensors(&self, name: &str) -> StateDict {
        StateDict::read_safetensors(&self.path(name)).unwrap()
    }

    /// The JSON under a key of the metadata of a safetensors file.
    pub fn metadata(&self, name: &str, key: &str) -> Value {
        serde_json::from_str(&read_metadata(&self.path(name)).unwrap()[key]).unwrap()
    }

    /// All files below a folder of the sandbox, sorted; none if it does not exist.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        files_below(&self.path(folder), &mut files);
        files.sort();
        files
    }

    /// Neither a checkpoint nor a temporary file is left.
    pub fn assert_nothing_written(&self) {
        for file in self.files("") {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            assert!(!name.ends_with(".part"), "left behind: {}", file.display());
            assert_ne!(name, "out.safetensors", "written in spite of the error");
        }
    }
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
}

/// What a program said and how it ended.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let run = Self { code: status.code(), stdout: text(&stdout), stderr: text(&stderr) };
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        run
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self
    }

    /// The program ended with this code, and an error that contains these words.
    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.contains("error: "), "no error: {:?}", self.stderr);
        for words in words {
            assert!(self.stderr.contains(words), "{words:?} is not in: {}", self.stderr);
        }
        self
    }

    /// Each line of the output as a JSON object; there is nothing else.
    #[track_caller]
    pub fn objects(&self) -> Vec<Value> {
        let object = |line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        let objects: Vec<Value> = self.stdout.lines().map(object).collect();
        assert!(objects.iter().all(Value::is_object));
        objects
    }
}

/// The event of this name.
#[track_caller]
pub fn event<'a>(events: &'a [Value], name: &str) -> &'a Value {
    let mut found = events.iter().filter(|event| event["event"] == name);
    let event = found.next().unwrap_or_else(|| panic!("no event {name} in {events:?}"));
    assert!(found.next().is_none(), "several events {name}");
    event
}

/// How many images there were, and how many of them were in the cache.
#[track_caller]
pub fn images_and_cached(events: &[Value]) -> (u64, u64) {
    let features = event(events, "features");
    (features["images"].as_u64().unwrap(), features["cached"].as_u64().unwrap())
}

pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// A photo of `parity/fixtures/images`.
pub fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/fixtures/images"));
    fs::read(folder.join(name)).unwrap()
}
