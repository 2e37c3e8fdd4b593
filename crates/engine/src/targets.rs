//! What a batch should give, and how far it is from that.

use crate::EngineError;

/// What the network should say of each example of a batch.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Targets {
    /// One class, or a mixture of classes, for each example; the loss is the cross entropy.
    ///
    /// With `t[n, c]` the probability that [`ClassTarget`] gives class `c` in example `n`, `w[c]` the weight of the class, `p` the
    /// softmax of the logits, and an example's weight `w(n)` the mean of the weights of its two classes, in the proportion in which
    /// they are mixed:
    ///
    /// ```text
    /// loss = sum over n and c of  w[c] t[n, c] -ln p[n, c]   /   sum over n of w(n)
    /// ```
    ///
    /// For labels, smoothed or not, this is `torch.nn.functional.cross_entropy(logits, labels, weight=w, label_smoothing=s)`; without
    /// class weights also for mixed targets that are given to it as probabilities. (With class weights and probabilities torch
    /// divides by the number of examples instead, so that its loss for labels depends on how they are written.)
    Classes {
        /// One for each example.
        examples: Vec<ClassTarget>,
        /// How much each class counts, `[classes]`, at least 0; without it each counts 1. Auxiliary heads use it as well.
        class_weights: Option<Vec<f32>>,
    },
}

/// The probabilities of the classes for one example: `weights[0]` for the first class, `weights[1]` for the second, and `uniform`
/// spread evenly over all classes. All are at least 0, and the two weights are not both 0; usually the three add up to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassTarget {
    /// From 0; the same one twice where there is one.
    pub classes: [usize; 2],
    /// Of the two classes.
    pub weights: [f32; 2],
    /// Of all classes together.
    pub uniform: f32,
}

impl ClassTarget {
    /// One class, from 0.
    pub fn label(class: usize) -> Self {
        Self { classes: [class; 2], weights: [1.0, 0.0], uniform: 0.0 }
    }

    /// The mixture of two classes (mixup, Zhang et al. 2017, arXiv 1710.09412); `share`, `0..=1`, is that of the first.
    pub fn mixture(classes: [usize; 2], share: f32) -> Self {
        Self { classes, weights: [share, 1.0 - share], uniform: 0.0 }
    }

    /// With a share, `0..1`, taken from what there is and spread evenly over all classes (label smoothing, Szegedy et al. 2015,
    /// arXiv 1512.00567, section 7).
    pub fn smoothed(self, share: f32) -> Self {
        let kept = 1.0 - share;
        Self {
            weights: self.weights.map(|weight| weight * kept),
            uniform: self.uniform * kept + share,
            ..self
        }
    }
}

impl Targets {
    /// One label for each example, all classes counting the same.
    pub fn labels(labels: &[usize]) -> Self {
        Self::Classes {
            examples: labels.iter().map(|label| ClassTarget::label(*label)).collect(),
            class_weights: None,
        }
    }

    /// What the mean of the loss divides by: the number of examples or, where classes have weights, the sum of the weights of the
    /// examples. The mean over several batches is that of their losses, each counted by this. A class without a weight counts 0.
    pub fn weight(&self) -> f64 {
        let Self::Classes { examples, class_weights } = self;
        let weight_of = |class: usize| {
            class_weights
                .as_ref()
                .map_or(1.0, |weights| weights.get(class).map_or(0.0, |weight| f64::from(*weight)))
        };
        let of_example = |example: &ClassTarget| {
            let [first, second] = example.weights.map(f64::from);
            let [a, b] = example.classes.map(weight_of);
            (first * a + second * b) / (first + second)
        };
        examples.iter().map(of_example).sum()
    }

    /// The number by which `-ln p[n, c]` counts in the loss, `[batch, classes]` in row-major order, for outputs of this shape.
    ///
    /// # Errors
    /// When the outputs are not `[batch, classes]` for as many examples, a class or a class weight is missing, or the numbers are
    /// none of which a mean can be made.
    pub fn coefficients(&self, output: &[usize]) -> Result<Vec<f32>, EngineError> {
        let Self::Classes { examples, class_weights } = self;
        let wrong = |problem: String| Err(EngineError::Targets(problem));
        let [batch, classes] = *output else {
            return wrong(format!(
                "a network that is trained to classify gives [batch, classes], but this one gives {output:?}"
            ));
        };
        if examples.len() != batch {
            return wrong(format!("there are {} targets for a batch of {batch}", examples.len()));
        }
        if let Some(label) =
            examples.iter().flat_map(|example| example.classes).find(|class| *class >= classes)
        {
            return wrong(format!("there is a label {label}, but only {classes} classes"));
        }
        if let Some(weights) = class_weights.as_ref().filter(|weights| weights.len() != classes) {
            return wrong(format!("there are {} class weights for {classes} classes", weights.len()));
        }
        let is_share = |value: &f32| *value >= 0.0 && value.is_finite();
        let is_target = |example: &ClassTarget| {
            let ClassTarget { weights: [first, second], uniform, .. } = *example;
            [first, second, uniform].iter().all(is_share) && first + second > 0.0
        };
        if let Some(place) = examples.iter().position(|example| !is_target(example)) {
            return wrong(format!(
                "target {place} of the batch gives classes {:?} the weights {:?} and all together {}: they must be at least 0, \
                 and not both of the first two 0",
                examples[place].classes, examples[place].weights, examples[place].uniform
            ));
        }
        if let Some(class) = class_weights.iter().flatten().position(|weight| !is_share(weight)) {
            return wrong(format!("the weight of class {class} is not a number of at least 0"));
        }
        let divisor = self.weight();
        if divisor <= 0.0 {
            return wrong("no class of the batch has a weight above 0, so that there is no mean loss".into());
        }
        let mut coefficients = Vec::with_capacity(batch * classes);
        for example in examples {
            let uniform = f64::from(example.uniform) / classes as f64;
            let mut row = vec![uniform; classes];
            for (class, weight) in example.classes.into_iter().zip(example.weights) {
                row[class] += f64::from(weight);
            }
            if let Some(weights) = class_weights {
                row.iter_mut().zip(weights).for_each(|(value, weight)| *value *= f64::from(*weight));
            }
            coefficients.extend(row.into_iter().map(|value| (value / divisor) as f32));
        }
        Ok(coefficients)
    }
}
