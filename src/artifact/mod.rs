//! Files ⇄ manifests. Knows media types and producers' habits, not registries.
//!
//! [`open`] turns what a name points at into a [`tree`]: it fetches the manifest and nothing else. What the
//! layers hold is asked for when somebody enters or reads them. The rules (`R1` … `R20`) that warnings
//! name are the project's rule book for showing artifacts as files.
//!
//! - [`tree`]: what everything becomes · `folder`, `reader`: a tree's folders and files
//! - `from_manifest`, `index`: where a tree comes from · `draft`, `names`: paths being put together, made safe
//! - [`archive`], `directory`, `members`: layers that are folders · [`attributes`]: what layers cannot say of files
//! - `meta`: the `.oci` folder · `warnings`: what a person should know
//! - [`from_dir`], [`go_tar`], [`pack`]: the way back, from files to a manifest

pub mod archive;
pub mod attributes;
mod directory;
mod draft;
mod folder;
pub mod from_dir;
mod from_manifest;
pub mod go_tar;
mod index;
mod members;
mod meta;
pub mod names;
pub mod pack;
pub(crate) mod producers;
mod reader;
pub mod tree;
mod warnings;

use std::sync::Arc;

use crate::error::Result;
use crate::oci::{Descriptor, Digest, Manifest, Name, Platform};
use crate::store::{Source, SourceExt as _};

pub(crate) use from_manifest::{is_placeholder, stays_inside};
pub use index::Choice;
pub use reader::Reader;
pub use tree::{File, Folder, Node};
pub use warnings::Warnings;

/// How a person wants artifacts shown.
#[derive(Clone, Debug)]
pub struct View {
    /// What to choose from an index; the machine's own platform if nothing is said (formats.md R3).
    pub platform: Option<Platform>,
    /// Layers without a name.
    pub unnamed: Unnamed,
    /// Whether `.oci` can be reached in an artifact's root.
    pub meta: bool,
}

impl Default for View {
    fn default() -> Self {
        Self { platform: None, unnamed: Unnamed::Auto, meta: true }
    }
}

/// What becomes of layers without a name (formats.md R5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unnamed {
    /// Shown under their digests if no layer has a name.
    #[default]
    Auto,
    /// Always shown under their digests.
    Show,
    /// Never shown.
    Hide,
}

/// One artifact, opened.
#[derive(Clone)]
pub struct Artifact {
    /// Where it is.
    pub source: Arc<dyn Source>,
    /// What it was asked for as, for people.
    pub reference: String,
    /// What the name points at: perhaps an index.
    pub named: Descriptor,
    /// The manifest that is shown: the one chosen from an index, or the index itself where each of its
    /// artifacts is a folder.
    pub descriptor: Descriptor,
    /// That manifest.
    pub manifest: Manifest,
    /// The index it was chosen from, if it was: the one that the name points at, or one in that.
    pub chosen_from: Option<Arc<Choice>>,
    /// Its files.
    pub root: Arc<dyn Folder>,
    /// What a person should know. Grows as layers are indexed.
    pub warnings: Arc<Warnings>,
}

/// Opens what `name` points at. `reference` is how a person calls it.
///
/// From an index the wanted platform's image is chosen; if none fits, the error lists what there is. An
/// index without any platforms is a folder with each of its artifacts (formats.md R3).
pub async fn open(source: Arc<dyn Source>, name: &Name, reference: &str, view: &View) -> Result<Artifact> {
    let (named, manifest) =
        source.fetch_manifest(name).await.map_err(|error| error.context(format!("open {reference}")))?;
    opening(source, reference, view).choose(named.clone(), named, manifest).await
}

/// Opens again what was opened before: `named` was pointed at, and of that the manifest `shown` was shown.
pub async fn open_again(
    source: Arc<dyn Source>,
    (named, shown): (&Digest, &Digest),
    reference: &str,
    view: &View,
) -> Result<Artifact> {
    let (named, manifest) = source
        .fetch_manifest(&Name::Digest(named.clone()))
        .await
        .map_err(|error| error.context(format!("open {reference}")))?;
    opening(source, reference, view).choose_again(named, manifest, shown).await
}

fn opening(source: Arc<dyn Source>, reference: &str, view: &View) -> index::Opening {
    index::Opening {
        source,
        reference: reference.to_owned(),
        view: view.clone(),
        above: Vec::new(),
        chosen_from: None,
    }
}
