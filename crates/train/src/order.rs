//! In which order examples are used.

use engraft_engine::SplitMix64;

/// Neighbours that are always used within one window, and so lie close together on the disk: 80 KB of rows of 1,280 values.
const BLOCK: usize = 16;

/// Examples that are shuffled together.
const WINDOW: usize = 1 << 16;

/// In which order a pass goes over `n` examples. Each is used once; the order is a function of what is here and of `n`, so that a
/// run continues at any epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they are numbered.
    Sequential,
    /// At random. Up to 65,536 examples are shuffled as a whole. More are cut into blocks of 16 neighbours; the blocks are shuffled as a whole, and
    /// the examples of each 4,096 blocks among themselves: the disk reads blocks, and one window at a time has to fit in the page cache. Of 1,000
    /// sorted classes with 1,000 examples each, a window so has about 65 of each, give or take 32.
    Shuffled {
        /// Of the run.
        seed: u64,
        /// From 1.
        epoch: u64,
    },
}

impl Order {
    /// The numbers of `n` examples in this order, in windows.
    ///
    /// ```
    /// use engraft_train::Order;
    ///
    /// let mut order: Vec<usize> = Order::Shuffled { seed: 0, epoch: 1 }.windows(100_000).flatten().collect();
    /// assert_ne!(order[..3], [0, 1, 2]);
    /// order.sort();
    /// assert!(order.into_iter().eq(0..100_000));
    /// ```
    pub fn windows(self, n: usize) -> Windows {
        let mut blocks: Vec<usize> = (0..n.div_ceil(BLOCK)).collect();
        let random = match self {
            Order::Sequential => None,
            Order::Shuffled { seed, epoch } => {
                let epoch = SplitMix64::new(epoch).next_u64();
                let mut random = SplitMix64::new(SplitMix64::new(seed).next_u64() ^ epoch);
                random.shuffle(&mut blocks);
                Some(random)
            }
        };
        Windows { n, blocks, next: 0, random }
    }
}

/// The windows of an [`Order`]: each a list of numbers of examples.
pub struct Windows {
    n: usize,
    blocks: Vec<usize>,
    next: usize,
    /// `None` for no shuffling.
    random: Option<SplitMix64>,
}

impl Iterator for Windows {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let end = self.blocks.len().min(self.next + WINDOW / BLOCK);
        let blocks = self.blocks.get(self.next..end).filter(|blocks| !blocks.is_empty())?;
        self.next = end;
        let examples = |block: &usize| BLOCK * block..(BLOCK * (block + 1)).min(self.n);
        let mut window: Vec<usize> = blocks.iter().flat_map(examples).collect();
        if let Some(random) = &mut self.random {
            random.shuffle(&mut window);
        }
        Some(window)
    }
}
