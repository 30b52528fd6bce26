//! What the journal knows of where a file's bytes come from, which never goes back to what was before.

use std::io;

use super::contents::Contents;

impl Contents {
    /// What comes from the base, if the journal does not know it yet, and how old that is.
    pub(in crate::mount) fn untold(&self) -> Option<(u64, Vec<(u64, u64)>)> {
        let local = self.local();
        let local = local.as_ref().filter(|local| local.changed > local.told)?;
        Some((local.changed, local.from_base.pairs().collect()))
    }

    /// Writes down what [came from the base](Self::untold) once; nothing if the journal knows something later.
    pub(in crate::mount) fn tell(
        &self,
        (changed, from_base): (u64, Vec<(u64, u64)>),
        append: impl FnOnce(Vec<(u64, u64)>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut local = self.local();
        let Some(local) = local.as_mut().filter(|local| local.told < changed) else { return Ok(()) };
        append(from_base)?;
        local.told = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Staging;
    use super::*;

    #[test]
    fn what_comes_from_the_base_is_told_in_the_order_it_became_so() {
        let place = tempfile::tempdir().unwrap();
        let (staging, _) = Staging::open(place.path(), "reference").unwrap();
        let contents = Contents::found(staging.data(), 7).unwrap();
        contents.resize(100).unwrap();
        contents.set_from_base(&[(0, 100)]);
        assert_eq!(contents.untold(), None);
        contents.write(&[1; 10], 0).unwrap();
        let before = contents.untold().unwrap();
        // Who waits for the disk is overtaken by somebody who does not.
        contents.write(&[1; 10], 20).unwrap();
        let after = contents.untold().unwrap();
        let mut journal = Vec::new();
        for untold in [after, before.clone(), before] {
            contents
                .tell(untold, |ranges| {
                    journal.push(ranges);
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(journal, [vec![(10, 20), (30, 100)]]);
        assert_eq!(contents.untold(), None);
        contents.write(&[1; 10], 40).unwrap();
        let untold = contents.untold().unwrap();
        contents.tell(untold, |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert!(contents.untold().is_some(), "what could not be written down is told later");
    }
}
