//! The one other door into a running mount: a unix socket that answers `status` and `stop`.
//!
//! One line of JSON each way. The sockets lie in `$XDG_RUNTIME_DIR/artifs`, for root in `/run/artifs`, and for
//! users without a session in a folder of theirs under the temporary folder; whoever cannot enter the folder cannot ask.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{Running, Status, mountpoint};
use crate::error::{Context as _, Error, ErrorKind, Result};

/// How long a mount may take to answer before it counts as stuck; it answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest line either side reads.
const LONGEST: u64 = 64 << 10;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ask {
    Status,
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Status(Box<Status>),
    Stopped,
    Refused(String),
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
            () = running.ended() => break,
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
    let answer = match serde_json::from_str(&line) {
        Ok(Ask::Status) => Answer::Status(Box::new(running.status())),
        Ok(Ask::Stop) => match running.unmount().await {
            Ok(()) => Answer::Stopped,
            Err(error) => Answer::Refused(error.to_string()),
        },
        Err(error) => Answer::Refused(format!("not something a mount can be asked: {error}")),
    };
    let mut answer = serde_json::to_vec(&answer)?;
    answer.push(b'\n');
    writing.write_all(&answer).await
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
        BufReader::new(stream.take(LONGEST)).read_line(&mut line).await?;
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

/// Ends the mount at `path` and waits until it is gone, program and all.
///
/// [`Conflict`](ErrorKind::Conflict) while it is in use (unless `lazy`), [`NotFound`](ErrorKind::NotFound) if
/// nothing of ours is mounted there.
pub async fn unmount(path: &Path, lazy: bool) -> Result<()> {
    // A dead mount cannot be entered, but its folder has a path.
    let path =
        path.canonicalize().or_else(|_| std::path::absolute(path)).doing(|| format!("{}", path.display()))?;
    if !mountpoint::is_mounted(&path) {
        let message = format!("nothing is mounted by artifs at {}", path.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    let socket =
        answering().await.into_iter().find(|(_, status)| status.mountpoint == path).map(|(socket, _)| socket);
    match &socket {
        Some(socket) if !lazy => match ask(socket, Ask::Stop).await? {
            Some(Answer::Refused(why)) => return Err(Error::new(ErrorKind::Conflict, why)),
            Some(_) => {}
            None if !mountpoint::is_mounted(&path) => {}
            None => mountpoint::take_away(&path, lazy)?,
        },
        _ => mountpoint::take_away(&path, lazy)?,
    }
    // The socket goes when the last answer was given; a lazily detached mount may have users for hours.
    let patience = std::time::Instant::now() + PATIENCE;
    if let Some(socket) = socket.filter(|_| !lazy) {
        while socket.exists() && std::time::Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}
