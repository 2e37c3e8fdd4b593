//! The arguments that choose a network, its weights and a device.

use std::error::Error;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, RangedI64ValueParser};
use engraft::{Device, LARGEST_SIDE, Loading, Model, Pretrained, images_below};
use indicatif::ProgressBar;

use crate::commands::usage;
use crate::output::{byte_bar, note};

/// Parses the name of an architecture, and suggests the nearest for another.
pub(crate) fn architecture_names() -> PossibleValuesParser {
    PossibleValuesParser::new(engraft::architectures())
}

/// A number of threads.
pub(crate) fn thread_count() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1024)
}

/// Where the computing is done.
#[derive(Args)]
pub(crate) struct DeviceArgs {
    /// Compute on a GPU (needs a build with the feature cuda, rocm, metal or vulkan)
    #[arg(long)]
    pub(crate) gpu: bool,

    /// Threads of the frozen part's pass on the CPU, which do not change the result; by default one a core
    #[arg(long, value_name = "N", value_parser = thread_count())]
    pub(crate) threads: Option<u32>,
}

impl DeviceArgs {
    pub(crate) fn device(&self) -> Device {
        match self.gpu {
            true => Device::Gpu,
            false => Device::Cpu { threads: self.threads.map(|threads| threads as usize) },
        }
    }
}

/// A pretrained network by name.
#[derive(Args, Clone)]
pub(crate) struct PretrainedArgs {
    /// Name of the architecture, as in torchvision (`resnet18`, `vgg13`, ...)
    #[arg(long, value_name = "ARCH", value_parser = architecture_names(), hide_possible_values = true)]
    pub(crate) arch: Option<String>,

    /// Weights: a .pth or .safetensors file; the name of published weights, as in IMAGENET1K_V1; or `random`. Without it
    /// torchvision's newest are taken. Published weights come from PyTorch's cache, or are downloaded
    #[arg(long, value_name = "FILE|NAME|random")]
    pub(crate) weights: Option<String>,

    /// Side of the square image that the network sees, in pixels, where it can take another than its weights expect
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=i64::from(LARGEST_SIDE)))]
    pub(crate) size: Option<u32>,

    /// Your own weights of googlenet or inception_v3 were trained with torchvision's transform_input (of published ones it is known)
    #[arg(long)]
    pub(crate) transform_input: bool,
}

impl PretrainedArgs {
    /// Decides which weights of an architecture are meant.
    pub(crate) fn choose(&self, arch: &str) -> Result<Pretrained, engraft::Error> {
        Ok(Pretrained::new(arch, self.weights.as_deref())?
            .with_size(self.size)
            .with_transform_input(self.transform_input))
    }
}

/// Shows what loading weights tells: a bar for a download, notes.
#[derive(Default)]
pub(crate) struct LoadingOutput {
    bar: Option<ProgressBar>,
}

impl LoadingOutput {
    pub(crate) fn event(&mut self, event: Loading<'_>) {
        match event {
            Loading::Download { file, so_far, total } => {
                let bar = self.bar.get_or_insert_with(|| byte_bar(file));
                bar.set_length(total.unwrap_or(so_far));
                bar.set_position(so_far);
                if total == Some(so_far) {
                    bar.finish_and_clear();
                }
            }
            Loading::Waiting(text) | Loading::Note(text) => match &self.bar {
                Some(bar) => bar.suspend(|| note(text)),
                None => note(text),
            },
        }
    }
}

/// A network that is to run on images: `CHECKPOINT IMAGE...`, or `--arch ARCH IMAGE...`.
#[derive(Args)]
pub(crate) struct NetworkArgs {
    #[command(flatten)]
    pretrained: PretrainedArgs,

    /// A checkpoint that `engraft train` wrote, unless there is --arch; then image files, or folders of them
    #[arg(required = true, value_name = "CHECKPOINT|IMAGE")]
    paths: Vec<PathBuf>,
}

impl NetworkArgs {
    /// The network and the image files. A folder stands for all images in it and below.
    pub(crate) fn resolve(&self) -> Result<(Model, Vec<PathBuf>), Box<dyn Error>> {
        let (model, given) = match (&self.pretrained.arch, self.paths.split_first()) {
            (Some(arch), _) => {
                let pretrained = self.pretrained.choose(arch)?;
                pretrained.notes().iter().for_each(|text| note(&format!("note: {text}")));
                let mut output = LoadingOutput::default();
                let model = Model::from_pretrained(&pretrained, &mut |event| output.event(event))?;
                (model, self.paths.as_slice())
            }
            (None, Some(_)) if self.pretrained.size.is_some() => {
                return Err(usage("--size needs --arch; a checkpoint has the size that it was trained with"));
            }
            (None, Some((checkpoint, images))) if self.pretrained.weights.is_none() => {
                (Model::open(checkpoint)?, images)
            }
            _ => return Err(usage("--weights needs --arch, the architecture that they belong to")),
        };
        if given.is_empty() {
            return Err(usage("which images? pass files or folders after the checkpoint"));
        }
        let mut images = Vec::new();
        for path in given {
            if path.is_dir() {
                let found = images_below(path)?;
                for ignored in &found.ignored {
                    note(&format!("ignored {}: {}", ignored.path.display(), ignored.reason));
                }
                images.extend(found.images);
            } else {
                images.push(path.clone());
            }
        }
        if images.is_empty() {
            let folders: Vec<String> = given.iter().map(|path| path.display().to_string()).collect();
            return Err(format!("there are no images in {}", folders.join(", ")).into());
        }
        Ok((model, images))
    }
}
