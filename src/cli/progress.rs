//! How a transfer is shown: bars on a terminal, ORAS's status lines elsewhere, nothing when a format is asked for.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use artifs::artifact::pack::TITLE;
use artifs::oci::{Descriptor, Digest};
use artifs::ops::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::display::printable;

/// Which status lines are printed where no bars are drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// None: the output is for programs.
    Nothing,
    /// Those of files.
    Named,
    /// Those of manifests and configs as well.
    Everything,
}

/// Who watches a pull.
pub(crate) fn pulling(said: Said, draws: bool) -> Box<dyn Progress> {
    match (draws, said) {
        (true, _) => Box::new(Bars::default()),
        (false, Said::Nothing) => Box::new(()),
        (false, _) => Box::new(Lines(said)),
    }
}

/// A status line for each step, on stdout. The padding is ORAS's.
struct Lines(Said);

impl Lines {
    fn say(&self, word: &str, what: &Descriptor, name: &str) {
        if self.0 == Said::Named && what.annotation(TITLE).is_none() {
            return;
        }
        // If nobody reads any more, the result that is printed at the end says so.
        let _ = writeln!(io::stdout(), "{word} {} {}", short(&what.digest), printable(name));
    }
}

impl Progress for Lines {
    fn started(&self, what: &Descriptor, name: &str) {
        self.say("Downloading", what, name);
    }

    fn processing(&self, what: &Descriptor, name: &str) {
        self.say("Processing ", what, name);
    }

    fn finished(&self, what: &Descriptor, name: &str) {
        self.say("Downloaded ", what, name);
    }

    fn restored(&self, what: &Descriptor, name: &str) {
        self.say("Restored   ", what, name);
    }

    fn skipped(&self, what: &Descriptor, name: &str) {
        self.say("Skipped    ", what, name);
    }
}

/// Who watches a push. Of a manifest that is there already ORAS speaks for layouts only.
pub(crate) fn pushing(said: Said, draws: bool, layout: bool) -> Box<dyn Progress> {
    match (draws, said) {
        (true, _) => Box::new(Bars { pushes: true, ..Bars::default() }),
        (false, Said::Nothing) => Box::new(()),
        (false, _) => Box::new(Pushing { lines: Lines(said), layout }),
    }
}

/// A status line for each step of a push.
struct Pushing {
    lines: Lines,
    layout: bool,
}

impl Progress for Pushing {
    fn preparing(&self, name: &str, _size: u64) {
        let _ = writeln!(io::stdout(), "Preparing {}", printable(name));
    }

    fn started(&self, what: &Descriptor, name: &str) {
        self.lines.say("Uploading", what, name);
    }

    fn finished(&self, what: &Descriptor, name: &str) {
        self.lines.say("Uploaded ", what, name);
    }

    fn mounted(&self, what: &Descriptor, name: &str) {
        self.lines.say("Mounted  ", what, name);
    }

    fn skipped(&self, what: &Descriptor, name: &str) {
        if self.layout || !what.is_manifest() {
            self.lines.say("Exists   ", what, name);
        }
    }
}

/// 12 characters of a sha256 digest, others whole, as ORAS shows them.
fn short(digest: &Digest) -> &str {
    if digest.algorithm() == "sha256" { digest.short() } else { digest.as_str() }
}

/// A bar for each transfer, on stderr.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    running: Mutex<HashMap<Digest, ProgressBar>>,
    /// By name, as long as there is no digest.
    preparing: Mutex<HashMap<String, ProgressBar>>,
    pushes: bool,
}

/// Files are hashed faster than this is read.
const SOON_DONE: u64 = 64 << 20;

impl Bars {
    fn running(&self) -> MutexGuard<'_, HashMap<Digest, ProgressBar>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self, word: &str, what: &Descriptor, name: &str) {
        let bar = self.running().remove(&what.digest);
        let bar = bar.unwrap_or_else(|| self.all.add(ProgressBar::new(what.size)));
        bar.set_style(style("✓ {prefix} {msg}  {total_bytes}  {elapsed}"));
        bar.set_prefix(word.to_owned());
        bar.finish_with_message(printable(name).into_owned());
    }
}

impl Progress for Bars {
    fn preparing(&self, name: &str, size: u64) {
        if size < SOON_DONE {
            return;
        }
        let bar = self.all.add(ProgressBar::new(size));
        bar.set_style(style(
            "{spinner} [{bar:20}]({bytes_per_sec}) Preparing {msg}  {bytes}/{total_bytes}  {percent}%  {elapsed}",
        ));
        bar.set_message(printable(name).into_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.preparing.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), bar);
    }

    fn prepared(&self, name: &str, bytes: u64) {
        let mut preparing = self.preparing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bar) = preparing.get(name) else { return };
        bar.inc(bytes);
        if bar.length().is_none_or(|length| bar.position() >= length) {
            bar.finish_and_clear();
            preparing.remove(name);
        }
    }

    fn started(&self, what: &Descriptor, name: &str) {
        let bar = self.all.add(ProgressBar::new(what.size));
        bar.set_style(style(
            "{spinner} [{bar:20}]({bytes_per_sec}) {prefix} {msg}  {bytes}/{total_bytes}  {percent}%  {elapsed}",
        ));
        bar.set_prefix(if self.pushes { "Uploading" } else { "Pulling" });
        bar.set_message(printable(name).into_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.running().insert(what.digest.clone(), bar);
    }

    fn advanced(&self, what: &Descriptor, bytes: u64) {
        if let Some(bar) = self.running().get(&what.digest) {
            bar.inc(bytes);
        }
    }

    fn finished(&self, what: &Descriptor, name: &str) {
        self.done(if self.pushes { "Uploaded " } else { "Pulled     " }, what, name);
    }

    fn restored(&self, what: &Descriptor, name: &str) {
        self.done("Restored   ", what, name);
    }

    fn skipped(&self, what: &Descriptor, name: &str) {
        self.done(if self.pushes { "Exists   " } else { "Skipped    " }, what, name);
    }

    fn mounted(&self, what: &Descriptor, name: &str) {
        self.done("Mounted  ", what, name);
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a mistake in one would show the default bar.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("██.")
}
