//! Records a journal can do without: those a later one says again.

use std::collections::{HashMap, HashSet};

use super::record::Record;

/// Which attributes a later record sets.
#[derive(Clone, Copy, Default)]
struct Said([bool; 5]);

impl Said {
    fn of(record: &Record) -> Self {
        match record {
            Record::Attributes { mode, uid, gid, accessed, modified, .. } => {
                Self([mode.is_some(), uid.is_some(), gid.is_some(), accessed.is_some(), modified.is_some()])
            }
            _ => Self::default(),
        }
    }

    fn covers(self, other: Self) -> bool {
        self.0.iter().zip(other.0).all(|(here, there)| *here || !there)
    }

    fn with(self, other: Self) -> Self {
        let mut both = self.0;
        both.iter_mut().zip(other.0).for_each(|(here, there)| *here |= there);
        Self(both)
    }
}

/// The records that still matter, in their order: replayed, they leave what all of them would.
pub(super) fn compact(records: Vec<Record>) -> Vec<Record> {
    let (mut ranges, mut copies) = (HashSet::new(), HashSet::new());
    let mut attributes: HashMap<u64, Said> = HashMap::new();
    let mut xattrs = HashSet::new();
    let mut kept: Vec<Record> = Vec::with_capacity(records.len());
    for record in records.into_iter().rev() {
        let matters = match &record {
            Record::Ranges { inode, .. } => ranges.insert(*inode),
            Record::Attributes { inode, .. } => match attributes.get_mut(inode) {
                None => {
                    attributes.insert(*inode, Said::of(&record));
                    true
                }
                Some(later) if later.covers(Said::of(&record)) => false,
                Some(later) => {
                    *later = later.with(Said::of(&record));
                    true
                }
            },
            Record::Xattr { inode, name, .. } => xattrs.insert((*inode, name.clone())),
            // It says all ranges, and what is in them.
            Record::Copy { inode, .. } => {
                ranges.insert(*inode);
                copies.insert(*inode)
            }
            _ => true,
        };
        if matters {
            kept.push(record);
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What a replay would make of records of these kinds.
    #[derive(Debug, Default, PartialEq)]
    struct State {
        ranges: BTreeMap<u64, Vec<(u64, u64)>>,
        shows: BTreeMap<u64, u64>,
        attributes: BTreeMap<u64, [Option<u32>; 3]>,
        times: BTreeMap<u64, [Option<i64>; 3]>,
        xattrs: BTreeMap<(u64, Vec<u8>), Vec<u8>>,
    }

    fn replayed(records: &[Record]) -> State {
        let mut state = State::default();
        for record in records {
            match record {
                Record::Ranges { inode, from_base } => {
                    state.ranges.insert(*inode, from_base.clone());
                }
                Record::Copy { inode, from, ranges } => {
                    state.shows.insert(*inode, *from);
                    state.ranges.insert(*inode, ranges.clone());
                }
                Record::Attributes { inode, mode, uid, gid, accessed, modified, at } => {
                    let now = state.attributes.entry(*inode).or_default();
                    for (now, new) in now.iter_mut().zip([mode, uid, gid]) {
                        *now = new.or(*now);
                    }
                    let now = state.times.entry(*inode).or_default();
                    for (now, new) in now.iter_mut().zip([*accessed, *modified, Some(*at)]) {
                        *now = new.map(|(seconds, _)| seconds).or(*now);
                    }
                }
                Record::Xattr { inode, name, value, .. } => {
                    match value {
                        Some(value) => state.xattrs.insert((*inode, name.clone()), value.clone()),
                        None => state.xattrs.remove(&(*inode, name.clone())),
                    };
                }
                _ => {}
            }
        }
        state
    }

    fn record() -> impl Strategy<Value = Record> {
        let inode = || 1_u64..4;
        let pairs = || prop::collection::vec((0_u64..9, 9_u64..20), 0..3);
        let number = || prop::option::of(0_u32..9);
        let time = || prop::option::of((0_i64..99, Just(0_u32)));
        let name = || prop::sample::select(vec![b"user.a".to_vec(), b"user.b".to_vec()]);
        prop_oneof![
            (inode(), pairs()).prop_map(|(inode, from_base)| Record::Ranges { inode, from_base }),
            (inode(), inode(), pairs()).prop_map(|(inode, from, ranges)| Record::Copy {
                inode,
                from,
                ranges
            }),
            (inode(), number(), number(), number(), time(), time(), 0_i64..99).prop_map(
                |(inode, mode, uid, gid, accessed, modified, at)| {
                    let at = (at, 0);
                    Record::Attributes { inode, mode, uid, gid, accessed, modified, at }
                }
            ),
            (inode(), name(), prop::option::of(Just(b"v".to_vec())), 0_i64..99)
                .prop_map(|(inode, name, value, at)| Record::Xattr { inode, name, value, at: (at, 0) }),
            (inode(), inode()).prop_map(|(inode, keep)| Record::Stage { inode, keep }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_left_out_changes_nothing(records in prop::collection::vec(record(), 0..40)) {
            let kept = compact(records.clone());
            prop_assert_eq!(replayed(&kept), replayed(&records));
            let stages = |records: &[Record]| records.iter().filter(|record| matches!(record, Record::Stage { .. })).count();
            prop_assert_eq!(stages(&kept), stages(&records));
            prop_assert_eq!(compact(kept.clone()), kept, "nothing is left to leave out");
        }
    }
}
