//! The command line: the list of commands, one file per verb.
//!
//! Sees nothing but the library's public API. Where ORAS has a verb, its arguments, texts and exit codes
//! are ORAS's.

mod attach;
mod cache;
mod cat;
mod commit;
mod completion;
mod diff;
mod display;
pub(crate) mod failure;
mod find;
mod login;
mod logout;
mod ls;
mod man;
mod mount;
mod options;
mod progress;
mod pull;
mod push;
mod recover;
mod repo;
mod resolve;
mod status;
mod tag;
mod unmount;
mod usage;
mod version;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use failure::{Failure, Result};
use options::Debug;

/// Mount what an OCI registry holds as files, and everything around it.
#[derive(Parser)]
#[command(name = "artifs", subcommand_required = true, arg_required_else_help = true)]
struct Artifs {
    #[command(subcommand)]
    command: Command,
}

/// Every verb.
#[derive(Subcommand)]
pub(crate) enum Command {
    Mount(Box<mount::Mount>),
    Unmount(unmount::Unmount),
    Status(status::Status),
    Diff(diff::Diff),
    Commit(Box<commit::Commit>),
    Recover(recover::Recover),
    Discard(recover::Discard),
    Ls(ls::Ls),
    Cat(cat::Cat),
    Pull(pull::Pull),
    Push(Box<push::Push>),
    Attach(Box<attach::Attach>),
    Tag(Box<tag::Tag>),
    Resolve(resolve::Resolve),
    Repo(repo::Repo),
    Login(login::Login),
    Logout(logout::Logout),
    Cache(cache::Cache),
    Version(version::Version),
    Completion(completion::Completion),
    Man(man::Man),
}

/// How the help groups the verbs. A test holds that each visible one is in exactly one group.
const GROUPS: &[(&str, &[&str])] = &[
    ("Mount", &["mount", "unmount", "status"]),
    ("Change", &["diff", "commit", "recover", "discard"]),
    ("Look and fetch", &["ls", "cat", "pull", "resolve"]),
    ("Publish", &["push", "attach", "tag"]),
    ("Registries", &["repo", "login", "logout"]),
    ("This machine", &["cache", "version", "completion"]),
];

impl Command {
    /// Does it.
    pub(crate) async fn run(self) -> Result<()> {
        if let Some(debug) = self.debug() {
            debug.start_log();
        }
        match self {
            Self::Mount(verb) => verb.run().await,
            Self::Unmount(verb) => verb.run().await,
            Self::Status(verb) => verb.run().await,
            Self::Diff(verb) => verb.run().await,
            Self::Commit(verb) => verb.run().await,
            Self::Recover(_) => recover::run(),
            Self::Discard(verb) => verb.run(),
            Self::Ls(verb) => verb.run().await,
            Self::Cat(verb) => verb.run().await,
            Self::Pull(verb) => interruptible(verb.run()).await,
            Self::Push(verb) => interruptible(verb.run()).await,
            Self::Attach(verb) => interruptible(verb.run()).await,
            Self::Tag(verb) => verb.run().await,
            Self::Resolve(verb) => verb.run().await,
            Self::Repo(verb) => verb.run().await,
            Self::Login(verb) => verb.run().await,
            Self::Logout(verb) => verb.run().await,
            Self::Cache(verb) => verb.run(),
            Self::Version(_) => version::run(),
            Self::Completion(verb) => verb.run(),
            Self::Man(verb) => verb.run(),
        }
    }

    fn debug(&self) -> Option<&Debug> {
        match self {
            Self::Mount(verb) => Some(&verb.debug),
            Self::Unmount(verb) => Some(&verb.debug),
            Self::Status(verb) => Some(&verb.debug),
            Self::Diff(verb) => Some(&verb.debug),
            Self::Commit(verb) => Some(&verb.debug),
            Self::Recover(verb) => Some(&verb.debug),
            Self::Discard(verb) => Some(&verb.debug),
            Self::Ls(verb) => Some(&verb.debug),
            Self::Cat(verb) => Some(&verb.debug),
            Self::Pull(verb) => Some(&verb.debug),
            Self::Push(verb) => Some(&verb.debug),
            Self::Attach(verb) => Some(&verb.debug),
            Self::Tag(verb) => Some(&verb.debug),
            Self::Resolve(verb) => Some(&verb.debug),
            Self::Repo(verb) => Some(verb.debug()),
            Self::Login(verb) => Some(&verb.debug),
            Self::Logout(verb) => Some(&verb.debug),
            Self::Cache(verb) => Some(verb.debug()),
            Self::Version(_) | Self::Completion(_) | Self::Man(_) => None,
        }
    }
}

/// `work`, which ends where it is at Ctrl-C. What is half written is taken away, or kept for the next time, by
/// whoever holds it.
async fn interruptible(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::new("interrupted")),
    }
}

/// The command a person typed. `None`: it was answered already (help).
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Option<Command>> {
    let arguments = as_mount_helper(arguments.collect());
    let command = command();
    match command.clone().try_get_matches_from(&arguments) {
        Ok(matches) => match Artifs::from_arg_matches(&matches) {
            Ok(artifs) => Ok(Some(artifs.command)),
            Err(error) => usage::explain(&error, &command, &arguments),
        },
        Err(error) => usage::explain(&error, &command, &arguments),
    }
}

/// The whole command line as clap knows it, with the house's way of showing help.
fn command() -> clap::Command {
    let command = usage::shape_help(Artifs::command());
    let overview = usage::overview(&command, GROUPS);
    let mut command = command.help_template(overview).disable_help_subcommand(false);
    command.build();
    command
}

/// `mount -t fuse.artifs REF DIR -o …` and fstab run `artifs REF DIR -o …` (or `mount.fuse.artifs …`), with
/// no verb: `mount` is meant.
fn as_mount_helper(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let called = arguments.first().and_then(|name| Path::new(name).file_name()).unwrap_or_default();
    let helper = called.to_string_lossy().starts_with("mount.");
    let verbless = matches!(arguments.as_slice(), [_, what, place, rest @ ..]
        if what.to_string_lossy().contains('/') && Path::new(place).is_absolute()
            && rest.first().is_none_or(|option| option == OsStr::new("-o")));
    if helper || verbless {
        arguments.insert(1, "mount".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Artifs::command().debug_assert();
    }

    #[test]
    fn every_visible_verb_is_in_one_group() {
        let command = Artifs::command();
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let groups = GROUPS.iter().filter(|(_, verbs)| verbs.contains(&verb.get_name())).count();
            assert_eq!(groups, 1, "{}", verb.get_name());
        }
    }

    #[test]
    fn fstab_needs_no_verb() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let mount = words("artifs mount h/r:t /mnt -o ro,dev");
        assert_eq!(as_mount_helper(words("artifs h/r:t /mnt -o ro,dev")), mount);
        let helper = as_mount_helper(words("/sbin/mount.fuse.artifs host /mnt -o ro"));
        assert_eq!(helper, words("/sbin/mount.fuse.artifs mount host /mnt -o ro"));
        for other in ["artifs pull h/r:t", "artifs cp /a /b", "artifs h/r:t -o /x"] {
            assert_eq!(as_mount_helper(words(other)), words(other));
        }
    }
}
