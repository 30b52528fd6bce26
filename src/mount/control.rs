//! The one other door into a running mount: a unix socket that answers `status`, `diff`, `commit` and `stop`.
//!
//! One line of JSON asks; lines that tell what is being published come before the one that answers. The sockets lie in `$XDG_RUNTIME_DIR/artifs`, for root in `/run/artifs`, and for
//! users without a session in a folder of theirs under the temporary folder; whoever cannot enter the folder cannot ask.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;

use super::commit::{CommitOptions, Committed};
use super::overlay::Change;
use super::{Ended, Running, Status, mountpoint};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::Descriptor;
use crate::ops::Progress;

/// How long a mount may take to answer before it counts as stuck; it answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest question.
const LONGEST: u64 = 1 << 20;

/// The longest answer: a list of changes has a line for each.
const LONGEST_ANSWER: u64 = 1 << 30;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ask {
    Status,
    Diff,
    Commit(Box<CommitOptions>),
    Stop { discard: bool },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Status(Box<Status>),
    Changes(Vec<Change>),
    Event(Box<Event>),
    Committed(Vec<Committed>),
    /// What became of the changes.
    Stopped(Ended),
    Refused(String),
    /// Refused, because somebody else was there before, or is there now.
    Conflict(String),
}

/// A step of what is being published.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Event {
    step: Step,
    /// Nothing is known yet of what is only looked at.
    what: Option<Descriptor>,
    /// Its name, or nothing.
    name: String,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    Preparing,
    Prepared,
    Started,
    Advanced,
    Finished,
    Mounted,
    Skipped,
}

impl Event {
    fn tell(&self, progress: &dyn Progress) {
        match (self.step, &self.what) {
            (Step::Preparing, _) => progress.preparing(&self.name, self.bytes),
            (Step::Prepared, _) => progress.prepared(&self.name, self.bytes),
            (Step::Started, Some(what)) => progress.started(what, &self.name),
            (Step::Advanced, Some(what)) => progress.advanced(what, self.bytes),
            (Step::Finished, Some(what)) => progress.finished(what, &self.name),
            (Step::Mounted, Some(what)) => progress.mounted(what, &self.name),
            (Step::Skipped, Some(what)) => progress.skipped(what, &self.name),
            (_, None) => {}
        }
    }
}

/// Tells everybody who watches.
impl Progress for Running {
    fn preparing(&self, name: &str, size: u64) {
        self.tell(Step::Preparing, None, name, size);
    }

    fn prepared(&self, name: &str, bytes: u64) {
        self.tell(Step::Prepared, None, name, bytes);
    }

    fn started(&self, what: &Descriptor, name: &str) {
        self.tell(Step::Started, Some(what), name, 0);
    }

    fn advanced(&self, what: &Descriptor, bytes: u64) {
        self.tell(Step::Advanced, Some(what), "", bytes);
    }

    fn finished(&self, what: &Descriptor, name: &str) {
        self.tell(Step::Finished, Some(what), name, 0);
    }

    fn mounted(&self, what: &Descriptor, name: &str) {
        self.tell(Step::Mounted, Some(what), name, 0);
    }

    fn skipped(&self, what: &Descriptor, name: &str) {
        self.tell(Step::Skipped, Some(what), name, 0);
    }
}

impl Running {
    fn tell(&self, step: Step, what: Option<&Descriptor>, name: &str, bytes: u64) {
        let what = what.map(|what| Descriptor::new(&what.media_type, what.digest.clone(), what.size));
        let event = Event { step, what, name: name.to_owned(), bytes };
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.send(event.clone()).is_ok());
    }
}

/// Where the sockets of this user's mounts are.
fn folder() -> Result<PathBuf> {
    let user = rustix::process::geteuid();
    let folder = match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
        Some(runtime) => PathBuf::from(runtime).join("artifs"),
        None if user.is_root() => PathBuf::from("/run/artifs"),
        None => std::env::temp_dir().join(format!("artifs-{}", user.as_raw())),
    };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.doing(|| format!("make {}", folder.display()))?;
    let metadata = std::fs::symlink_metadata(&folder).doing(|| format!("look at {}", folder.display()))?;
    if !metadata.is_dir() || metadata.uid() != user.as_raw() {
        let message = format!("{} belongs to somebody else", folder.display());
        return Err(Error::new(ErrorKind::Denied, message));
    }
    Ok(folder)
}

/// An open door. Dropping it closes it and removes the socket.
pub(super) struct Door {
    path: PathBuf,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Opens the door of a mount.
pub(super) fn open(running: &Arc<Running>) -> Result<Door> {
    let place = running.mountpoint.as_os_str().as_encoded_bytes();
    let name = format!("{}-{:016x}.sock", std::process::id(), crate::artifact::tree::stable_id(&[place]));
    let path = folder()?.join(name);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).doing(|| format!("listen at {}", path.display()))?;
    let serving = tokio::spawn(listen(listener, Arc::clone(running), path.clone()));
    Ok(Door { path, serving })
}

/// Answers until the mount has ended; then there is nothing to ask any more.
async fn listen(listener: UnixListener, running: Arc<Running>, path: PathBuf) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = running.ending.outcome() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let running = Arc::clone(&running);
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &running).await {
                        tracing::debug!(%error, "somebody asked and left");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    let _ = std::fs::remove_file(&path);
}

async fn serve(mut stream: UnixStream, running: &Running) -> std::io::Result<()> {
    let (reading, mut writing) = stream.split();
    let mut line = String::new();
    BufReader::new(reading.take(LONGEST)).read_line(&mut line).await?;
    let _answering = running.ending.answering().await;
    let (watcher, mut events) = tokio::sync::mpsc::unbounded_channel();
    let answering = answer(&line, running, watcher);
    tokio::pin!(answering);
    let answer = loop {
        tokio::select! {
            biased;
            Some(event) = events.recv() => send(&mut writing, &Answer::Event(Box::new(event))).await?,
            answer = &mut answering => break answer,
        }
    };
    while let Ok(event) = events.try_recv() {
        send(&mut writing, &Answer::Event(Box::new(event))).await?;
    }
    send(&mut writing, &answer).await
}

async fn send(writing: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    writing.write_all(&line).await
}

async fn answer(line: &str, running: &Running, watcher: UnboundedSender<Event>) -> Answer {
    let watch = || running.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(watcher);
    match serde_json::from_str(line) {
        Ok(Ask::Status) => Answer::Status(Box::new(running.status())),
        Ok(Ask::Diff) => Answer::Changes(running.changes()),
        Ok(Ask::Commit(options)) => {
            watch();
            match running.commit(&options, running).await {
                Ok(committed) => Answer::Committed(committed),
                Err(error) if error.kind() == ErrorKind::Conflict => Answer::Conflict(error.to_string()),
                Err(error) => Answer::Refused(error.to_string()),
            }
        }
        Ok(Ask::Stop { discard }) => {
            watch();
            running.ending.discard(discard);
            match running.unmount().await {
                Ok(()) => Answer::Stopped(running.ending.outcome().await),
                Err(error) => {
                    running.ending.discard(false);
                    Answer::Conflict(error.to_string())
                }
            }
        }
        Err(error) => Answer::Refused(format!("not something a mount can be asked: {error}")),
    }
}

/// Asks at one socket. `None` if nobody listens there any more; then the socket is removed.
async fn ask(socket: &Path, ask: Ask) -> Result<Option<Answer>> {
    let asking = async {
        let mut stream = match UnixStream::connect(socket).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                let _ = std::fs::remove_file(socket);
                return Ok(None);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut question = serde_json::to_vec(&ask)?;
        question.push(b'\n');
        stream.write_all(&question).await?;
        let mut line = String::new();
        BufReader::new(stream.take(LONGEST_ANSWER)).read_line(&mut line).await?;
        // It ended while it was being asked.
        if line.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&line)?)) }
    };
    let Ok(answered) = tokio::time::timeout(PATIENCE, asking).await else {
        let message = format!("the mount at {} does not answer", socket.display());
        return Err(Error::new(ErrorKind::Unavailable, message));
    };
    answered.doing(|| format!("ask the mount at {}", socket.display()))
}

/// Each mount of this user that answers, with its socket.
async fn answering() -> Vec<(PathBuf, Status)> {
    let Ok(entries) = folder().and_then(|folder| std::fs::read_dir(folder).doing(|| "list the mounts"))
    else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for socket in entries.flatten().map(|entry| entry.path()) {
        match ask(&socket, Ask::Status).await {
            Ok(Some(Answer::Status(status))) => found.push((socket, *status)),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a mount does not answer"),
        }
    }
    found.sort_by(|(_, one), (_, other)| one.mountpoint.cmp(&other.mountpoint));
    found
}

/// What is mounted by this user. Sockets nobody listens at any more are removed on the way.
pub async fn mounts() -> Vec<Status> {
    answering().await.into_iter().map(|(_, status)| status).collect()
}

/// Asks what may take as long as it takes, and shows `progress` what happens meanwhile. `None` if nobody answers.
async fn watch(socket: &Path, ask: &Ask, progress: &dyn Progress) -> Result<Option<Answer>> {
    let asking = async {
        let mut stream = match UnixStream::connect(socket).await {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            stream => stream?,
        };
        let mut question = serde_json::to_vec(ask)?;
        question.push(b'\n');
        stream.write_all(&question).await?;
        let mut lines = BufReader::new(stream.take(LONGEST_ANSWER)).lines();
        while let Some(line) = lines.next_line().await? {
            match serde_json::from_str(&line)? {
                Answer::Event(event) => event.tell(progress),
                answer => return Ok(Some(answer)),
            }
        }
        Ok(None)
    };
    let answered: std::io::Result<_> = asking.await;
    answered.doing(|| format!("ask the mount at {}", socket.display()))
}

/// The socket of the mount at `path`.
async fn at(path: &Path) -> Result<PathBuf> {
    let path = whole(path)?;
    let found = answering().await.into_iter().find(|(_, status)| status.mountpoint == path);
    found.map(|(socket, _)| socket).ok_or_else(|| nothing_at(&path))
}

/// A dead mount cannot be entered, but its folder has a path.
fn whole(path: &Path) -> Result<PathBuf> {
    path.canonicalize().or_else(|_| std::path::absolute(path)).doing(|| format!("{}", path.display()))
}

fn nothing_at(path: &Path) -> Error {
    Error::new(ErrorKind::NotFound, format!("nothing is mounted by artifs at {}", path.display()))
}

fn strange(answer: Option<Answer>, path: &Path) -> Error {
    match answer {
        Some(Answer::Refused(why)) => Error::new(ErrorKind::Unsupported, why),
        Some(Answer::Conflict(why)) => Error::new(ErrorKind::Conflict, why),
        Some(_) => {
            Error::new(ErrorKind::Invalid, "the mount answered something else; is it another version?")
        }
        None => Error::new(
            ErrorKind::Unavailable,
            format!("the mount at {} ended before it answered; what was staged is kept", path.display()),
        ),
    }
}

/// What differs in the mount at `path` from what was published last.
pub async fn diff(path: &Path) -> Result<Vec<Change>> {
    match watch(&at(path).await?, &Ask::Diff, &()).await? {
        Some(Answer::Changes(changes)) => Ok(changes),
        other => Err(strange(other, path)),
    }
}

/// Publishes what changed in the mount at `path`.
///
/// [`Conflict`](ErrorKind::Conflict) if somebody else moved the tag: nothing is published under it then.
pub async fn commit(path: &Path, options: &CommitOptions, progress: &dyn Progress) -> Result<Vec<Committed>> {
    match watch(&at(path).await?, &Ask::Commit(Box::new(options.clone())), progress).await? {
        Some(Answer::Committed(committed)) => Ok(committed),
        other => Err(strange(other, path)),
    }
}

/// Ends the mount at `path` and waits until it is gone, program and all.
///
/// [`Conflict`](ErrorKind::Conflict) while it is in use (unless `lazy`), [`NotFound`](ErrorKind::NotFound) if
/// nothing of ours is mounted there.
pub async fn unmount(path: &Path, lazy: bool) -> Result<()> {
    unmount_watched(path, lazy, false, &()).await.map(drop)
}

/// The same, showing what is published meanwhile and what became of the changes: `None` of a mount that had nobody
/// to tell. `discard` throws them away.
pub async fn unmount_watched(
    path: &Path,
    lazy: bool,
    discard: bool,
    progress: &dyn Progress,
) -> Result<Option<Ended>> {
    let path = whole(path)?;
    if !mountpoint::is_mounted(&path) {
        return Err(nothing_at(&path));
    }
    let asked = answering().await.into_iter().find(|(_, status)| status.mountpoint == path);
    let (Some((socket, status)), false) = (asked, lazy) else {
        mountpoint::take_away(&path, lazy)?;
        return Ok(None);
    };
    let ended = match watch(&socket, &Ask::Stop { discard }, progress).await? {
        Some(Answer::Stopped(became)) => Some(became),
        None => {
            if mountpoint::is_mounted(&path) {
                mountpoint::take_away(&path, lazy)?;
            }
            None
        }
        other => return Err(strange(other, &path)),
    };
    // The socket goes when the last answer was given, or nobody listens there any more.
    let patience = std::time::Instant::now() + PATIENCE;
    while socket.exists() && std::time::Instant::now() < patience {
        if ended.is_none() && UnixStream::connect(&socket).await.is_err() {
            let _ = std::fs::remove_file(&socket);
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if ended.is_none() && !discard && status.staged.is_some_and(|staged| staged.changes > 0) {
        return Err(strange(None, &path));
    }
    Ok(ended)
}
