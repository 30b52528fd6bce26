//! `artifs cache`: what is remembered on this machine.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::SystemTime;

use artifs::cache::{Cache as Store, Kind, Stored};
use artifs::location;
use clap::{Args, Subcommand};
use serde_json::json;

use super::display;
use super::failure::{Failure, Result};
use super::options::{Debug, Format, bytes};

/// Look at, check and shrink the cache
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Cache {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ls(Ls),
    Verify(Verify),
    Prune(Prune),
}

impl Cache {
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::Ls(verb) => verb.run(),
            Command::Verify(verb) => verb.run(),
            Command::Prune(verb) => verb.run(),
        }
    }

    pub(crate) fn debug(&self) -> &Debug {
        match &self.command {
            Command::Ls(Ls { place, .. })
            | Command::Verify(Verify { place, .. })
            | Command::Prune(Prune { place, .. }) => &place.debug,
        }
    }
}

/// Which cache.
#[derive(Args)]
struct Where {
    /// the cache's folder [default: ~/.cache/artifs]
    #[arg(long, env = "ARTIFS_CACHE", hide_env = true, value_name = "dir")]
    cache_dir: Option<PathBuf>,
    #[command(flatten)]
    debug: Debug,
}

impl Where {
    fn open(&self) -> Result<Store> {
        let settings = location::Settings { cache_dir: self.cache_dir.clone(), ..Default::default() };
        Ok(settings.open_cache()?)
    }
}

/// List what the cache has: kind, bytes on disk, whole size, when it was last used, digest
#[derive(Args)]
#[command(visible_alias = "list", override_usage = "artifs cache ls [flags]")]
#[command(after_help = "\
Example - What takes the most room:
  artifs cache ls | sort -k2 -n | tail

Example - As JSON:
  artifs cache ls --format json")]
struct Ls {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

impl Ls {
    fn run(&self) -> Result<()> {
        let shape = self.format.shape()?;
        let cache = self.place.open()?;
        let stored = cache.list()?;
        if !shape.is_text() {
            let entries: Vec<_> = stored.iter().map(described).collect();
            return shape.print(&json!({"path": cache.root(), "entries": entries}));
        }
        let mut out = io::stdout().lock();
        for thing in stored {
            let kind = kind(thing.kind);
            let used = used(thing.last_used, "%Y-%m-%d %H:%M");
            writeln!(out, "{kind:<7} {:>14} {:>14} {used} {}", thing.on_disk, thing.size, thing.digest)?;
        }
        Ok(())
    }
}

/// Hash every complete blob again; remove those that do not match their digest
#[derive(Args)]
#[command(override_usage = "artifs cache verify [flags]")]
#[command(after_help = "\
Example - After a disk had errors:
  artifs cache verify")]
struct Verify {
    #[command(flatten)]
    place: Where,
}

impl Verify {
    fn run(&self) -> Result<()> {
        let mut said = Ok(());
        let report = self.place.open()?.verify(|thing, outcome| {
            if let Err(error) = outcome {
                let line = writeln!(io::stdout(), "Removed  {} {error}", thing.digest);
                said = std::mem::replace(&mut said, Ok(())).and(line);
            }
        })?;
        said?;
        writeln!(io::stdout(), "Verified {} blobs, removed {}", report.good + report.bad, report.bad)?;
        if report.bad > 0 {
            return Err(Failure::new(format!("{} of the cache's blobs were damaged", report.bad))
                .help("They were removed and will be fetched again when they are needed."));
        }
        Ok(())
    }
}

/// Remove what was not used for the longest time; never what is open
#[derive(Args)]
#[command(override_usage = "artifs cache prune [flags]")]
#[command(after_help = "\
Example - Remove everything that is not in use:
  artifs cache prune

Example - Shrink the cache to 20 GiB:
  artifs cache prune --keep 20GiB")]
struct Prune {
    /// keep so many bytes of what was used last
    #[arg(long, value_name = "size", default_value = "0", value_parser = bytes)]
    keep: u64,
    #[command(flatten)]
    place: Where,
}

impl Prune {
    fn run(&self) -> Result<()> {
        let freed = self.place.open()?.prune(self.keep)?;
        Ok(writeln!(
            io::stdout(),
            "Removed {} things, freed {}, {} left",
            freed.things,
            display::size(freed.bytes),
            display::size(freed.left)
        )?)
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Blob => "blob",
        Kind::Partial => "partial",
        Kind::Index => "index",
    }
}

fn described(thing: &Stored) -> serde_json::Value {
    json!({
        "digest": thing.digest,
        "kind": thing.kind,
        "size": thing.size,
        "onDisk": thing.on_disk,
        "lastUsed": used(thing.last_used, "%Y-%m-%dT%H:%M:%SZ"),
    })
}

fn used(time: SystemTime, format: &str) -> String {
    jiff::Timestamp::try_from(time).unwrap_or_default().strftime(format).to_string()
}
