// SPDX-License-Identifier: GPL-2.0
//! Shortens a failing sequence to the steps that the failure needs.
//!
//! Pure.

/// The shortest sequence found that still fails.
///
/// `fails` plays a sequence. It returns the sequence up to the failure, or `None` if there is none.
/// Leaves out runs of items, long ones first, until no single item can be left out. Stops early
/// when `enough` returns true.
pub fn shrink<T: Clone>(
    items: Vec<T>,
    mut fails: impl FnMut(&[T]) -> Option<Vec<T>>,
    mut enough: impl FnMut() -> bool,
) -> Vec<T> {
    let mut items = items;
    let mut run = items.len().div_ceil(2).max(1);
    loop {
        let before = items.len();
        let mut start = 0;
        while start < items.len() {
            if enough() {
                return items;
            }
            let end = (start + run).min(items.len());
            let candidate = [&items[..start], &items[end..]].concat();
            match fails(&candidate) {
                // The items that are at `start` now were not left out yet.
                Some(shorter) => items = shorter,
                None => start = end,
            }
        }
        if run > 1 {
            run = run.div_ceil(2).min(items.len().max(1));
        } else if items.len() == before {
            return items;
        }
    }
}

#[cfg(test)]
mod test {
    use super::shrink;

    /// Fails at the item that completes `needed` as a subsequence.
    fn subsequence(needed: &'static [u32]) -> impl FnMut(&[u32]) -> Option<Vec<u32>> {
        move |items| {
            let mut left = needed;
            for (at, item) in items.iter().enumerate() {
                if left.first() == Some(item) {
                    left = &left[1..];
                }
                if left.is_empty() {
                    return Some(items[..=at].to_vec());
                }
            }
            None
        }
    }

    #[test]
    fn only_the_needed_items_stay() {
        for needed in [&[7][..], &[0, 999], &[3, 4, 5], &[10, 500, 501, 900]] {
            let found = shrink((0..1000).collect(), subsequence(needed), || false);
            assert_eq!(found, needed);
        }
    }

    #[test]
    fn stops_on_request() {
        let mut left = 3;
        let enough = move || {
            left -= 1;
            left == 0
        };
        let found = shrink((0..1000).collect(), subsequence(&[5, 700]), enough);
        assert!(found.len() > 2);
    }

    #[test]
    fn a_single_item_is_left_alone() {
        assert_eq!(shrink(vec![1], subsequence(&[1]), || false), [1]);
    }
}
