//! How the command line explains itself: the shape of help, and clap's complaints in ORAS's words.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use super::failure::{Failure, Result};

/// What it is, how it is done (the examples), how it is said, the flags.
const PAGE: &str = "{about}{after-help}\n\nUsage:\n  {usage}\n\n{all-args}\n";
const PAGE_WITHOUT_EXAMPLES: &str = "{about}\n\nUsage:\n  {usage}\n\n{all-args}\n";

/// Gives every verb below `command` the house's help page.
pub(super) fn shape_help(command: Command) -> Command {
    let examples = command.get_after_help().is_some();
    let command =
        command.help_template(if examples { PAGE } else { PAGE_WITHOUT_EXAMPLES }).flatten_help(false);
    let help = Arg::new("help")
        .short('h')
        .long("help")
        .action(ArgAction::Help)
        .help("show this help")
        .help_heading("Flags");
    command
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .subcommand_value_name("command")
        .arg(help)
        .mut_args(|argument| {
            let plain = argument.get_help_heading().is_none() && !argument.is_positional();
            if plain { argument.help_heading("Flags") } else { argument }
        })
        .mut_subcommands(shape_help)
}

/// The first page: the verbs in their groups, each with its one line.
pub(super) fn overview(command: &Command, groups: &[(&str, &[&str])]) -> String {
    let mut page = String::from("{about}\n\nUsage:\n  artifs <command> [flags]\n");
    for (title, verbs) in groups {
        let _ = write!(page, "\n{title}:\n");
        for verb in verbs.iter().filter_map(|verb| command.find_subcommand(verb)) {
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(page, "  {:<12}{about}", verb.get_name());
        }
    }
    page.push_str("\nRun \"artifs <command> --help\" for the flags and examples of a command.\n");
    page
}

/// Answers a request for help on stdout; turns any other complaint of clap into ours.
pub(super) fn explain<T>(
    error: &clap::Error,
    command: &Command,
    arguments: &[OsString],
) -> Result<Option<T>> {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            write!(io::stdout(), "{}", error.render())?;
            Ok(None)
        }
        _ => Err(Complaint::new(error, command, arguments).failure()),
    }
}

/// How a verb is said: `artifs pull [flags] …`.
pub(crate) fn line(verb: &str) -> String {
    let command = super::command();
    let usage = command.find_subcommand(verb).map(|verb| verb.clone().render_usage().to_string());
    usage.unwrap_or_default().trim_start_matches("Usage:").trim().to_owned()
}

struct Complaint<'a> {
    error: &'a clap::Error,
    /// The verb that was meant, `artifs` itself if none was.
    verb: &'a Command,
    /// `artifs repo tags`
    path: String,
    /// What was typed after the verb.
    rest: &'a [OsString],
}

impl<'a> Complaint<'a> {
    fn new(error: &'a clap::Error, command: &'a Command, arguments: &'a [OsString]) -> Self {
        let mut complaint = Self {
            error,
            verb: command,
            path: command.get_name().to_owned(),
            rest: arguments.get(1..).unwrap_or(&[]),
        };
        while let [next, rest @ ..] = complaint.rest
            && let Some(verb) = complaint.verb.find_subcommand(next)
        {
            complaint.path = format!("{} {}", complaint.path, verb.get_name());
            complaint.verb = verb;
            complaint.rest = rest;
        }
        complaint
    }

    fn failure(&self) -> Failure {
        let subject = self.context(ContextKind::InvalidArg).unwrap_or_default();
        match self.error.kind() {
            ErrorKind::InvalidSubcommand => self.unknown_command(),
            ErrorKind::UnknownArgument if subject.starts_with('-') => self.unknown_flag(&subject),
            ErrorKind::UnknownArgument | ErrorKind::TooManyValues if !subject.starts_with('-') => {
                self.wrong_count()
            }
            ErrorKind::MissingRequiredArgument => {
                let flags: Vec<String> = self
                    .contexts(ContextKind::InvalidArg)
                    .iter()
                    .filter_map(|argument| argument.strip_prefix("--"))
                    .map(|flag| format!("{:?}", flag.split([' ', '=']).next().unwrap_or(flag)))
                    .collect();
                if flags.is_empty() {
                    return self.wrong_count();
                }
                Failure::new(format!("required flag(s) {} not set", flags.join(", ")))
            }
            ErrorKind::ArgumentConflict => {
                let mut both = vec![subject];
                both.extend(self.contexts(ContextKind::PriorArg));
                let mut flags: Vec<&str> =
                    both.iter().map(|flag| flag.split([' ', '=']).next().unwrap_or(flag)).collect();
                flags.sort_by_key(|flag| {
                    self.verb.get_arguments().position(|known| known.get_long() == flag.strip_prefix("--"))
                });
                Failure::new(format!("{} cannot be used at the same time", flags.join(", ")))
            }
            ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::TooManyValues => {
                self.bad_value(&subject)
            }
            _ => Failure::new(self.plain()),
        }
    }

    fn unknown_command(&self) -> Failure {
        let word = self.context(ContextKind::InvalidSubcommand).unwrap_or_default();
        let mut message = format!("unknown command {word:?} for {:?}", self.path);
        let verbs = self.verb.get_subcommands().filter(|verb| !verb.is_hide_set()).map(Command::get_name);
        let similar: Vec<&str> =
            verbs.filter(|verb| verb.starts_with(word.as_str()) || distance(&word, verb) <= 2).collect();
        if !similar.is_empty() {
            let _ = write!(message, "\n\nDid you mean this?\n\t{}\n", similar.join("\n\t"));
        }
        Failure::new(message).help(format!("Run '{} --help' for usage.", self.path))
    }

    fn unknown_flag(&self, flag: &str) -> Failure {
        let message = match flag.strip_prefix("--") {
            Some(_) => format!("unknown flag: {flag}"),
            None => format!("unknown shorthand flag: '{}' in {flag}", flag.trim_start_matches('-')),
        };
        let failure = Failure::new(message);
        // Clap's idea of similar reaches far; a slip of the fingers keeps the beginning.
        let close = |similar: &&String| similar.as_bytes().get(..3) == flag.as_bytes().get(..3);
        match self.contexts(ContextKind::SuggestedArg).iter().find(close) {
            Some(similar) => failure.help(format!("Did you mean {similar}?")),
            None => failure,
        }
    }

    fn bad_value(&self, subject: &str) -> Failure {
        let value = self.context(ContextKind::InvalidValue).unwrap_or_default();
        let flag = subject.split([' ', '=']).next().unwrap_or(subject);
        if flag.starts_with('<') || flag.starts_with('[') {
            let allowed = self.contexts(ContextKind::ValidValue);
            let failure = Failure::new(format!("invalid argument {value:?} for {:?}", self.path));
            return if allowed.is_empty() {
                failure
            } else {
                failure.help(format!("Supported: {}", allowed.join(", ")))
            };
        }
        if value.is_empty() {
            let last = self.rest.last().and_then(|word| word.to_str()).unwrap_or_default();
            return Failure::new(match last.strip_prefix('-').filter(|short| short.chars().count() == 1) {
                Some(short) => format!("flag needs an argument: '{short}' in {last}"),
                None => format!("flag needs an argument: {flag}"),
            });
        }
        let why = std::error::Error::source(self.error)
            .map(ToString::to_string)
            .or_else(|| {
                let allowed = self.contexts(ContextKind::ValidValue);
                (!allowed.is_empty()).then(|| format!("supported values: {}", allowed.join(", ")))
            })
            .unwrap_or_else(|| "invalid syntax".to_owned());
        Failure::new(format!("invalid argument {value:?} for {:?} flag: {why}", self.named(flag)))
    }

    /// `-u, --username`, as pflag names a flag with a short form.
    fn named(&self, flag: &str) -> String {
        let long = flag.trim_start_matches('-');
        let short = self
            .verb
            .get_arguments()
            .find(|argument| argument.get_long() == Some(long))
            .and_then(Arg::get_short);
        short.map_or_else(|| flag.to_owned(), |short| format!("-{short}, {flag}"))
    }

    fn wrong_count(&self) -> Failure {
        let (least, most) =
            self.verb.get_positionals().fold((0_usize, Some(0_usize)), |(least, most), positional| {
                let many = positional.get_num_args().is_some_and(|range| range.max_values() > 1);
                (
                    least + usize::from(positional.is_required_set()),
                    if many { None } else { most.map(|most| most + 1) },
                )
            });
        let wanted = match most {
            Some(0) => "no argument".to_owned(),
            Some(most) if most == least => format!("exactly {}", arguments(most)),
            Some(most) if least == 0 => format!("at most {}", arguments(most)),
            Some(most) => format!("between {least} and {}", arguments(most)),
            None => format!("at least {}", arguments(least)),
        };
        let failure = Failure::new(format!("{:?} requires {wanted} but got {}", self.path, self.given()))
            .help(format!("Usage: {}", self.usage()));
        let purpose = self.verb.get_positionals().find_map(Arg::get_help).map(ToString::to_string);
        match purpose {
            Some(purpose) => failure.help(format!(
                "Please specify {wanted} as {purpose}. Run \"{} -h\" for more options and examples",
                self.path
            )),
            None => failure,
        }
    }

    fn usage(&self) -> String {
        let usage = self.verb.clone().render_usage().to_string();
        usage.trim_start_matches("Usage:").trim().to_owned()
    }

    /// How many arguments that are not flags were typed: parsed once more, with any number allowed.
    fn given(&self) -> usize {
        let anything = Arg::new("anything").num_args(0..).value_parser(clap::value_parser!(OsString));
        let flags = self.verb.get_arguments().filter(|argument| !argument.is_positional());
        let flags = flags.map(|flag| Arg::new(flag.get_id().clone()).clone_shape(flag));
        let counting = Command::new("count").no_binary_name(true).disable_help_flag(true).arg(anything);
        counting
            .args(flags)
            .ignore_errors(true)
            .try_get_matches_from(self.rest)
            .ok()
            .and_then(|matches| matches.get_many::<OsString>("anything").map(Iterator::count))
            .unwrap_or(0)
    }

    fn context(&self, kind: ContextKind) -> Option<String> {
        self.contexts(kind).into_iter().next()
    }

    fn contexts(&self, kind: ContextKind) -> Vec<String> {
        match self.error.get(kind) {
            Some(ContextValue::String(text)) => vec![text.clone()],
            Some(ContextValue::Strings(texts)) => texts.clone(),
            Some(ContextValue::StyledStr(text)) => vec![text.to_string()],
            Some(ContextValue::StyledStrs(texts)) => texts.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        }
    }

    /// Clap's own first line, for what ORAS has no words for.
    fn plain(&self) -> String {
        let text = self.error.render().to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    }
}

/// How many letters must be changed, added or left out to make one word from the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (done, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], done + 1);
        for (at, wanted) in other.chars().enumerate() {
            let changed = diagonal + usize::from(letter != wanted);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// A flag again, without anything that ties it to other arguments.
trait CloneShape {
    fn clone_shape(self, flag: &Arg) -> Self;
}

impl CloneShape for Arg {
    fn clone_shape(self, flag: &Arg) -> Self {
        let mut shape = self.action(flag.get_action().clone());
        if let Some(long) = flag.get_long() {
            shape = shape.long(long.to_owned());
        }
        if let Some(short) = flag.get_short() {
            shape = shape.short(short);
        }
        if let Some(count) = flag.get_num_args() {
            shape = shape.num_args(count);
        }
        shape.require_equals(flag.is_require_equals_set())
    }
}

fn arguments(count: usize) -> String {
    format!("{count} argument{}", if count == 1 { "" } else { "s" })
}
