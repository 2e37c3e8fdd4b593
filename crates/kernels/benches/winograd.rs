//! 3x3 convolutions of torchvision's networks by Winograd's method. Operations are those of the direct sum, so that a share of the
//! peak above 100 % is what no direct convolution can reach.

mod common;

use common::Bench;
use engraft_kernels::{
    Activation, Epilogue, Maps, MapsMut, MapsShape, WinogradTile, WinogradWeights, winograd,
};

fn main() {
    for threads in [1, 2] {
        let bench = Bench::new(threads);
        for batch in [1, 8] {
            println!("batch {batch}");
            for (network, size, channels) in [
                ("vgg", 224, [64, 64]),
                ("vgg", 112, [64, 128]),
                ("vgg", 112, [128, 128]),
                ("vgg", 56, [128, 256]),
                ("vgg", 56, [256, 256]),
                ("vgg", 28, [256, 512]),
                ("vgg", 28, [512, 512]),
                ("vgg", 14, [512, 512]),
                ("resnet", 56, [64, 64]),
                ("resnet", 28, [128, 128]),
                ("resnet", 14, [256, 256]),
                ("resnet", 7, [512, 512]),
                ("densenet", 56, [128, 32]),
                ("densenet", 28, [128, 32]),
                ("densenet", 14, [128, 32]),
                ("densenet", 7, [128, 32]),
                ("squeezenet", 55, [16, 64]),
                ("squeezenet", 27, [48, 192]),
                ("squeezenet", 13, [64, 256]),
                ("inception", 35, [64, 96]),
                ("inception", 35, [96, 96]),
                ("inception", 8, [448, 384]),
            ] {
                time(&bench, network, [batch, size, size, channels[0]], channels[1]);
            }
        }
    }
}

fn time(bench: &Bench, network: &str, [batch, height, width, channels]: [usize; 4], out_channels: usize) {
    let shape = MapsShape { batch, height, width, channels };
    let output_shape = MapsShape { channels: out_channels, ..shape };
    let input: Vec<f32> = (0..shape.pixels() * channels).map(|i| (i as f32 * 0.37).sin()).collect();
    let weight: Vec<f32> = (0..out_channels * channels * 9).map(|i| (i as f32 * 0.73).sin()).collect();
    let bias = vec![0.1; out_channels];
    let mut output = vec![0.0; shape.pixels() * out_channels];
    let operations = 2 * 9 * channels * output.len();
    for tile in [WinogradTile::F2, WinogradTile::F4] {
        let weights = WinogradWeights::new(bench.level, tile, &weight, out_channels, channels);
        let name = format!("{network} {height}x{width} {channels} -> {out_channels}, {tile:?}");
        bench.time(&name, operations, |pool| {
            let epilogue = Epilogue { bias: Some(&bias), residual: None, activation: Activation::ReLU };
            let output = MapsMut::new(&mut output, output_shape);
            winograd(pool, Maps::new(&input, shape), &weights, [1, 1], epilogue, output);
        });
    }
}
