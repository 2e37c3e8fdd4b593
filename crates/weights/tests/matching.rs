//! Files and networks that fit, fit under other names, or do not fit.

mod support;

use std::path::Path;

use engraft_graph::{TensorKind, TensorSpec};
use engraft_tensor::{StateDict, Tensor, TensorData};
use engraft_weights::{Matched, looks_like, match_state, read_state_dict};
use support::{assert_holds, expected, file, numbered, specs, torchvision};

fn replaced(path: &str) -> [String; 1] {
    [path.to_string()]
}

fn fit(dict: StateDict, specs: &[TensorSpec], replaced: &[String]) -> Result<Matched, String> {
    let known = ["resnet18", "resnet34", "mobilenet_v2", "densenet121", "vgg11", "vgg13", "squeezenet1_1"];
    let architectures = known.into_iter().map(|name| (name, torchvision(name)));
    match_state(dict, specs, replaced, Path::new("weights.pth"), architectures)
        .map_err(|error| error.to_string())
}

/// The values of `numbered` tell which tensor came to a name.
fn number(tensor: &Tensor) -> i64 {
    match &tensor.data {
        TensorData::F32(values) => values[0] as i64,
        TensorData::I64(values) => values[0],
    }
}

fn assert_in_place(matched: &Matched, specs: &[TensorSpec], head: &str) {
    let wanted: Vec<_> =
        specs.iter().enumerate().filter(|(_, spec)| !spec.name.starts_with(&format!("{head}."))).collect();
    assert_eq!(matched.tensors.len(), wanted.len());
    for ((name, tensor), (i, spec)) in matched.tensors.iter().zip(wanted) {
        assert_eq!((name, &tensor.shape, number(tensor)), (spec.name.as_str(), &spec.shape, i as i64));
    }
}

fn rename(dict: StateDict, new: impl Fn(&str) -> String) -> StateDict {
    dict.into_iter().map(|(name, tensor)| (new(&name), tensor)).collect()
}

#[test]
fn the_same_names_in_any_order_fit() {
    let specs = torchvision("resnet18");
    let mut tensors: Vec<_> = numbered(&specs).into_iter().collect();
    tensors.reverse();
    let matched = fit(tensors.into_iter().collect(), &specs, &[]).unwrap();
    assert_in_place(&matched, &specs, "none");
    assert_eq!(matched.note, None);
}

#[test]
fn a_published_backbone_of_other_names_fits_by_order() {
    let mut theirs = specs(&expected()["mobilenetv2_bottleneck"]);
    let specs = torchvision("mobilenet_v2");
    let matched = fit(numbered(&theirs), &specs, &replaced("classifier")).unwrap();
    assert_in_place(&matched, &specs, "classifier");
    assert_eq!(
        matched.note.as_deref(),
        Some(
            "weights.pth: 300 of 312 tensors have other names than in the network (features.1.conv.0.weight for \
             features.1.conv.0.0.weight); they were matched by their order, in which all kinds and shapes agree"
        )
    );

    assert_eq!(
        fit(numbered(&theirs), &specs, &[]).unwrap_err(),
        "the weights file weights.pth does not fit the network: 2 tensors are missing (classifier.1.weight, classifier.1.bias)"
    );

    theirs.swap(6, 12);
    let error = fit(numbered(&theirs), &specs, &replaced("classifier")).unwrap_err();
    assert!(error.starts_with("the weights file weights.pth does not fit the network: "), "{error}");
}

/// As torchvision loads them, whatever the format.
#[test]
fn published_files_with_names_of_older_torchvisions_fit_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let safetensors = folder.path().join("weights.safetensors");
    for (old, new) in [("densenet_old_names.pth", "densenet_names"), ("vit_old_names.pth", "vit_names")] {
        let names = &expected()[new];
        let dict = read_state_dict(&file(old)).unwrap();
        assert!(dict.names().ne(specs(names).iter().map(|spec| spec.name.as_str())), "{old}");
        dict.write_safetensors(&safetensors, &Default::default()).unwrap();
        for dict in [dict, read_state_dict(&safetensors).unwrap()] {
            let mut matched = fit(dict, &specs(names), &[]).unwrap();
            assert_eq!(matched.note, None);
            let counters: Vec<String> =
                matched.tensors.names().filter(|name| is_counter(name)).map(String::from).collect();
            // torchvision's DenseNet has counters that its files lack.
            assert_eq!(counters.is_empty(), new != "densenet_names");
            for name in counters {
                assert_eq!(matched.tensors.remove(&name), Some(Tensor::counter(0)));
            }
            let list =
                names.as_array().unwrap().iter().filter(|entry| !is_counter(entry[0].as_str().unwrap()));
            assert_holds(&matched.tensors, &list.cloned().collect(), old);
        }
    }
}

fn is_counter(name: &str) -> bool {
    name.ends_with("num_batches_tracked")
}

#[test]
fn counters_that_a_file_lacks_are_zero() {
    let specs = torchvision("resnet18");
    let dict =
        numbered(&specs).into_iter().filter(|(name, _)| !name.ends_with("num_batches_tracked")).collect();
    let matched = fit(dict, &specs, &[]).unwrap();
    assert_eq!(matched.tensors.get("bn1.num_batches_tracked"), Some(&Tensor::counter(0)));
    assert_eq!(
        matched.tensors.names().collect::<Vec<_>>(),
        specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>()
    );
}

#[test]
fn counters_of_another_type_are_zero() {
    let specs = torchvision("resnet18");
    let mut dict = numbered(&specs);
    dict.insert("bn1.num_batches_tracked", Tensor::f32([], vec![3.0]));
    let matched = fit(dict, &specs, &[]).unwrap();
    assert_eq!(matched.tensors.get("bn1.num_batches_tracked"), Some(&Tensor::counter(0)));
    assert_eq!(matched.tensors.get("layer1.0.bn1.num_batches_tracked").map(number), Some(11));
}

#[test]
fn constants_that_a_file_lacks_are_left_out() {
    let specs = torchvision("swin_t");
    let is_constant = |name: &str| name.ends_with("relative_position_index");
    assert_in_place(&fit(numbered(&specs), &specs, &[]).unwrap(), &specs, "none");

    let without: StateDict = numbered(&specs).into_iter().filter(|(name, _)| !is_constant(name)).collect();
    for prefix in ["", "backbone."] {
        let dict = rename(without.clone(), |name| format!("{prefix}{name}"));
        let matched = fit(dict, &specs, &[]).unwrap();
        assert_eq!(matched.note.is_some(), !prefix.is_empty());
        let wanted = specs.iter().enumerate().filter(|(_, spec)| !is_constant(&spec.name));
        assert!(
            matched
                .tensors
                .iter()
                .map(|(name, tensor)| (name, number(tensor)))
                .eq(wanted.map(|(i, spec)| (spec.name.as_str(), i as i64)))
        );
    }

    let mut other = numbered(&specs);
    other.get_mut("features.1.0.attn.relative_position_index").unwrap().shape = vec![49, 49];
    let error = fit(other, &specs, &[]).unwrap_err();
    assert!(error.contains("1 tensor has another shape"), "{error}");
}

/// GoogLeNet's published file holds heads that torchvision drops, and a file without them is as good.
#[test]
fn auxiliary_heads_may_be_in_the_file_or_in_the_network_alone() {
    let is_auxiliary = |name: &str| name.starts_with("aux");
    let with = torchvision("googlenet");
    let without: Vec<_> = with.iter().filter(|spec| !is_auxiliary(&spec.name)).cloned().collect();
    assert_ne!(with.len(), without.len());
    let dropped = ["aux1".to_string(), "aux2".to_string()];
    for file in [&with, &without] {
        for network in [&with, &without] {
            let matched = fit(numbered(file), network, &dropped).unwrap();
            assert_eq!(matched.note, None);
            let names: Vec<_> = matched.tensors.names().collect();
            assert_eq!(names, without.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>());
        }
    }
    let error = fit(numbered(&with), &without, &[]).unwrap_err();
    assert!(error.contains("tensors are left over (aux1.conv.conv.weight"), "{error}");
    let error = fit(numbered(&without), &with, &[]).unwrap_err();
    assert!(error.contains("tensors are missing (aux1.conv.conv.weight"), "{error}");
}

#[test]
fn a_head_that_is_replaced_may_be_absent_of_other_size_or_of_other_layers() {
    let specs = torchvision("resnet18");
    let body = || -> StateDict {
        numbered(&specs).into_iter().filter(|(name, _)| !name.starts_with("fc.")).collect()
    };
    let mut fine_tuned = body();
    fine_tuned.insert("fc.weight", Tensor::f32([10, 512], vec![0.0; 5120]));
    fine_tuned.insert("fc.bias", Tensor::f32([10], vec![0.0; 10]));
    let mut sequential = body();
    sequential.insert("fc.0.weight", Tensor::f32([5, 512], vec![0.0; 2560]));
    sequential.insert("fc.3.weight", Tensor::f32([2, 5], vec![0.0; 10]));
    let last_linear = rename(numbered(&specs), |name| name.replace("fc.", "last_linear."));
    for dict in [body(), fine_tuned, sequential, last_linear] {
        let matched = fit(dict, &specs, &replaced("fc")).unwrap();
        assert_in_place(&matched, &specs, "fc");
    }
}

#[test]
fn a_head_that_is_kept_must_have_its_size() {
    let specs = torchvision("resnet18");
    let mut dict = numbered(&specs);
    dict.insert("fc.weight", Tensor::f32([10, 512], vec![0.0; 5120]));
    dict.insert("fc.bias", Tensor::f32([10], vec![0.0; 10]));
    assert_eq!(
        fit(dict, &specs, &[]).unwrap_err(),
        "the weights file weights.pth does not fit the network: 2 tensors have another shape \
         (fc.weight is [10, 512], the network needs [1000, 512], fc.bias is [10], the network needs [1000])"
    );
}

#[test]
fn a_file_of_another_network_says_which() {
    let error =
        fit(numbered(&torchvision("resnet34")), &torchvision("resnet18"), &replaced("fc")).unwrap_err();
    assert_eq!(
        error,
        "the weights file weights.pth does not fit the network: 80 tensors are left over (layer1.2.conv1.weight, \
         layer1.2.bn1.weight, layer1.2.bn1.bias, ...). It looks like a file of resnet34"
    );
    let error =
        fit(numbered(&torchvision("squeezenet1_1")), &torchvision("alexnet"), &replaced("classifier"))
            .unwrap_err();
    assert_eq!(
        error,
        "the weights file weights.pth does not fit the network: 8 tensors are missing (features.3.weight, features.3.bias, \
         features.6.weight, ...); 48 tensors are left over (features.3.squeeze.weight, features.3.squeeze.bias, \
         features.3.expand1x1.weight, ...); 1 tensor has another shape (features.0.weight is [64, 3, 3, 3], the network \
         needs [64, 3, 11, 11]). It looks like a file of squeezenet1_1"
    );
}

#[test]
fn an_architecture_is_recognised_without_its_head_and_under_other_names() {
    let names = ["resnet18", "resnet34", "mobilenet_v2", "vgg11", "vgg13", "alexnet", "densenet121"];
    let architectures = || names.into_iter().map(|name| (name, torchvision(name)));
    for name in names {
        let mut dict = numbered(&torchvision(name));
        let last = dict.len() - 1;
        let head = dict.names().nth(last).unwrap().to_string();
        dict.remove(&head);
        dict.insert(head, Tensor::f32([7], vec![0.0; 7]));
        assert_eq!(looks_like(&dict, architectures()), Some(name));
    }
    let theirs = numbered(&specs(&expected()["mobilenetv2_bottleneck"]));
    assert_eq!(looks_like(&theirs, architectures()), Some("mobilenet_v2"));
    assert_eq!(looks_like(&numbered(&torchvision("resnet50")), architectures()), None);
    assert_eq!(looks_like(&StateDict::new(), architectures()), None);
}

fn spec(name: &str, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.to_string(), shape: shape.to_vec(), kind: TensorKind::Parameter }
}

#[test]
fn order_decides_only_where_nothing_contradicts_it() {
    let network = [spec("a.weight", &[2, 2]), spec("b.weight", &[2, 2]), spec("c.bias", &[2])];
    let named = |names: [&str; 3]| -> StateDict {
        names
            .into_iter()
            .zip(numbered(&network))
            .map(|(name, (_, tensor))| (name.to_string(), tensor))
            .collect()
    };
    let fits = |names| fit(named(names), &network, &[]).is_ok();
    assert!(fits(["x.weight", "y.weight", "z.bias"]));
    assert!(fits(["a.weight", "y.weight", "z.bias"]));
    assert!(!fits(["b.weight", "y.weight", "z.bias"]), "the file's b would become the network's a");
    assert!(!fits(["x.weight", "y.bias", "z.bias"]), "kinds differ");
    assert!(!fits(["x.weight", "y.weight", "z.weight"]), "kinds differ");

    let mut more = named(["x.weight", "y.weight", "z.bias"]);
    more.insert("extra.bias", Tensor::f32([2], vec![0.0; 2]));
    assert!(fit(more, &network, &[]).is_err(), "one tensor is left over");
}

/// A safetensors file is sorted by name, `features.10` before `features.2`, so its order must not be trusted.
#[test]
fn a_format_that_keeps_no_order_is_matched_by_name_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("renamed.safetensors");
    let network: Vec<_> = (0..12).map(|i| spec(&format!("features.{i}.weight"), &[2, 2])).collect();
    let renamed = rename(numbered(&network), |name| name.replace("features", "layers"));
    assert!(fit(renamed.clone(), &network, &[]).is_ok());
    renamed.write_safetensors(&path, &Default::default()).unwrap();
    let error = fit(read_state_dict(&path).unwrap(), &network, &[]).unwrap_err();
    assert!(
        error.contains(
            "12 tensors are missing (features.0.weight, features.1.weight, features.2.weight, ...)"
        ),
        "{error}"
    );
}

#[test]
fn integers_are_no_weights() {
    let network = [spec("a.weight", &[2])];
    let dict = [("a.weight".to_string(), Tensor { shape: vec![2], data: TensorData::I64(vec![1, 2]) })]
        .into_iter()
        .collect();
    let error = fit(dict, &network, &[]).unwrap_err();
    assert!(error.contains("(a.weight is [2] of integers, the network needs [2])"), "{error}");
}
