//! `artifs push`: files become an artifact.

use std::io::{self, Write as _};

use artifs::artifact::pack::{ConfigPart, Draft, ImageSpec, LayerPart, UNKNOWN_ARTIFACT};
use artifs::oci::{Descriptor, Name, Platform, Tag, go_json, media_type};
use artifs::ops::{self, PushOptions, Pushed};
use artifs::store::Body;
use clap::Args;
use serde_json::json;

use super::display::{self, Shape};
use super::failure::{Failure, Result};
use super::options::{Debug, Format, Packing, Place, Target, Terminal};
use super::progress;

/// Push files to a registry or an OCI image layout
#[derive(Args)]
#[command(override_usage = "artifs push [flags] <name>[:<tag>[,<tag>][...]] <file>[:<type>] [...]")]
#[command(after_help = "\
Example - Push file \"hi.txt\" with media type \"application/vnd.oci.image.layer.v1.tar\" (default):
  artifs push localhost:5000/hello:v1 hi.txt

Example - Push file \"hi.txt\" with the custom media type \"application/vnd.me.hi\":
  artifs push localhost:5000/hello:v1 hi.txt:application/vnd.me.hi

Example - Push file with colon in name \"hi:txt\" with the default media type:
  artifs push localhost:5000/hello:v1 hi:txt:

Example - Push a folder as one archive, and a file:
  artifs push localhost:5000/hello:v1 docs hi.txt

Example - Push file \"hi.txt\" with artifact type \"application/vnd.example+type\":
  artifs push --artifact-type application/vnd.example+type localhost:5000/hello:v1 hi.txt

Example - Push file \"hi.txt\" with the custom manifest config \"config.json\" of the custom media type \"application/vnd.me.config\":
  artifs push --config config.json:application/vnd.me.config localhost:5000/hello:v1 hi.txt

Example - Push file \"hi.txt\" and print the digest:
  artifs push localhost:5000/hello:v1 hi.txt --format go-template=\"{{.digest}}\"

Example - Push so that the same files always make the same digest:
  SOURCE_DATE_EPOCH=0 artifs push localhost:5000/hello:v1 hi.txt

Example - Push file \"hi.txt\" with multiple tags:
  artifs push localhost:5000/hello:tag1,tag2,tag3 hi.txt

Example - Push file \"hi.txt\" into an OCI image layout folder 'layout-dir' with tag 'test':
  artifs push --oci-layout layout-dir:test hi.txt")]
pub(crate) struct Push {
    /// the destination for pushing
    #[arg(value_name = "name")]
    reference: String,
    /// files and folders, each with its media type if that is said
    #[arg(value_name = "file")]
    files: Vec<String>,
    #[command(flatten)]
    packing: Packing,
    /// artifact type
    #[arg(long, value_name = "type")]
    artifact_type: Option<String>,
    /// [Experimental] set artifact platform in the form of `os[/arch][/variant][:os_version]`
    #[arg(long, value_name = "platform", conflicts_with = "config")]
    artifact_platform: Option<String>,
    /// [Preview] specify manifest type for building artifact. Options: v1.1, v1.0 [default: v1.1]
    #[arg(long, value_name = "version")]
    image_spec: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    pub(crate) debug: Debug,
    #[command(flatten)]
    terminal: Terminal,
    #[command(flatten)]
    target: Target,
}

impl Push {
    pub(crate) async fn run(&self) -> Result<()> {
        let shape = self.format.shape()?;
        let image_spec = self.image_spec()?;
        let (first, others) = self.reference.split_once(',').unwrap_or((&self.reference, ""));
        let place = self.target.place(first)?;
        let tags = tags(&place, others)?;
        let plan = self.packing.plan(&self.files)?;
        let platform = self.artifact_platform.as_deref().map(str::parse::<Platform>).transpose()?;
        let target = self.target.open_target(&place, true)?;
        let scratch = tempfile::tempdir()?;
        let draws = self.terminal.draws(&self.debug);
        let mut draft = plan.draft(scratch.path(), shape.is_text() && !draws).await?;
        draft.image_spec = image_spec;
        draft.artifact_type.clone_from(&self.artifact_type);
        if let Some(platform) = platform {
            set_platform(&mut draft, &platform)?;
        }
        let watcher = progress::pushing(self.debug.said(shape.is_text()), draws, place.is_layout());
        let options = PushOptions { concurrency: self.packing.concurrency, ..PushOptions::default() };
        let pushed = ops::push(draft, target.as_ref(), &tags, &options, watcher.as_ref())
            .await
            .map_err(|error| place.not_pushed(error))?;
        drop(watcher);
        self.packing.export(&pushed.bytes)?;
        report(&shape, &place, &tags, &pushed)
    }

    fn image_spec(&self) -> Result<ImageSpec> {
        let spec = match self.image_spec.as_deref() {
            Some("v1.0") => ImageSpec::V1_0,
            None if self.packing.config.is_some() && self.artifact_type.is_none() => ImageSpec::V1_0,
            Some("v1.1") | None => ImageSpec::V1_1,
            Some(other) => {
                let message = format!(
                    "invalid argument {other:?} for \"--image-spec\" flag: unknown image specification flag: {other}"
                );
                return Err(Failure::new(message).help("Available options: v1.1, v1.0"));
            }
        };
        let (typed, config) = (self.artifact_type.is_some(), self.packing.config.is_some());
        match spec {
            ImageSpec::V1_1 if config && !typed => {
                Err(Failure::new("missing artifact type for OCI image-spec v1.1 artifacts")
                    .help("set an artifact type via `--artifact-type` or consider image spec v1.0"))
            }
            ImageSpec::V1_0 if config && typed => {
                Err(Failure::new("--artifact-type and --config cannot both be provided for 1.0 OCI image"))
            }
            ImageSpec::V1_0 if typed && self.artifact_platform.is_some() => Err(Failure::new(
                "artifact type cannot be customized for OCI image-spec v1.0 when platform is specified",
            )
            .help("consider using image spec v1.1 or remove --artifact-type")),
            spec => Ok(spec),
        }
    }
}

/// The tags a reference names, those behind its commas included.
fn tags(place: &Place, others: &str) -> Result<Vec<Tag>> {
    let mut tags = match place.location.name() {
        Some(Name::Tag(tag)) => vec![tag.clone()],
        Some(Name::Digest(_)) => {
            let message = format!("{:?}: what is pushed has its own digest", place.raw);
            return Err(Failure::new(message)
                .help("Please push to a tag, in the form of \"<name>:<tag>\", or to no tag at all"));
        }
        None => Vec::new(),
    };
    for text in others.split(',').filter(|text| !text.is_empty()) {
        let tag = if place.is_layout() { Tag::of_layout(text) } else { text.parse() }?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

/// A config that says what the artifact runs on, in the fields' usual order.
fn set_platform(draft: &mut Draft, platform: &Platform) -> Result<()> {
    let bytes = go_json(platform)?;
    let mut descriptor = Descriptor::of(media_type::IMAGE_CONFIG, &bytes);
    if let ConfigPart::Empty(annotations) = &draft.config {
        descriptor.annotations.clone_from(annotations);
    }
    if draft.artifact_type.is_none() && draft.image_spec == ImageSpec::V1_1 {
        draft.artifact_type = Some(UNKNOWN_ARTIFACT.into());
    }
    draft.config = ConfigPart::Part(LayerPart::New { descriptor, body: Body::Bytes(bytes.into()) });
    Ok(())
}

fn report(shape: &Shape, place: &Place, tags: &[Tag], pushed: &Pushed) -> Result<()> {
    let repository = place.repository();
    if !shape.is_text() {
        let mut shown = display::descriptor(&repository, &pushed.descriptor);
        let mut references: Vec<String> = tags.iter().map(|tag| format!("{repository}:{tag}")).collect();
        references.sort();
        shown["referenceAsTags"] = json!(references);
        return shape.print(&shown);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "Pushed {}", place.annotated())?;
    for tag in tags.iter().skip(1) {
        writeln!(out, "Tagged {tag}")?;
    }
    writeln!(out, "ArtifactType: {}", pushed.descriptor.artifact_type.as_deref().unwrap_or_default())?;
    Ok(writeln!(out, "Digest: {}", pushed.descriptor.digest)?)
}
