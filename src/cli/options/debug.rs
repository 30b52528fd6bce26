//! `-d/--debug`: what happens underneath, on stderr.

use std::fmt::{self, Write as _};

use clap::Args;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The flag every verb has.
#[derive(Args, Clone)]
pub(crate) struct Debug {
    /// output debug logs (implies --no-tty)
    #[arg(short, long)]
    pub(crate) debug: bool,
}

impl Debug {
    /// Sends the log to stderr: warnings, or everything of ours if asked for. Called once, before the work.
    pub(crate) fn start_log(&self) {
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
