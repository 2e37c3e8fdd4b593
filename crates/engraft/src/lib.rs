//! Put your own classifier on a pretrained torchvision network, train it on a folder of photos, and use it.
//!
//! A network is a graph here, and its head a place in it, so that replacing the head is one operation for all of torchvision's
//! networks. What is frozen is computed once a photo and kept.
//!
//! # Train, and use what was trained
//!
//! A [`Config`] says what to train, on what and how; [`train`] makes a run of it, which is a folder with all that is needed to go on;
//! what comes of it is a checkpoint, one file that [`Model::open`] takes.
//!
//! ```
//! use engraft::{Config, Device, Model, Settings};
//! # let folder = tempfile::tempdir()?;
//! # let photos = folder.path().join("photos");
//! # for (class, colour) in [("ants", [200_u8, 40, 40]), ("bees", [40, 200, 40])] {
//! #     std::fs::create_dir_all(photos.join(class))?;
//! #     for i in 0..8 {
//! #         let mut ppm = b"P6 40 30 255\n".to_vec();
//! #         ppm.extend((0..1200).flat_map(|n| colour.map(|value| value + (n * (i + 3) % 40) as u8)));
//! #         std::fs::write(photos.join(class).join(format!("{i}.ppm")), ppm)?;
//! #     }
//! # }
//! # let weights = Some("random".to_string());
//! # let train = Some(engraft::Policy::HEAD);
//! # let cut = Some("features.3".to_string());
//!
//! // Without `weights` torchvision's newest are downloaded.
//! let config = Config { weights, train, cut, ..Config::new(&photos, "squeezenet1_1") };
//! let settings = Settings { out: Some(folder.path().join("ants-or-bees.safetensors")), ..Settings::default() };
//! # let settings = Settings { cache: None, ..settings };
//! let run = folder.path().join("run");
//! let trained = engraft::train(&config, Some(&run), &settings, &mut |_event| {})?;
//!
//! let mut predictor = Model::open(trained.out.unwrap())?.predictor(Device::default())?;
//! let classes = predictor.classes().to_vec();
//! for prediction in predictor.predict(vec![photos.join("ants/0.ppm")]) {
//!     let prediction = prediction?;
//!     let (class, probability) = prediction.guesses?[0];
//!     println!("{}: {} ({:.0} %)", prediction.path.display(), classes[class], 100.0 * probability);
//! #   assert_eq!(classes[class], "ants");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What is trained is a [`Policy`]: the head alone, or more of the network, at once or after the head. What is not trained is computed once a photo.
//!
//! ```
//! use engraft::Config;
//!
//! let config = Config { train: Some("head+last:1".parse()?), ..Config::new("photos", "resnet50") };
//! assert!(config.to_toml().contains(r#"train = "head+last:1""#));
//! # Ok::<(), engraft::GraphError>(())
//! ```
//!
//! # Go on with a run
//!
//! A run that was stopped or killed goes on to the same bits as if it had not been. One that is done stays as it is.
//!
//! ```no_run
//! # use engraft::{Settings, resume};
//! # use std::path::Path;
//! let trained = resume(Path::new("runs/photos-resnet18"), &|config| config, &Settings::default(), &mut |_event| {})?;
//! # Ok::<(), engraft::Error>(())
//! ```
//!
//! # The network itself
//!
//! [`Pretrained`] finds weights and says what belongs to them; a [`Graph`] can be printed, cut and grafted; an [`Engine`] runs it.
//!
//! ```
//! use engraft::{Device, HeadSpec, Pretrained, Tensor};
//!
//! let pretrained = Pretrained::new("squeezenet1_1", Some("random"))?;
//! let network = pretrained.network()?;
//! let head = HeadSpec { hidden_units: vec![64], classes: 2, dropout: 0.2 };
//! let graft = network.graft(&head, None)?;
//! assert_eq!(graft.report.to_string(), "classifier: Conv2d 512->1000 replaced by 512->64->2, dropout 0.2, after global average pooling");
//!
//! let state = pretrained.load(&network, None, 0, &mut |_event| {})?;
//! let mut network = Device::default().engine()?.network(&network, state)?;
//! let logits = network.forward(&Tensor::f32([1, 3, 224, 224], vec![0.0; 3 * 224 * 224]))?;
//! assert_eq!(logits.shape, [1, 1000]);
//! # Ok::<(), engraft::Error>(())
//! ```
//!
//! # What a part of it makes of photos
//!
//! ```no_run
//! # use engraft::{Device, Model};
//! let mut extractor = Model::open("photos-resnet18.safetensors")?.extractor(Some("layer3"), Device::default())?;
//! for output in extractor.features(vec!["new.jpg".into()]) {
//!     println!("{:?}", output?.values);
//! }
//! # Ok::<(), engraft::Error>(())
//! ```

mod config;
mod device;
mod error;
mod model;
mod pretrained;
mod training;

pub use config::{Aux, BatchSize, Config, Norm};
pub use device::Device;
pub use engraft_data::{Dataset, LabelMap, Note, Notes, Transform, images_below};
pub use engraft_engine::{Engine, EngineError, Network, SplitMix64, Trainer};
pub use engraft_graph::{Graft, Graph, GraphError, HeadSpec, Op, Part, Policy};
pub use engraft_tensor::{StateDict, Tensor, WriteError, check_writable};
pub use engraft_train::{
    About, CacheSettings, Checkpoint, ClassCount, Epoch, Evaluation, Event, LARGEST_SIDE, Replacement,
    RunEnd, Schedule, SolutionSummary, Solver, TrainError, WrongPhoto, default_cache_size, disk_usage,
    features_folder, index_folder,
};
pub use engraft_weights::{WeightsError, cache_dir};
pub use engraft_zoo::architectures;
pub use error::Error;
pub use model::{Extractor, Model, Output, Prediction, Predictor};
pub use pretrained::{Loading, Pretrained};
pub use training::{Settings, Start, Trained, TrainingEvent, resume, train};
