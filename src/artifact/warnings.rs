//! What a person should know about an artifact; the collection grows as layers are indexed.

use std::sync::{Mutex, PoisonError};

use super::tree::Warning;

/// So many are kept; a hostile archive must not fill memory with complaints about itself.
const LIMIT: usize = 1000;

/// The warnings of one artifact so far.
#[derive(Default)]
pub struct Warnings(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    list: Vec<Warning>,
    dropped: usize,
}

impl Warnings {
    /// Adds one.
    pub fn add(&self, rule: &'static str, subject: impl Into<String>, message: impl Into<String>) {
        let warning = Warning { rule, subject: subject.into(), message: message.into() };
        tracing::debug!(rule, subject = warning.subject, "{}", warning.message);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.list.len() < LIMIT {
            kept.list.push(warning);
        } else {
            kept.dropped += 1;
        }
    }

    /// All so far, oldest first; if there were too many, the last one says how many are missing.
    pub fn list(&self) -> Vec<Warning> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = kept.list.clone();
        if kept.dropped > 0 {
            let message = format!("{} more warnings are not shown", kept.dropped);
            list.push(Warning { rule: "R20", subject: String::new(), message });
        }
        list
    }
}
