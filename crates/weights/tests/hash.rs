//! The hash of a state dict that was read from files of two formats.

mod support;

use engraft_tensor::{StateDict, Tensor};
use engraft_weights::read_state_dict;
use support::file;

#[test]
fn the_hash_depends_on_every_name_shape_and_value_and_not_on_order() {
    let dict = read_state_dict(&file("zip.pth")).unwrap();
    let by_name = read_state_dict(&file("f32.safetensors")).unwrap();
    assert_eq!(dict.hash(), by_name.hash());

    let edits: [fn(&mut StateDict); 5] = [
        |dict| dict.get_mut("bn.weight").unwrap().shape = vec![3, 1],
        |dict| *dict.get_mut("bn.weight").unwrap() = Tensor::f32([3], vec![1.0, 1.0, 1.0 + f32::EPSILON]),
        |dict| *dict.get_mut("bn.num_batches_tracked").unwrap() = Tensor::counter(4),
        |dict| drop(dict.remove("fc.bias")),
        |dict| {
            let bias = dict.remove("fc.bias").unwrap();
            dict.insert("fc.bias2", bias);
        },
    ];
    for (i, edit) in edits.iter().enumerate() {
        let mut edited = dict.clone();
        edit(&mut edited);
        assert_ne!(edited.hash(), dict.hash(), "edit {i}");
    }

    let is_frozen = |name: &str| !name.starts_with("fc.");
    let mut trained = dict.clone();
    trained.remove("fc.weight");
    assert_eq!(trained.hash_of(is_frozen), dict.hash_of(is_frozen));
    trained.remove("stem.bias");
    assert_ne!(trained.hash_of(is_frozen), dict.hash_of(is_frozen));
}
