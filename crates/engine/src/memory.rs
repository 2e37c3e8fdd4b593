//! What a training takes of the memory, and how a batch is made to fit.

/// What running a batch takes, and what is done so that it is not more than the training may take: see
/// [`Trainer::memory`](crate::Trainer::memory).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes of tensors, gradients, what the rule remembers, packed weights and buffers.
    pub bytes: u64,
    /// Bytes that the training may take.
    pub limit: Option<u64>,
    /// Images in the batch.
    pub batch: usize,
    /// Images that go through the network at a time; their gradients are added up.
    pub images: usize,
    /// Into so many segments the forward pass is cut. All but the last are computed once more in the backward pass, so that their
    /// values need not be kept. 1 if nothing is computed twice.
    pub segments: usize,
}

impl MemoryPlan {
    /// Whether the batch goes through the network at once, and nothing is computed twice.
    pub fn is_plain(&self) -> bool {
        self.images == self.batch && self.segments == 1
    }

    /// What is done to stay within the limit, in a sentence; `None` if nothing is.
    pub fn note(&self) -> Option<String> {
        let limit = bytes_in_words(self.limit.filter(|_| !self.is_plain())?);
        let Self { batch, images, segments, .. } = self;
        let parts =
            format!("batches of {batch} go through the network {images} at a time, which changes last bits");
        let again = format!(
            "{} of {segments} parts of the network are computed a second time on the way back, which gives the same result but \
             takes longer",
            segments - 1
        );
        Some(match (images < batch, *segments > 1) {
            (true, true) => format!("To stay within {limit}, {parts}, and {again}"),
            (true, false) => format!("To stay within {limit}, {parts}"),
            (false, _) => format!("To stay within {limit}, {again}"),
        })
    }
}

/// As in `3.1 GB` or `850 MB`.
pub fn bytes_in_words(bytes: u64) -> String {
    match bytes {
        1_000_000_000.. => format!("{:.1} GB", bytes as f64 / 1e9),
        _ => format!("{:.0} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_said() {
        let plan = MemoryPlan { bytes: 9, limit: Some(3_140_000_000), batch: 64, images: 64, segments: 1 };
        assert_eq!(plan.note(), None);
        let parts = MemoryPlan { images: 16, ..plan };
        let text = "To stay within 3.1 GB, batches of 64 go through the network 16 at a time, which changes last bits";
        assert_eq!(parts.note().as_deref(), Some(text));
        let again = MemoryPlan { segments: 4, limit: Some(850_000_000), ..plan };
        let text = "To stay within 850 MB, 3 of 4 parts of the network are computed a second time on the way back, which gives \
                    the same result but takes longer";
        assert_eq!(again.note().as_deref(), Some(text));
    }
}
