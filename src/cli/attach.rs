//! `artifs attach`: files about an artifact, found by asking for its referrers.

use std::io::{self, Write as _};

use artifs::location::Location;
use artifs::oci::{Descriptor, Name};
use artifs::ops::{self, PushOptions};
use clap::Args;

use super::display;
use super::failure::{Failure, Result};
use super::options::{Debug, Format, Packing, PlatformOption, Target, Terminal};
use super::{progress, resolve, usage};

/// Attach files to an existing artifact
#[derive(Args)]
#[command(
    override_usage = "artifs attach [flags] --artifact-type=<type> <name>{:<tag>|@<digest>} {<file>[:<layer_media_type>]|--annotation <key>=<value>} [...]"
)]
#[command(after_help = "\
Example - Attach file 'hi.txt' with artifact type 'doc/example' to manifest 'hello:v1' in registry 'localhost:5000':
  artifs attach --artifact-type doc/example localhost:5000/hello:v1 hi.txt

Example - Attach file 'hi.txt' to a specific artifact with platform 'linux/amd64' in multi-arch index 'hello:v1'
  artifs attach --artifact-type doc/example --platform linux/amd64 localhost:5000/hello:v1 hi.txt

Example - Attach an artifact with manifest annotations:
  artifs attach --artifact-type doc/example --annotation \"key1=val1\" --annotation \"key2=val2\" localhost:5000/hello:v1

Example - Attach file 'hi.txt' and print the digest:
  artifs attach --artifact-type doc/example localhost:5000/hello:v1 hi.txt --format go-template=\"{{.digest}}\"

Example - Attach file to the manifest tagged 'v1' in an OCI image layout folder 'layout-dir':
  artifs attach --oci-layout --artifact-type doc/example layout-dir:v1 hi.txt")]
pub(crate) struct Attach {
    /// the artifact reference to attach to
    #[arg(value_name = "name")]
    reference: String,
    /// files and folders, each with its media type if that is said
    #[arg(value_name = "file")]
    files: Vec<String>,
    /// artifact type
    #[arg(long, value_name = "type", required = true)]
    artifact_type: String,
    /// [Preview] set OCI distribution spec version and API option for the target: v1.1-referrers-api or v1.1-referrers-tag
    #[arg(long, value_name = "option")]
    distribution_spec: Option<String>,
    #[command(flatten)]
    packing: Packing,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    platform: PlatformOption,
    #[command(flatten)]
    pub(crate) debug: Debug,
    #[command(flatten)]
    terminal: Terminal,
    #[command(flatten)]
    target: Target,
}

impl Attach {
    pub(crate) async fn run(&self) -> Result<()> {
        let shape = self.format.shape()?;
        if self.packing.config.is_some() && self.platform.wanted()?.is_some() {
            return Err(Failure::new("--config, --platform cannot be used at the same time"));
        }
        let place = self.target.place(&self.reference)?;
        if matches!(place.location, Location::Registry { .. }) {
            // Forgetting the reference makes the first file one.
            return Err(place.no_repository().help("Are you missing an artifact reference to attach to?"));
        }
        let name = place.location.name().cloned().ok_or_else(|| place.unnamed("attach"))?;
        let plan = self.packing.plan(&self.files)?;
        if !plan.has_files() && self.packing.says_nothing() {
            return Err(Failure::new("neither file nor annotation provided in the command")
                .help(format!("Usage: {}", usage::line("attach")))
                .help(
                    "To attach to an existing artifact, please provide files via argument or annotations via flag \
                     \"--annotation\". Run \"artifs attach -h\" for more options and examples",
                ));
        }
        let target = self.target.with_referrers(self.by_api()?).open_target(&place, false)?;
        let subject = self
            .subject(target.as_ref(), &name)
            .await
            .map_err(|error| place.failed_doing(&format!("failed to resolve {name}"), error))?;
        let scratch = tempfile::tempdir()?;
        let draws = self.terminal.draws(&self.debug);
        let mut draft = plan.draft(scratch.path(), shape.is_text() && !draws).await?;
        draft.artifact_type = Some(self.artifact_type.clone());
        draft.subject = Some(subject.clone());
        let watcher = progress::pushing(self.debug.said(shape.is_text()), draws, place.is_layout());
        let options = PushOptions { concurrency: self.packing.concurrency, ..PushOptions::default() };
        let pushed = ops::push(draft, target.as_ref(), &[], &options, watcher.as_ref())
            .await
            .map_err(|error| place.not_pushed(error))?;
        drop(watcher);
        self.packing.export(&pushed.bytes)?;
        if !shape.is_text() {
            return shape.print(&display::descriptor(&place.repository(), &pushed.descriptor));
        }
        let mut out = io::stdout().lock();
        writeln!(out, "Attached to {}", place.annotated_as(&subject.digest))?;
        Ok(writeln!(out, "Digest: {}", pushed.descriptor.digest)?)
    }

    async fn subject(&self, target: &dyn artifs::store::Target, name: &Name) -> artifs::Result<Descriptor> {
        let Some(platform) = self.platform.wanted().ok().flatten() else { return target.resolve(name).await };
        let digest = resolve::chosen(target, name, &platform).await?;
        target.resolve(&Name::Digest(digest)).await
    }

    fn by_api(&self) -> Result<Option<bool>> {
        match self.distribution_spec.as_deref() {
            None => Ok(None),
            Some("v1.1-referrers-api") => Ok(Some(true)),
            Some("v1.1-referrers-tag") => Ok(Some(false)),
            Some(other) => Err(Failure::new(format!(
                "invalid argument {other:?} for \"--distribution-spec\" flag: unknown distribution specification flag: {other}"
            ))
            .help("Available options: v1.1-referrers-tag, v1.1-referrers-api")),
        }
    }
}
