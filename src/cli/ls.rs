//! `artifs ls`: what an artifact, a repository or a registry holds.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;

use artifs::artifact::{self, Folder, Node, View};
use artifs::location::{CacheUse, Location, Opened};
use artifs::oci::{Name, Tag};
use artifs::store::{Catalog, Source};
use clap::Args;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::failure::{Failure, Result};
use super::find::find;
use super::options::{CacheOptions, Debug, Format, Place, PlatformOption, Target};

/// List files of an artifact, tags of a repository, repositories of a registry
#[derive(Args)]
#[command(visible_alias = "list", override_usage = "artifs ls [flags] <name>[:<tag>|@<digest>] [<path>]")]
#[command(after_help = "\
Example - List the files of an artifact:
  artifs ls localhost:5000/model:v1

Example - List all files with sizes and times, folders entered:
  artifs ls -lR localhost:5000/model:v1

Example - List a folder of an artifact:
  artifs ls localhost:5000/model:v1 docs

Example - List the tags of a repository; the repositories below a namespace; all repositories:
  artifs ls localhost:5000/model
  artifs ls localhost:5000/team/
  artifs ls localhost:5000

Example - List the files of an artifact in the OCI image layout folder 'layout':
  artifs ls ./layout:v1")]
pub(crate) struct Ls {
    /// the artifact, repository or registry to list
    #[arg(value_name = "name")]
    reference: String,
    /// a folder or file in it
    #[arg(value_name = "path")]
    path: Option<String>,
    /// show mode, size and time as well
    #[arg(short, long)]
    long: bool,
    /// list what is in folders too, as paths from the root
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    platform: PlatformOption,
    #[command(flatten)]
    pub(crate) debug: Debug,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    cache: CacheOptions,
}

impl Ls {
    pub(crate) async fn run(self) -> Result<()> {
        let shape = self.format.shape()?;
        let place = self.target.place(&self.reference)?;
        let stack = self.target.open(&place, &self.cache, CacheUse::ReadWrite)?;
        let mut listing =
            Listing { long: self.long, recursive: self.recursive, text: shape.is_text(), found: Vec::new() };
        match stack.opened {
            Opened::Catalog { catalog, namespace } => {
                if let Some(path) = &self.path {
                    let message = format!("{path:?}: a registry has no files; name a repository and a tag");
                    return Err(Failure::new(message));
                }
                let repositories = repositories(catalog.as_ref(), namespace.as_deref());
                for path in repositories.await.map_err(|error| place.failed(error))? {
                    listing.name(&path)?;
                }
            }
            Opened::Repository(source) => self.repository(source, &place, &mut listing).await?,
        }
        if let Some(cache) = stack.cache {
            cache.settle().await;
        }
        shape.print(&json!({"reference": self.reference, "entries": listing.found}))
    }

    /// An artifact, or the tags of its repository if none is named.
    async fn repository(&self, source: Arc<dyn Source>, place: &Place, listing: &mut Listing) -> Result<()> {
        let path = self.path.as_deref().unwrap_or_default().trim_matches('/');
        if let Some(name) = place.location.name() {
            return self.artifact(source, name, place, path.as_bytes(), b"", listing).await;
        }
        if let Some((tag, below)) = path.split_once('/').or_else(|| (!path.is_empty()).then_some((path, "")))
        {
            let name = match (&place.location, tag.parse()) {
                (_, Ok(name)) => name,
                (Location::Layout { .. }, Err(_)) => Name::Tag(Tag::of_layout(tag)?),
                (_, Err(error)) => return Err(error.into()),
            };
            let above = format!("{tag}/");
            return self.artifact(source, &name, place, below.as_bytes(), above.as_bytes(), listing).await;
        }
        for tag in source.tags().await.map_err(|error| place.failed(error))? {
            if tag.is_for_tools() {
                continue;
            }
            listing.name(tag.as_str())?;
            if self.recursive {
                let above = format!("{tag}/");
                let name = Name::Tag(tag);
                self.artifact(Arc::clone(&source), &name, place, b"", above.as_bytes(), listing).await?;
            }
        }
        Ok(())
    }

    async fn artifact(
        &self,
        source: Arc<dyn Source>,
        name: &Name,
        place: &Place,
        path: &[u8],
        above: &[u8],
        listing: &mut Listing,
    ) -> Result<()> {
        let view = View { platform: self.platform.wanted()?, ..View::default() };
        let artifact = artifact::open(source, name, &self.reference, &view)
            .await
            .map_err(|error| place.failed(error))?;
        let node = find(&Node::Folder(artifact.root), path, false).await?;
        match &node {
            Node::Folder(folder) => {
                // Without -R names are as in the folder itself; with it, paths from the root.
                let mut above = above.to_vec();
                if self.recursive && !path.is_empty() {
                    above.extend_from_slice(path);
                    above.push(b'/');
                }
                if !self.recursive {
                    above.clear();
                }
                listing.folder(folder.as_ref(), above).await?;
            }
            node => listing.entry(path, node)?,
        }
        for warning in artifact.warnings.list() {
            tracing::warn!("{}: {} ({})", warning.subject, warning.message, warning.rule);
        }
        Ok(())
    }
}

/// The repositories of a registry, those of a namespace without its name in front.
async fn repositories(catalog: &dyn Catalog, namespace: Option<&str>) -> artifs::Result<Vec<String>> {
    let all = catalog.repositories().await?;
    let Some(namespace) = namespace else { return Ok(all) };
    let below = |path: &String| {
        path.strip_prefix(namespace)?.strip_prefix('/').filter(|rest| !rest.is_empty()).map(str::to_owned)
    };
    Ok(all.iter().filter_map(below).collect())
}

/// Prints entries as they come, or collects them for a format.
struct Listing {
    long: bool,
    recursive: bool,
    text: bool,
    found: Vec<Value>,
}

impl Listing {
    /// Something that is entered as a folder and has nothing else to say: a tag, a repository.
    fn name(&mut self, name: &str) -> Result<()> {
        if self.text {
            return Ok(writeln!(io::stdout(), "{name}/")?);
        }
        self.found.push(json!({"path": name, "type": "directory"}));
        Ok(())
    }

    fn folder<'a>(&'a mut self, folder: &'a dyn Folder, above: Vec<u8>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for (name, node) in folder.list().await?.iter() {
                let path = [above.as_slice(), name].concat();
                self.entry(&path, node)?;
                if let (true, Node::Folder(below)) = (self.recursive, node) {
                    self.folder(below.as_ref(), [path.as_slice(), b"/"].concat()).await?;
                }
            }
            Ok(())
        })
    }

    fn entry(&mut self, path: &[u8], node: &Node) -> Result<()> {
        if !self.text {
            self.found.push(described(path, node));
            return Ok(());
        }
        let mut out = io::stdout().lock();
        let mut shown = Vec::new();
        if self.long {
            let attributes = node.attributes();
            let size = if let Node::File(file) = node { file.size } else { 0 };
            write!(
                shown,
                "{}{} {size:>12} {} ",
                match node {
                    Node::Folder(_) => 'd',
                    Node::File(_) => '-',
                    Node::Link(_) => 'l',
                },
                permissions(attributes.mode),
                time(attributes.modified.0, "%Y-%m-%d %H:%M"),
            )?;
        }
        shown.extend_from_slice(path);
        match node {
            Node::Folder(_) => shown.push(b'/'),
            Node::Link(link) if self.long => {
                shown.extend_from_slice(b" -> ");
                shown.extend_from_slice(&link.target);
            }
            _ => {}
        }
        if out.is_terminal() {
            // What others named must not speak to the terminal.
            shown.iter_mut().filter(|byte| byte.is_ascii_control()).for_each(|byte| *byte = b'?');
        }
        shown.push(b'\n');
        Ok(out.write_all(&shown)?)
    }
}

/// An entry as JSON.
fn described(path: &[u8], node: &Node) -> Value {
    let attributes = node.attributes();
    let mut entry = json!({"path": String::from_utf8_lossy(path)});
    let mut say = |key: &str, value: Value| entry[key] = value;
    match node {
        Node::Folder(_) => say("type", "directory".into()),
        Node::File(file) => {
            say("type", "file".into());
            say("size", file.size.into());
        }
        Node::Link(link) => {
            say("type", "symlink".into());
            say("target", String::from_utf8_lossy(&link.target).into());
        }
    }
    say("mode", format!("{:04o}", attributes.mode).into());
    say("modified", time(attributes.modified.0, "%Y-%m-%dT%H:%M:%SZ").into());
    let layer = match node {
        Node::File(file) => file.layer.as_deref(),
        Node::Folder(folder) => folder.origin(),
        Node::Link(_) => None,
    };
    if let Some(layer) = layer {
        say("digest", json!(layer.digest));
        say("mediaType", layer.media_type.as_str().into());
    }
    entry
}

fn permissions(mode: u32) -> String {
    (0..9).rev().map(|bit| if mode >> bit & 1 == 1 { ["x", "w", "r"][bit % 3] } else { "-" }).collect()
}

/// In UTC: what an artifact says does not depend on where it is looked at.
fn time(seconds: i64, format: &str) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().strftime(format).to_string()
}
