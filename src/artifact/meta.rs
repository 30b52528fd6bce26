//! The `.oci` folder: everything about an artifact that is not a file of it (formats.md R17).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use super::folder::whole_blob;
use super::index::Opening;
use super::tree::{Attributes, Content, Entries, File, FileName, Folder, Node, Plain, Xattrs, stable_id};
use super::{Artifact, Warnings, from_manifest, names};
use crate::error::{Context as _, Result};
use crate::oci::{Descriptor, Manifest, media_type};
use crate::store::Source;

/// The folder's name: reachable in every artifact's root, listed in none.
pub(super) const NAME: &[u8] = b".oci";

/// How long a list of referrers, or of warnings, is good for: both may grow while the artifact stays.
const SOON: Duration = Duration::from_secs(5);

/// An artifact's root: its files, and `.oci` for who asks for it.
pub(super) struct Root {
    files: Arc<dyn Folder>,
    meta: Option<Arc<Meta>>,
    origin: Descriptor,
}

impl Root {
    pub(super) fn new(artifact: &Artifact, opening: &Opening) -> Self {
        Self {
            files: Arc::clone(&artifact.root),
            meta: opening.view.meta.then(|| Arc::new(Meta::new(artifact, opening))),
            origin: artifact.descriptor.clone(),
        }
    }
}

#[async_trait]
impl Folder for Root {
    fn attributes(&self) -> Attributes {
        self.files.attributes()
    }

    fn id(&self) -> u64 {
        self.files.id()
    }

    async fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let (NAME, Some(meta)) = (name, &self.meta) else { return self.files.lookup(name).await };
        // A real `.oci` wins; one that cannot be looked for must not hide what explains why.
        match self.files.lookup(name).await {
            Ok(Some(real)) => Ok(Some(real)),
            Ok(None) | Err(_) => Ok(Some(Node::Folder(Arc::clone(meta) as Arc<dyn Folder>))),
        }
    }

    async fn list(&self) -> Result<Arc<Entries>> {
        self.files.list().await
    }

    fn xattrs(&self) -> Option<&Arc<Xattrs>> {
        self.files.xattrs()
    }

    async fn own_attributes(&self) -> Result<Option<Attributes>> {
        self.files.own_attributes().await
    }

    fn origin(&self) -> Option<&Descriptor> {
        Some(&self.origin)
    }
}

/// `.oci` itself. Its files are made once, except `warnings.json`, which grows.
struct Meta {
    id: u64,
    modified: (i64, u32),
    fixed: Entries,
    warnings: Arc<Warnings>,
}

impl Meta {
    fn new(artifact: &Artifact, opening: &Opening) -> Self {
        let digest = &artifact.descriptor.digest;
        let modified = from_manifest::created(artifact.manifest.annotations());
        let mut fixed = Entries::new();
        let mut text = |name: &str, bytes: Bytes| {
            fixed.insert(name.into(), generated(name, bytes, modified));
        };
        text("manifest.json", artifact.manifest.raw().clone());
        text("digest", format!("{digest}\n").into());
        text("ref", format!("{}\n", artifact.reference).into());
        text("annotations.json", json(artifact.manifest.annotations()));
        if let Some(subject) = artifact.manifest.subject() {
            text("subject.json", json(subject));
        }
        if let Some(choice) = opening.chosen_from.as_deref() {
            text("index.json", choice.index.raw.clone());
        }
        let folder = |name: &str, entries: Entries| {
            let id = stable_id(&[b"meta", digest.as_str().as_bytes(), name.as_bytes()]);
            let attributes = Attributes { modified, ..Attributes::FOLDER };
            Node::Folder(Arc::new(Plain { attributes, id, entries: Arc::new(entries) }))
        };
        let attributes = Attributes { modified, ..Attributes::FILE };
        if let Manifest::Image(image) = &artifact.manifest {
            if let Some(config) = &image.config {
                let kind = media_type::essence(&config.media_type);
                let name = if kind.ends_with("json") { "config.json" } else { "config" };
                let file = whole_blob(&artifact.source, &Arc::new(config.clone()), attributes);
                fixed.insert(name.into(), Node::File(Arc::new(file)));
            }
            let layers = image.layers.iter().enumerate().map(|(i, layer)| {
                let name = [format!("{i:03}-").as_bytes(), &names::of_digest(&layer.digest)].concat();
                let file = whole_blob(&artifact.source, &Arc::new(layer.clone()), attributes);
                (name, Node::File(Arc::new(file)))
            });
            fixed.insert("layers".into(), folder("layers", layers.collect()));
        }
        if let Some(choice) = opening.chosen_from.as_deref() {
            let platforms = opening.children(&choice.digest, &choice.index, &artifact.warnings);
            fixed.insert("platforms".into(), Node::Folder(Arc::new(platforms)));
        }
        let known = Arc::new(Known {
            source: Arc::clone(&artifact.source),
            subject: artifact.descriptor.clone(),
            opening: opening.clone(),
            modified,
            found: Mutex::new(None),
        });
        fixed.insert("referrers".into(), Node::Folder(Arc::new(Referrers { known, kind: None })));
        Self {
            id: stable_id(&[b"meta", digest.as_str().as_bytes(), b""]),
            modified,
            fixed,
            warnings: Arc::clone(&artifact.warnings),
        }
    }

    fn warnings(&self) -> Node {
        generated("warnings.json", json(&self.warnings.list()), self.modified)
    }
}

#[async_trait]
impl Folder for Meta {
    fn attributes(&self) -> Attributes {
        Attributes { modified: self.modified, ..Attributes::FOLDER }
    }

    fn id(&self) -> u64 {
        self.id
    }

    async fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        if name == b"warnings.json" {
            return Ok(Some(self.warnings()));
        }
        Ok(self.fixed.get(name).cloned())
    }

    async fn list(&self) -> Result<Arc<Entries>> {
        let mut entries = self.fixed.clone();
        entries.insert("warnings.json".into(), self.warnings());
        Ok(Arc::new(entries))
    }

    fn lifetime(&self) -> Duration {
        SOON
    }
}

/// A file we make. Its id is its name and content, so another content is another file.
fn generated(name: &str, bytes: Bytes, modified: (i64, u32)) -> Node {
    Node::File(Arc::new(File {
        attributes: Attributes { modified, ..Attributes::FILE },
        id: stable_id(&[b"generated", name.as_bytes(), &bytes]),
        size: bytes.len() as u64,
        links: 1,
        xattrs: None,
        content: Content::Inline(bytes),
        layer: None,
    }))
}

fn json(value: &impl serde::Serialize) -> Bytes {
    // Maps with text keys and plain values: this serialisation has no way to fail.
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

/// What refers to an artifact, asked for when somebody looks.
struct Known {
    source: Arc<dyn Source>,
    subject: Descriptor,
    opening: Opening,
    modified: (i64, u32),
    /// The last answer, so that walking down the folder is one question.
    found: Mutex<Option<(Instant, Arc<Vec<Descriptor>>)>>,
}

impl Known {
    async fn referrers(&self) -> Result<Arc<Vec<Descriptor>>> {
        let kept = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((when, list)) = kept
            && when.elapsed() < SOON
        {
            return Ok(list);
        }
        let list = self.source.referrers(&self.subject, None).await;
        let list = Arc::new(list.doing(|| format!("list what refers to {}", self.subject.digest))?);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        *found = Some((Instant::now(), Arc::clone(&list)));
        Ok(list)
    }
}

/// `referrers/`, or one type's folder in it.
struct Referrers {
    known: Arc<Known>,
    kind: Option<FileName>,
}

#[async_trait]
impl Folder for Referrers {
    fn attributes(&self) -> Attributes {
        Attributes { modified: self.known.modified, ..Attributes::FOLDER }
    }

    fn id(&self) -> u64 {
        let kind = self.kind.as_deref().unwrap_or_default();
        stable_id(&[b"referrers", self.known.subject.digest.as_str().as_bytes(), kind])
    }

    async fn list(&self) -> Result<Arc<Entries>> {
        let mut entries = Entries::new();
        for referrer in self.known.referrers().await?.iter() {
            let kind = kind_name(referrer);
            match &self.kind {
                None => {
                    let known = Arc::clone(&self.known);
                    let folder = Self { known, kind: Some(kind.clone()) };
                    entries.insert(kind, Node::Folder(Arc::new(folder)));
                }
                Some(wanted) if *wanted == kind => {
                    let folder = self.known.opening.child(&self.known.subject.digest, referrer);
                    entries.insert(names::of_digest(&referrer.digest), Node::Folder(folder));
                }
                Some(_) => {}
            }
        }
        Ok(Arc::new(entries))
    }

    fn lifetime(&self) -> Duration {
        SOON
    }
}

/// The artifact type as a folder's name: `/` becomes `_`.
fn kind_name(referrer: &Descriptor) -> FileName {
    let kind = referrer.artifact_type.as_deref().unwrap_or_default();
    names::single(&kind.replace('/', "_")).unwrap_or_else(|| b"unknown".to_vec())
}
