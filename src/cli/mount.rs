//! `artifs mount`: show what a place holds as files.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use artifs::ErrorKind;
use artifs::artifact::View;
use artifs::location::{CacheUse, Location, Opened};
use artifs::mount::{self, CommitOptions, Ended, Options, Root, Verify};
use artifs::oci::Name;
use clap::{Args, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::commit;
use super::failure::{Failure, Result};
use super::options::{CacheOptions, Debug, PlatformOption, Target};

/// Mount an artifact, a repository or a registry as files
#[derive(Args)]
#[command(override_usage = "artifs mount [flags] <name>[:<tag>|@<digest>] <folder>")]
#[command(after_help = "\
Example - Mount an artifact; its files are fetched as they are read:
  artifs mount localhost:5000/model:v1 /mnt

Example - Mount a repository as a folder of tags; a namespace; a whole registry:
  artifs mount localhost:5000/model /mnt
  artifs mount localhost:5000/team/ /mnt
  artifs mount localhost:5000 /mnt

Example - Mount an artifact of the OCI image layout folder 'layout':
  artifs mount ./layout:v1 /mnt

Example - Mount an artifact to change it:
  artifs mount --rw localhost:5000/notes:v1 /mnt

Example - Mount a repository to make artifacts: mkdir /mnt/v2, or cp -r /mnt/v1 /mnt/v2, which moves no bytes:
  artifs mount --rw localhost:5000/notes /mnt

Example - Mount at boot, by a line in /etc/fstab:
  localhost:5000/model:v1 /mnt fuse.artifs _netdev,nofail,allow_other 0 0

Example - Stay in the foreground, and show each new content of a tag that moves:
  artifs mount -f --follow localhost:5000/model:latest /mnt")]
pub(crate) struct Mount {
    /// the artifact, repository or registry to mount
    #[arg(value_name = "name")]
    reference: String,
    /// the folder to mount it at
    #[arg(value_name = "folder")]
    mountpoint: PathBuf,
    /// mount an artifact or a repository for writing; changes are staged on the local disk, and found again by the
    /// next such mount
    #[arg(long = "rw")]
    writable: bool,
    /// in a repository: let the removal of a tag's folder delete the tag
    #[arg(long, requires = "writable")]
    allow_delete: bool,
    /// stay in the foreground, and log to the terminal
    #[arg(short, long)]
    foreground: bool,
    /// let other users in (for users other than root, /etc/fuse.conf must say so)
    #[arg(long)]
    allow_other: bool,
    /// mount options as in fstab, separated by commas: noexec, noatime, uid=, gid=,
    /// and of our own follow[=seconds], verify=full, prefetch, offline, deadline=seconds, cache-dir=
    #[arg(short = 'o', value_name = "options", value_delimiter = ',')]
    options: Vec<String>,
    /// resolve tags again every so many seconds; new opens see the new content, open files keep the old
    #[arg(long, value_name = "seconds", num_args = 0..=1, require_equals = true, default_missing_value = "5")]
    follow: Option<u64>,
    /// when to check a blob's digest: once all of it is here, or before its first byte is read
    #[arg(long, value_enum, value_name = "when", default_value = "lazy")]
    verify: When,
    /// fetch everything in the background
    #[arg(long)]
    prefetch: bool,
    /// give a reader an error after so many seconds without an answer
    #[arg(long, value_name = "seconds", default_value_t = 60)]
    deadline: u64,
    /// do not let the kernel read verified blobs by itself
    #[arg(long)]
    no_passthrough: bool,
    /// the background half of a mount: says on stdout when it answers
    #[arg(long, hide = true)]
    background_half: bool,
    /// what mount(8) hands to its helpers and means nothing here
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    #[command(flatten)]
    platform: PlatformOption,
    #[command(flatten)]
    pub(crate) debug: Debug,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    cache: CacheOptions,
}

/// When a blob's digest is checked.
#[derive(Clone, Copy, ValueEnum)]
enum When {
    Lazy,
    Full,
}

impl Mount {
    pub(crate) async fn run(mut self) -> Result<()> {
        self.take_our_words()?;
        if self.writable && self.follow.is_some() {
            return Err(Failure::new(
                "what is mounted for writing does not follow a tag: changes build on what it was",
            )
            .help("To see what others publish meanwhile: artifs mount --follow, at another folder"));
        }
        if !self.foreground && !self.background_half {
            return self.in_background();
        }
        if self.background_half {
            // Out of the terminal's session: closing the terminal must not end the mount. It fails only for
            // the leader of a process group, which a child just made is not.
            let _ = rustix::process::setsid();
        }
        if self.writable {
            // Each file a program has open in the mount is open here as well.
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
            let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
        }
        let mut signals = Signals::listen()?;
        let (root, cache, reference) = self.root()?;
        let log = if self.background_half { Some(Log::create()?) } else { None };
        let begins = self.begins(&root);
        let starting = mount::Mount::start(root, self.options(reference, log.as_ref())?, cache);
        let starting = Box::pin(async {
            starting.await.map_err(|error| match begins {
                Some(how) if error.kind() == ErrorKind::NotFound => Failure::from(error).help(how),
                _ => error.into(),
            })
        });
        let mount = match started(starting, &mut signals, &self.mountpoint).await {
            Ok(mount) => mount,
            Err(failure) => {
                log.into_iter().for_each(Log::remove_if_empty);
                return Err(failure);
            }
        };
        if self.writable {
            more_files();
            if !self.cache.offline {
                mount.publish_to(self.target.open_target(&self.target.place(&self.reference)?, false)?);
            }
        }
        if let Some(log) = &log {
            writeln!(io::stdout(), "Mounted {} at {}", self.reference, self.mountpoint.display())?;
            io::stdout().flush()?;
            log.take_over()?;
        }
        let ended = until_unmounted(&mount, &self.mountpoint, signals).await;
        if let Some(log) = log {
            log.remove_if_empty();
        }
        ended
    }

    /// What is mounted, the cache in front of it, and what it is called: what is staged for it is found again by
    /// that, so a folder is called by its whole path.
    fn root(&self) -> Result<(Root, Option<artifs::cache::Cache>, String)> {
        let place = self.target.place(&self.reference)?;
        let stack = self.target.open(&place, &self.cache, CacheUse::ReadWrite)?;
        let view = View { platform: self.platform.wanted()?, ..View::default() };
        let reference = match &place.location {
            Location::Layout { path, name } if self.writable => {
                let path = std::path::absolute(path)?.display().to_string();
                match name {
                    Some(Name::Tag(tag)) => format!("{path}:{tag}"),
                    Some(Name::Digest(digest)) => format!("{path}@{digest}"),
                    None => path,
                }
            }
            _ => self.reference.clone(),
        };
        let root = match (stack.opened, place.location.name()) {
            (Opened::Repository(source), Some(name)) => Root::Artifact { source, name: name.clone(), view },
            (Opened::Repository(source), None) => Root::Repository { source, view },
            (Opened::Catalog { catalog, namespace }, _) => Root::Catalog { catalog, namespace, view },
        };
        Ok((root, stack.cache, reference))
    }

    /// How an artifact is begun that is not there to be changed.
    fn begins(&self, root: &Root) -> Option<String> {
        let Root::Artifact { name: Name::Tag(tag), .. } = root else { return None };
        let repository = self.reference.strip_suffix(&format!(":{tag}")).filter(|_| self.writable)?;
        let folder = self.mountpoint.display();
        Some(format!("To begin it: artifs mount --rw {repository} {folder}, and then: mkdir {folder}/{tag}"))
    }

    fn options(&self, reference: String, log: Option<&Log>) -> Result<Options> {
        Ok(Options {
            allow_other: self.allow_other,
            mount_options: self.options.clone(),
            follow: self.follow.map(Duration::from_secs),
            verify: match self.verify {
                When::Lazy => Verify::Lazy,
                When::Full => Verify::Full,
            },
            prefetch: self.prefetch,
            deadline: Duration::from_secs(self.deadline),
            passthrough: !self.no_passthrough,
            log: log.map(|log| log.path.clone()),
            allow_delete: self.allow_delete,
            staging: if self.writable { Some(mount::place()?) } else { None },
            ..Options::new(&self.mountpoint, reference)
        })
    }

    /// Our own words among those of `-o`, so that fstab can say them too.
    fn take_our_words(&mut self) -> Result<()> {
        let mut others = Vec::new();
        for word in std::mem::take(&mut self.options) {
            let (name, value) = word.split_once('=').unwrap_or((&word, ""));
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| Failure::new(format!("mount option {word:?} needs a number")))
            };
            match name {
                "follow" => self.follow = Some(if value.is_empty() { 5 } else { number()? }),
                "verify" if value == "full" => self.verify = When::Full,
                "verify" if value == "lazy" => self.verify = When::Lazy,
                "prefetch" => self.prefetch = true,
                "offline" => self.cache.offline = true,
                "deadline" => self.deadline = number()?,
                "cache-dir" => self.cache.cache_dir = Some(value.into()),
                _ => others.push(word),
            }
        }
        self.options = others;
        Ok(())
    }

    /// Starts this program again, as its own background half, and waits until that one answers or fails. What
    /// it has to say until then goes to this terminal.
    fn in_background(&self) -> Result<()> {
        if std::fs::read_dir(&self.mountpoint).is_ok_and(|mut entries| entries.next().is_some()) {
            let shown = self.mountpoint.display();
            writeln!(io::stderr(), "Warning: {shown} is not empty; what is in it is hidden by the mount")?;
        }
        let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
        if arguments.first().is_none_or(|verb| verb != "mount") {
            arguments.insert(0, "mount".into());
        }
        let program =
            std::env::current_exe().map_err(|error| Failure::from(error).doing("find this program"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .arg("--background-half")
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::from(error).doing("start the background half of the mount"))?;
        let mut line = String::new();
        if let Some(said) = child.stdout.take() {
            BufReader::new(said).read_line(&mut line)?;
        }
        if line.is_empty() {
            // It has said why.
            let status = child.wait()?;
            std::process::exit(status.code().unwrap_or(1));
        }
        write!(io::stdout(), "{line}")?;
        Ok(())
    }
}

/// Lets a commit have as many files open as the system allows: it opens each that changed.
fn more_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    // What is refused leaves it as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
}

/// The signals that ask a mount to end. From when they are listened to, they do nothing else.
struct Signals {
    each: [Signal; 3],
    /// One came that nobody has acted on.
    pending: bool,
}

impl Signals {
    fn listen() -> Result<Self> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [terminate, interrupt, hang_up] = kinds.map(signal);
        Ok(Self { each: [terminate?, interrupt?, hang_up?], pending: false })
    }

    async fn next(&mut self) {
        if std::mem::take(&mut self.pending) {
            return;
        }
        let [terminate, interrupt, hang_up] = &mut self.each;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
    }
}

/// Waits for the mount. A signal ends the waiting; but a mount that is there already must not be left behind dead, so
/// that it is ended as soon as it can be.
async fn started(
    starting: impl Future<Output = Result<mount::Mount>>,
    signals: &mut Signals,
    mountpoint: &Path,
) -> Result<mount::Mount> {
    tokio::pin!(starting);
    let mut asked = false;
    loop {
        tokio::select! {
            mount = &mut starting => {
                signals.pending |= asked;
                return mount;
            }
            () = signals.next(), if !asked => {
                let path = mountpoint.canonicalize().unwrap_or_else(|_| mountpoint.to_owned());
                if !mount::is_mounted(&path) {
                    return Err(Failure::new("asked to end before anything was mounted"));
                }
                asked = true;
            }
        }
    }
}

/// Serves until the mount is gone, and what was changed is published. A signal asks for that; while it is in use, it
/// stays, and what was changed so far is published.
async fn until_unmounted(mount: &mount::Mount, mountpoint: &Path, mut signals: Signals) -> Result<()> {
    let ended = mount.ended();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            became = &mut ended => return match became {
                Ended::Staged { .. } => commit::ended(&became, mountpoint),
                _ => Ok(()),
            },
            () = signals.next() => {}
        }
        if let Err(error) = mount.stop().await {
            writeln!(io::stderr(), "Error: {error}")?;
            if !mount.changes().is_empty()
                && let Err(error) = mount.commit(&CommitOptions::from_environment(), &()).await
            {
                writeln!(io::stderr(), "Error: not published, and still staged: {error}")?;
            }
        }
    }
}

/// Where a mount in the background writes what it has to say.
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// `$XDG_STATE_HOME/artifs/mount-<pid>.log`.
    fn create() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = set("XDG_STATE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".local/state")))
            .unwrap_or_else(|| PathBuf::from("/var/log"));
        let folder = state.join("artifs");
        let failed = |error: io::Error, path: &Path| {
            Failure::from(error).doing(&format!("make the log {}", path.display()))
        };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&folder).map_err(|error| failed(error, &folder))?;
        let path = folder.join(format!("mount-{}.log", std::process::id()));
        let file = File::create(&path).map_err(|error| failed(error, &path))?;
        Ok(Self { path, file })
    }

    /// Lets go of the terminal: from here on nobody sits at the other end of the standard streams.
    fn take_over(&self) -> Result<()> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        for (from, to) in [(&null, 0), (&null, 1), (&self.file, 2)] {
            // SAFETY: both descriptors are open, and 0 to 2 are owned by nobody in particular: whoever uses
            // them asks for them by number.
            if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
                return Err(Failure::from(io::Error::last_os_error()).doing("let go of the terminal"));
            }
        }
        Ok(())
    }

    fn remove_if_empty(self) {
        if self.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
