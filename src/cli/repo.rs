//! `artifs repo ls`, `artifs repo tags`: a registry's repositories, a repository's tags.

use std::io::{self, Write as _};

use artifs::error::ErrorKind;
use artifs::location::{self, CacheUse, Location, Opened};
use artifs::oci::{Digest, Name, Tag};
use artifs::store::Source;
use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Failure, Result};
use super::options::{CacheOptions, Debug, Format, Remote, Target};

/// Repository operations
#[derive(Args)]
#[command(visible_alias = "repository", arg_required_else_help = true)]
pub(crate) struct Repo {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ls(Ls),
    Tags(Tags),
}

impl Repo {
    pub(crate) async fn run(self) -> Result<()> {
        match self.command {
            Command::Ls(verb) => verb.run().await,
            Command::Tags(verb) => verb.run().await,
        }
    }

    pub(crate) fn debug(&self) -> &Debug {
        match &self.command {
            Command::Ls(verb) => &verb.debug,
            Command::Tags(verb) => &verb.debug,
        }
    }
}

/// List the repositories under the registry
#[derive(Args)]
#[command(visible_alias = "list", override_usage = "artifs repo ls [flags] <registry>[/<namespace>]")]
#[command(after_help = "\
Example - List the repositories under the registry:
  artifs repo ls localhost:5000

Example - List the repositories under a namespace in the registry:
  artifs repo ls localhost:5000/example-namespace

Example - List the repositories under the registry that include values lexically after last:
  artifs repo ls --last \"last_repo\" localhost:5000")]
struct Ls {
    /// the target registry to list repositories from
    #[arg(value_name = "registry")]
    registry: String,
    /// start after the repository specified by `last`
    #[arg(long, value_name = "last")]
    last: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    debug: Debug,
    #[command(flatten)]
    remote: Remote,
}

impl Ls {
    async fn run(self) -> Result<()> {
        let shape = self.format.shape()?;
        let (host, namespace) = self.place()?;
        let settings = location::Settings {
            registry: self.remote.settings()?,
            cache: CacheUse::Off,
            ..Default::default()
        };
        let place = Location::Registry { host: host.clone(), namespace: None };
        let Opened::Catalog { catalog, .. } = place.open(&settings)?.opened else {
            return Err(Failure::new(format!("{host} is no registry")));
        };
        let all = catalog.repositories().await.map_err(|error| {
            let prefix =
                namespace.as_ref().map(|prefix| format!(" with prefix {prefix:?}")).unwrap_or_default();
            let doing = format!("could not list repositories for {:?}{prefix}", host.as_str());
            Failure::from(error.context(doing))
        })?;
        let prefix = namespace.unwrap_or_default();
        let after = self.last.unwrap_or_default();
        let listed = all.iter().filter(|path| path.starts_with(&prefix) && **path > after);
        if !shape.is_text() {
            let listed: Vec<&String> = listed.collect();
            return shape.print(&json!({"registry": host.as_str(), "repositories": listed}));
        }
        let mut out = io::stdout().lock();
        for path in listed {
            writeln!(out, "{}", path.strip_prefix(&prefix).unwrap_or(path))?;
        }
        Ok(())
    }

    /// The registry, and `namespace/` if one is given.
    fn place(&self) -> Result<(artifs::oci::reference::Host, Option<String>)> {
        let reading = |error: artifs::Error| Failure::from(error.context("could not parse repository path"));
        match location::parse(&self.registry, false).map_err(reading)? {
            Location::Registry { host, namespace } => Ok((host, namespace.map(|path| format!("{path}/")))),
            Location::Repository(reference) if reference.name.is_none() => {
                Ok((reference.repository.host, Some(format!("{}/", reference.repository.path))))
            }
            Location::Repository(_) => {
                Err(Failure::new("could not parse repository path: tags or digests should not be provided"))
            }
            Location::Layout { .. } => {
                Err(Failure::new(format!("{:?} is a path, not a registry", self.registry)))
            }
        }
    }
}

/// Show tags of the target repository
#[derive(Args)]
#[command(visible_alias = "show-tags", override_usage = "artifs repo tags [flags] <name>")]
#[command(after_help = "\
Example - Show tags of the target repository:
  artifs repo tags localhost:5000/hello

Example - Show tags in the target repository with digest-like tags hidden:
  artifs repo tags --exclude-digest-tags localhost:5000/hello

Example - Show tags that include values lexically after the specified tag:
  artifs repo tags --last \"last_tag\" localhost:5000/hello

Example - Show tags associated with a particular tagged resource:
  artifs repo tags localhost:5000/hello:latest

Example - Show tags of the OCI image layout folder 'layout-dir':
  artifs repo tags --oci-layout layout-dir")]
struct Tags {
    /// the target repository to list tags from
    #[arg(value_name = "name")]
    repository: String,
    /// start after the tag specified by `last`
    #[arg(long, value_name = "last")]
    last: Option<String>,
    /// [Preview] exclude all digest-like tags such as 'sha256-aaaa...'
    #[arg(long = "exclude-digest-tags")]
    hide_digests: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    debug: Debug,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    cache: CacheOptions,
}

impl Tags {
    async fn run(self) -> Result<()> {
        let shape = self.format.shape()?;
        let place = self.target.place(&self.repository)?;
        let Opened::Repository(source) = self.target.open(&place, &self.cache, CacheUse::Off)?.opened else {
            return Err(place.no_repository());
        };
        let mut tags = self.wanted(source.tags().await.map_err(|error| place.failed(error))?);
        if let Some(name) = place.location.name() {
            let digest = source.resolve(name).await.map_err(|error| place.failed(error))?.digest;
            tracing::warn!("[Experimental] querying tags associated to {digest}, it may take a while...\n");
            tags = of_digest(source.as_ref(), tags, &digest).await.map_err(|error| place.failed(error))?;
        }
        let tags: Vec<&str> = tags.iter().map(Tag::as_str).collect();
        if !shape.is_text() {
            return shape.print(&json!({"tags": tags}));
        }
        let mut out = io::stdout().lock();
        for tag in tags {
            writeln!(out, "{tag}")?;
        }
        Ok(())
    }

    fn wanted(&self, tags: Vec<Tag>) -> Vec<Tag> {
        let digest = |tag: &Tag| {
            tag.as_str().replacen('-', ":", 1).parse::<Digest>().is_ok_and(|d| d.hasher().is_ok())
        };
        tags.into_iter()
            .filter(|tag| self.last.as_deref().is_none_or(|last| tag.as_str() > last))
            .filter(|tag| !(self.hide_digests && digest(tag)))
            .collect()
    }
}

/// Those tags that point at `digest`: one request for each, as registries have no better question.
async fn of_digest(source: &dyn Source, tags: Vec<Tag>, digest: &Digest) -> artifs::Result<Vec<Tag>> {
    let mut found = Vec::new();
    for tag in tags {
        match source.resolve(&Name::Tag(tag.clone())).await {
            Ok(descriptor) if descriptor.digest == *digest => found.push(tag),
            Ok(_) => {}
            // A tag that went away meanwhile points at nothing.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
