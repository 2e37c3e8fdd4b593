//! `engraft bench`.

mod common;

use common::Sandbox;

/// They are no part of what is measured, nor are they left over.
#[test]
fn weights_with_auxiliary_heads_are_those_of_the_network() {
    let sandbox = Sandbox::new();
    sandbox.weights("googlenet.safetensors", "googlenet", 1);
    let run = sandbox.run("bench googlenet --weights googlenet.safetensors --size 64 --batch 1 --json");
    let objects = run.succeeded().objects();
    assert_eq!((objects.len(), objects[0]["arch"].as_str()), (1, Some("googlenet")));
}
