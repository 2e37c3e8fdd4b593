//! Which row is left out when.

/// The fold of each row, so that every class has as equal a share of each fold as its rows allow, and the folds are of equal
/// size up to one row; `None` for a row that is never left out, being the only one of its class.
///
/// Rows of a class are shuffled and dealt; the next class goes on where the last one ended. There are `folds` of them, or as many as
/// the commonest class has rows. The result is the number of folds, which is zero if every class has one row.
pub(crate) fn stratified(
    labels: &[u32],
    classes: usize,
    folds: usize,
    seed: u64,
) -> (usize, Vec<Option<u16>>) {
    let mut rows_of: Vec<Vec<u32>> = vec![Vec::new(); classes];
    for (row, label) in labels.iter().enumerate() {
        rows_of[*label as usize].push(row as u32);
    }
    let most = rows_of.iter().map(Vec::len).max().unwrap_or(0);
    let folds = folds.min(most).min(usize::from(u16::MAX));
    let mut fold_of = vec![None; labels.len()];
    if folds < 2 {
        return (0, fold_of);
    }
    let mut random = SplitMix64(seed);
    let mut next = 0;
    for rows in rows_of.iter_mut().filter(|rows| rows.len() > 1) {
        for last in (1..rows.len()).rev() {
            rows.swap(last, random.below(last + 1));
        }
        for row in rows {
            fold_of[*row as usize] = Some((next % folds) as u16);
            next += 1;
        }
    }
    (folds, fold_of)
}

/// The generator of Steele, Lea and Flood 2014 ("Fast splittable pseudorandom number generators").
struct SplitMix64(u64);

impl SplitMix64 {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::stratified;

    #[test]
    fn every_fold_has_its_share_of_every_class() {
        // 3, 50, 7, 1 and 100 rows of a class, mixed.
        let counts = [3, 50, 7, 1, 100];
        let mut labels: Vec<u32> = Vec::new();
        for (class, count) in counts.iter().enumerate() {
            labels.extend(std::iter::repeat_n(class as u32, *count));
        }
        labels.sort_by_key(|label| (label * 7) % 5);
        let (folds, fold_of) = stratified(&labels, 5, 5, 3);
        assert_eq!(folds, 5);
        let size = |fold: u16, class: Option<u32>| {
            let of = |(f, label): (&Option<u16>, &u32)| *f == Some(fold) && class.is_none_or(|c| c == *label);
            fold_of.iter().zip(&labels).filter(|(f, label)| of((f, label))).count()
        };
        for fold in 0..5 {
            assert_eq!(size(fold, None), 32, "fold {fold}: 160 rows can be left out");
            for (class, count) in counts.iter().enumerate().filter(|(_, count)| **count > 1) {
                let here = size(fold, Some(class as u32));
                assert!(here == count / 5 || here == count.div_ceil(5), "fold {fold}, class {class}: {here}");
            }
        }
        let alone = labels.iter().position(|label| *label == 3).expect("class 3 has a row");
        assert_eq!(fold_of[alone], None, "the only row of its class is always learned from");
    }

    #[test]
    fn the_seed_decides() {
        let labels: Vec<u32> = (0..100).map(|i| i % 2).collect();
        assert_eq!(stratified(&labels, 2, 5, 1), stratified(&labels, 2, 5, 1));
        assert_ne!(stratified(&labels, 2, 5, 1), stratified(&labels, 2, 5, 2));
    }

    #[test]
    fn few_rows_make_few_folds() {
        assert_eq!(stratified(&[0, 0, 0, 1, 1, 1], 2, 5, 0).0, 3);
        assert_eq!(stratified(&[0, 1, 2], 3, 5, 0), (0, vec![None; 3]));
        assert_eq!(stratified(&[0, 0, 1], 2, 1, 0), (0, vec![None; 3]));
    }
}
