//! The doors of the gradients' kernels, as `doors.rs` has those of the others.

use super::{Apart, Door, Length, Number, Other, Padding, cut, maps, shape, values};
use engraft_kernels::{
    Activation, AttentionGradients, AttentionShape, BatchNorm, ConvGeometry, ConvGradientWeights,
    DepthwiseWeights, GradientEpilogue, Level, Maps, MapsMut, Matrix, PackedMatrix, Pool, PoolGeometry,
    Prologue, Scores, Similarity, TokenRows, Windows, activation_backward, adaptive_avg_pool_backward,
    add_rows, attention_backward, avg_pool_backward, batch_norm_backward, batch_statistics, column_products,
    column_sums, conv_input_gradient, conv_weight_gradient, cross_entropy, depthwise_input_gradient,
    depthwise_weight_gradient, layer_norm_backward, max_pool_backward, normalise, product_input_gradient,
    product_weight_gradient, scale_images, softmax_backward, winograd_weight_gradient,
};

fn epilogue(z: &[f32], stride: usize) -> GradientEpilogue<'_> {
    GradientEpilogue { accumulate: true, activation: Some((Activation::SiLU, Matrix { values: z, stride })) }
}

fn call_products(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([m, dy, dy_stride, x, x_stride, dw, z, dx, dx_stride], rest) = cut::<9>(numbers);
    let ([scale, shift, rows], _) = cut::<3>(rest);
    let (x, dy, z, scale, shift, rows) =
        (values(x), values(dy), values(z), values(scale), values(shift), values(rows));
    let (mut dx, mut dw) = (vec![0.0; dx], vec![0.0; dw]);
    let (x, dy) = (Matrix { values: &x, stride: x_stride }, Matrix { values: &dy, stride: dy_stride });
    let mut weights = PackedMatrix::zeros(level, 21, 9);
    weights.pack_rows(pool, Matrix { values: &rows, stride: 9 });
    weights.pack_transposed(pool, Matrix { values: &rows, stride: 21 });
    product_input_gradient(pool, m, dy, &weights, epilogue(&z, 9), &mut dx, dx_stride);
    let prologue = Prologue::Affine { scale: &scale, shift: &shift, activation: Activation::ReLU };
    product_weight_gradient(level, pool, m, [21, 9], x, prologue, dy, true, &mut dw);
}

fn call_rows(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([rows, columns, x, x_stride, y, y_stride, dx, dx_stride], rest) = cut::<8>(numbers);
    let ([sums, images, images_stride, rows_per_image, factors, coefficients], _) = cut::<6>(rest);
    let (x, y, factors, coefficients) = (values(x), values(y), values(factors), values(coefficients));
    let (x, y) = (Matrix { values: &x, stride: x_stride }, Matrix { values: &y, stride: y_stride });
    let (mut dx, mut sums, mut images) = (vec![0.0; dx], vec![0.0; sums], vec![0.0; images]);
    let sizes = [rows, columns];
    activation_backward(level, pool, sizes, Activation::GELU, x, Some(y), &mut dx, dx_stride);
    softmax_backward(level, pool, sizes, x, y, &mut dx, dx_stride);
    column_sums(level, pool, sizes, x, true, &mut sums);
    column_products(level, pool, sizes, x, y, rows_per_image, true, &mut images, images_stride);
    add_rows(level, pool, sizes, x, &mut dx, dx_stride);
    scale_images(level, pool, sizes, x, &factors, rows_per_image, &mut dx, dx_stride);
    cross_entropy(level, pool, sizes, y, &coefficients, Some((&mut dx, dx_stride)));
}

fn call_norms(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([rows, columns, x, x_stride, dy, dy_stride, dx, dx_stride], rest) = cut::<8>(numbers);
    let ([mean, rstd, gamma, beta, dgamma, dbeta, residual, z], _) = cut::<8>(rest);
    let (x, dy, residual, z) = (values(x), values(dy), values(residual), values(z));
    let (mut mean, mut rstd, gamma, beta) = (vec![0.0; mean], vec![1.0; rstd], values(gamma), values(beta));
    let (mut dx, mut dgamma, mut dbeta) = (vec![0.0; dx], vec![0.0; dgamma], vec![0.0; dbeta]);
    let (x, dy) = (Matrix { values: &x, stride: x_stride }, Matrix { values: &dy, stride: dy_stride });
    let sizes = [rows, columns];
    batch_statistics(level, pool, sizes, x, &mut mean, &mut rstd);
    let added = Some(Matrix { values: &residual, stride: columns });
    normalise(level, pool, sizes, x, &gamma, &beta, added, Activation::SiLU, &mut dx, dx_stride);
    let norm = BatchNorm { mean: &mean, rstd: &rstd, gamma: &gamma, beta: &beta, batch: true };
    let activation = Activation::ReLU;
    for (dy, accumulate) in [(Some(dy), true), (None, false)] {
        batch_norm_backward(
            level,
            pool,
            sizes,
            x,
            norm,
            activation,
            added,
            dy,
            true,
            &mut dgamma,
            &mut dbeta,
            Some((&mut dx, dx_stride)),
            accumulate,
        );
    }
    let epilogue = epilogue(&z, columns);
    layer_norm_backward(
        level,
        pool,
        sizes,
        x,
        &gamma,
        1e-5,
        dy,
        true,
        &mut dgamma,
        &mut dbeta,
        epilogue,
        &mut dx,
        dx_stride,
    );
}

fn call_conv(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([batch, height, width, channels, x, x_stride], rest) = cut::<6>(numbers);
    let ([weight, out_channels, in_channels, kernel, step, padding, dilation, groups], rest) = cut::<8>(rest);
    let ([out_height, out_width, dy, dy_stride, dw, z, dx, dx_stride], _) = cut::<8>(rest);
    let geometry = ConvGeometry {
        kernel: [kernel; 2],
        stride: [step; 2],
        padding: [padding; 2],
        dilation: [dilation; 2],
        groups,
    };
    // No more than memory could hold.
    if [out_channels, in_channels, kernel].iter().any(|size| *size >= 1 << 10) {
        return;
    }
    let mut weights = ConvGradientWeights::zeros(level, out_channels, in_channels, geometry);
    weights.pack(pool, &values(weight));
    let (x, dy, z, mut dx, mut dw) = (values(x), values(dy), values(z), vec![0.0; dx], vec![0.0; dw]);
    let of_input = shape([batch, height, width, channels]);
    let x = Maps { values: &x, shape: of_input, stride: x_stride };
    let out = shape([batch, out_height, out_width, out_channels]);
    let dy = Maps { values: &dy, shape: out, stride: dy_stride };
    let to = MapsMut { values: &mut dx, shape: of_input, stride: dx_stride };
    conv_input_gradient(pool, dy, &weights, epilogue(&z, channels), to);
    conv_weight_gradient(level, pool, x, dy, geometry, true, &mut dw);
    if [kernel, step, dilation, groups] == [3, 1, 1, 1] {
        winograd_weight_gradient(level, pool, x, dy, [padding; 2], true, &mut dw);
    }
}

fn call_depthwise(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([batch, height, width, channels, x, x_stride], rest) = cut::<6>(numbers);
    let ([weight, kernel, step, padding, dilation], rest) = cut::<5>(rest);
    let ([out_height, out_width, dy, dy_stride, dw, z, dx, dx_stride], _) = cut::<8>(rest);
    let geometry = ConvGeometry {
        kernel: [kernel; 2],
        stride: [step; 2],
        padding: [padding; 2],
        dilation: [dilation; 2],
        groups: channels,
    };
    let mut weights = DepthwiseWeights::new(level, &values(weight), channels, geometry);
    weights.pack(pool, &values(weight));
    let (x, dy, z, mut dx, mut dw) = (values(x), values(dy), values(z), vec![0.0; dx], vec![0.0; dw]);
    let of_input = shape([batch, height, width, channels]);
    let x = Maps { values: &x, shape: of_input, stride: x_stride };
    let dy = Maps { values: &dy, shape: shape([batch, out_height, out_width, channels]), stride: dy_stride };
    let (step, padding, dilation) = ([step; 2], [padding; 2], [dilation; 2]);
    for epilogue in [epilogue(&z, channels), GradientEpilogue::default()] {
        let to = MapsMut { values: &mut dx, shape: of_input, stride: dx_stride };
        depthwise_input_gradient(pool, dy, &weights, epilogue, to);
    }
    depthwise_weight_gradient(level, pool, x, dy, [kernel; 2], step, padding, dilation, true, &mut dw);
}

fn call_pools(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([batch, height, width, channels, x, x_stride], rest) = cut::<6>(numbers);
    let ([kernel, stride, padding, out_height, out_width, dy, dy_stride, z, dx, dx_stride], _) =
        cut::<10>(rest);
    let (x, dy, z, mut dx) = (values(x), values(dy), values(z), vec![0.0; dx]);
    let of_input = shape([batch, height, width, channels]);
    let x = Maps { values: &x, shape: of_input, stride: x_stride };
    let dy = Maps { values: &dy, shape: shape([batch, out_height, out_width, channels]), stride: dy_stride };
    let window = PoolGeometry { kernel, stride, padding };
    let epilogue = epilogue(&z, channels);
    let mut to = |run: &dyn Fn(MapsMut<'_>)| {
        run(MapsMut { values: &mut dx, shape: of_input, stride: dx_stride });
    };
    to(&|to| adaptive_avg_pool_backward(level, pool, dy, epilogue, to));
    to(&|to| max_pool_backward(level, pool, x, window, dy, epilogue, to));
    to(&|to| avg_pool_backward(level, pool, window, true, dy, epilogue, to));
}

fn call_attention(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([groups, tokens, heads, head_dim, qkv, qkv_stride], rest) = cut::<6>(numbers);
    let ([bias, mask, scales, table, padding, dy, dy_stride, dqkv, dqkv_stride], _) = cut::<9>(rest);
    let shape = AttentionShape { groups, tokens, heads, head_dim };
    let (qkv, of_bias, mask, of_padding) = (values(qkv), values(bias), values(mask), values(padding));
    let (dy, of_scales) = (values(dy), vec![0.5; scales]);
    let mut dqkv = vec![0.0; dqkv];
    // The last token of each image is not in it.
    let rows = (0..table as u32).map(|row| if row % 8 == 7 { TokenRows::PADDING } else { row }).collect();
    let rows = TokenRows::new(rows, table);
    let windows = Some(Windows { rows: &rows, padding: &of_padding });
    for (similarity, windows) in [(Similarity::Product(0.5), None), (Similarity::Cosine(&of_scales), windows)]
    {
        let (mut bias, mut scales, mut padding) = (vec![0.0; bias], vec![0.0; scales], vec![0.0; padding]);
        let scores = Scores { similarity, bias: Some(&of_bias), mask: Some(&mask) };
        let gradients = AttentionGradients {
            bias: Some(&mut bias),
            scales: Some(&mut scales),
            padding: Some(&mut padding),
            accumulate: true,
        };
        let qkv = Matrix { values: &qkv, stride: qkv_stride };
        let dy = Matrix { values: &dy, stride: dy_stride };
        attention_backward(level, pool, shape, qkv, scores, windows, dy, &mut dqkv, dqkv_stride, gradients);
    }
}

pub fn doors() -> Vec<Door> {
    let door = |name, numbers: Vec<Vec<Number>>, call| Door { name, numbers: numbers.concat(), call };
    vec![
        door(
            "gradients of products",
            vec![
                vec![Other(10), Length(9 * 22 + 21), Other(22), Length(9 * 9 + 9), Apart(9), Length(21 * 9)],
                vec![Length(90), Length(9 * 10 + 9), Other(10), Length(9), Length(9), Length(21 * 9)],
            ],
            call_products,
        ),
        door(
            "gradients of rows",
            vec![
                vec![Other(10), Other(21), Length(9 * 21 + 21), Apart(21), Length(9 * 23 + 21), Other(23)],
                vec![Length(9 * 22 + 21), Other(22), Length(21), Length(5 * 21), Apart(21), Other(2)],
                vec![Length(5), Length(210)],
            ],
            call_rows,
        ),
        door(
            "gradients of norms",
            vec![
                vec![Other(10), Other(21), Length(9 * 21 + 21), Apart(21), Length(9 * 23 + 21), Other(23)],
                vec![Length(9 * 22 + 21), Other(22), Length(21), Length(21), Length(21), Length(21)],
                vec![Length(21), Length(21), Length(210), Length(210)],
            ],
            call_norms,
        ),
        conv_door("gradients of a convolution", [10, 20], [1, 1, 1]),
        conv_door("gradients of a convolution in groups", [6, 20], [1, 2, 1]),
        conv_door("gradients of a strided convolution", [6, 20], [2, 1, 0]),
        door(
            "gradients of a depthwise convolution",
            vec![
                maps([2, 6, 6, 21]),
                vec![Length(21 * 9), Other(3), Other(2), Padding(1), Other(1)],
                vec![Other(3), Other(3), Length(18 * 21), Other(21), Length(21 * 9), Length(72 * 21)],
                vec![Length(72 * 21), Apart(21)],
            ],
            call_depthwise,
        ),
        door(
            "gradients of pools",
            vec![
                maps([2, 7, 7, 21]),
                vec![Other(3), Other(2), Padding(1), Other(4), Other(4), Length(32 * 21), Other(21)],
                vec![Length(98 * 21), Length(98 * 21), Apart(21)],
            ],
            call_pools,
        ),
        door(
            "gradients of attention",
            vec![
                vec![Other(4), Other(8), Other(2), Other(5), Length(32 * 30), Other(30), Length(2 * 64)],
                vec![Length(2 * 64), Length(2), Length(16), Length(30), Length(32 * 10), Other(10)],
                vec![Length(32 * 30), Apart(30)],
            ],
            call_attention,
        ),
    ]
}

fn conv_door(name: &'static str, [inputs, outputs]: [usize; 2], [step, groups, padding]: [usize; 3]) -> Door {
    let out = (6 + 2 * padding - 3) / step + 1;
    let weight = outputs * inputs / groups * 9;
    let numbers = [
        maps([2, 6, 6, inputs]),
        vec![
            Length(weight),
            Other(outputs),
            Other(inputs),
            Other(3),
            Other(step),
            Padding(padding),
            Other(1),
        ],
        vec![Other(groups), Other(out), Other(out), Length(2 * out * out * outputs), Other(outputs)],
        vec![Length(weight), Length(72 * inputs), Length(72 * inputs), Apart(inputs)],
    ];
    Door { name, numbers: numbers.concat(), call: call_conv }
}
