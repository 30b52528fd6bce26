//! Sets of byte ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint ranges that do not touch, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::mount) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// The bytes `0 .. end`.
    pub(in crate::mount) fn up_to(end: u64) -> Self {
        Self::from_pairs([(0, end)])
    }

    /// Ranges that are in order and disjoint; empty ones are left out.
    pub(in crate::mount) fn from_pairs(pairs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self(pairs.into_iter().filter(|(start, end)| start < end).collect())
    }

    pub(in crate::mount) fn pairs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(start, end)| (*start, *end))
    }

    pub(in crate::mount) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes `range` out. Says whether any of it was in.
    pub(in crate::mount) fn remove(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() {
            return false;
        }
        let hit: Vec<(u64, u64)> = self
            .0
            .range(..range.end)
            .rev()
            .take_while(|(_, end)| **end > range.start)
            .map(|(start, end)| (*start, *end))
            .collect();
        for (start, end) in &hit {
            self.0.remove(start);
            if *start < range.start {
                self.0.insert(*start, range.start);
            }
            if *end > range.end {
                self.0.insert(range.end, *end);
            }
        }
        !hit.is_empty()
    }

    /// Puts `range` in.
    pub(in crate::mount) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.remove(range.clone());
        let (mut start, mut end) = (range.start, range.end);
        if let Some((before, _)) = self.0.range(..start).next_back().filter(|(_, end)| **end == range.start) {
            start = *before;
        }
        if let Some(after) = self.0.remove(&end) {
            end = after;
        }
        self.0.insert(start, end);
    }

    /// Takes out everything from `at` on.
    pub(in crate::mount) fn cut(&mut self, at: u64) -> bool {
        self.remove(at..u64::MAX)
    }

    /// The end of the range `offset` is in.
    pub(in crate::mount) fn end_of(&self, offset: u64) -> Option<u64> {
        self.0.range(..=offset).next_back().map(|(_, end)| *end).filter(|end| *end > offset)
    }

    /// Where the first range at or behind `offset` begins: `offset` itself if it is in one.
    pub(in crate::mount) fn next(&self, offset: u64) -> Option<u64> {
        if self.end_of(offset).is_some() {
            return Some(offset);
        }
        self.0.range(offset..).next().map(|(start, _)| *start)
    }

    /// `range` in pieces, in order, each wholly in (`true`) or wholly out.
    pub(in crate::mount) fn pieces(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (end, inside) = match self.end_of(at) {
                Some(end) => (end, true),
                None => (self.next(at).unwrap_or(u64::MAX), false),
            };
            let end = end.min(range.end);
            pieces.push((at..end, inside));
            at = end;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn putting_ranges_in_and_out_leaves_what_a_row_of_flags_would(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..220, 0_u64..60), 0..30),
        ) {
            let mut flags = vec![false; 300];
            let mut ranges = Ranges::default();
            for (inside, start, length) in steps {
                let range = start..start + length;
                if inside { ranges.add(range) } else { let _ = ranges.remove(range); }
                flags[start as usize..(start + length) as usize].fill(inside);
            }
            let pairs: Vec<_> = ranges.pairs().collect();
            for pair in pairs.windows(2) {
                prop_assert!(pair[0].1 < pair[1].0, "ranges that touch: {:?}", pairs);
            }
            for (at, flag) in flags.iter().enumerate() {
                prop_assert_eq!(ranges.end_of(at as u64).is_some(), *flag, "byte {}", at);
            }
        }

        #[test]
        fn taking_out_ranges_leaves_what_a_row_of_flags_would(
            length in 0_u64..200,
            taken in proptest::collection::vec((0_u64..220, 0_u64..60), 0..20),
        ) {
            let mut flags = vec![true; length as usize];
            let mut ranges = Ranges::up_to(length);
            for (start, count) in taken {
                let end = start + count;
                let hit = (start..end).any(|at| flags.get(at as usize) == Some(&true));
                prop_assert_eq!(ranges.remove(start..end), hit);
                for at in start..end {
                    if let Some(flag) = flags.get_mut(at as usize) {
                        *flag = false;
                    }
                }
            }
            let shown: Vec<bool> = ranges
                .pieces(0..length)
                .into_iter()
                .flat_map(|(piece, inside)| piece.map(move |_| inside))
                .collect();
            prop_assert_eq!(&shown, &flags);
            for (at, flag) in flags.iter().enumerate() {
                prop_assert_eq!(ranges.end_of(at as u64).is_some(), *flag);
            }
            let again = Ranges::from_pairs(ranges.pairs());
            prop_assert_eq!(again, ranges);
        }
    }
}
