//! `-d/--debug`: what happens underneath, on stderr; and ORAS's old `-v/--verbose`, which scripts still give.

use std::fmt::{self, Write as _};

use clap::Args;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::progress::Said;

/// The flags every verb has.
#[derive(Args, Clone)]
pub(crate) struct Debug {
    /// output debug logs (implies --no-tty)
    #[arg(short, long)]
    pub(crate) debug: bool,
    /// deprecated; `--verbose=false` leaves out the status lines of what has no name
    #[arg(short, long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    verbose: Option<bool>,
}

impl Debug {
    /// Which status lines are printed by a verb whose output is `text`.
    pub(crate) fn said(&self, text: bool) -> Said {
        match (text, self.verbose) {
            (false, _) => Said::Nothing,
            (true, Some(false)) => Said::Named,
            (true, _) => Said::Everything,
        }
    }

    /// Sends the log to stderr: warnings, or everything of ours if asked for. Called once, before the work.
    pub(crate) fn start_log(&self) {
        if self.verbose.is_some() {
            eprintln!("Flag --verbose has been deprecated, and will be removed in a future release.");
        }
        let filter = if self.debug { "artifs=debug,warn" } else { "warn" };
        // A second log would mean a second verb in one process, of which there is none.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_writer(std::io::stderr)
            .event_format(Line)
            .try_init();
    }
}

/// `[2026-01-02T03:04:05.678Z][DEBUG]: message key=value`, the shape of ORAS's log.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::WARN => "WARNING",
            level => level.as_str(),
        };
        let mut fields = Fields { message: String::new(), others: String::new() };
        event.record(&mut fields);
        writeln!(out, "[{}][{level}]: {}{}", jiff::Timestamp::now(), fields.message, fields.others)
    }
}

struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.others, " {}={value:?}", field.name())
        };
    }
}
