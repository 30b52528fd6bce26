//! Pull: an artifact's files into a folder on disk.
//!
//! The same tree as the mount's. Bytes go to a file beside the target and get its name only when they
//! are whole and match their digest; what a failed pull leaves is taken up by the next one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::Progress;
use super::output::{self, Names, Output, Place};
use super::transfer::{self, Outcome};
use crate::artifact::tree::{self, Attributes, Content, File, Folder, Link, Node};
use crate::artifact::{self, Artifact, View, names};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Manifest, Name};
use crate::store::Source;

/// The annotation that names a layer's file.
const TITLE: &str = "org.opencontainers.image.title";
/// Subjects of subjects: so many and no more.
const MAX_SUBJECTS: usize = 16;

/// How to pull.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Only these files and folders, as paths from the artifact's root; everything if empty.
    pub paths: Vec<String>,
    /// A file that is there already is an error (`-k`).
    pub keep_old: bool,
    /// Titles that lead outside are taken, cut to what lies inside, and linked folders below the output
    /// folder are followed (`-T`).
    pub allow_path_traversal: bool,
    /// So many transfers at a time.
    pub concurrency: usize,
    /// What the artifact is about as well, and so on.
    pub include_subject: bool,
    /// Also the config, to this path below the output folder, if it has this type or none is said.
    pub config: Option<(PathBuf, Option<String>)>,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            keep_old: false,
            allow_path_traversal: false,
            concurrency: 3,
            include_subject: false,
            config: None,
        }
    }
}

/// What was pulled.
#[derive(Clone, Debug, Default)]
pub struct Pulled {
    /// Every file that is a layer and every folder that is one, in the tree's order.
    pub files: Vec<PulledFile>,
    /// How many layers (and configs) with content have no name and were left.
    pub unnamed: usize,
}

/// One layer, on disk now.
#[derive(Clone, Debug)]
pub struct PulledFile {
    /// The output folder's path and the file's below it.
    pub path: PathBuf,
    /// The layer.
    pub descriptor: Descriptor,
    /// Whether it was unpacked to a folder.
    pub folder: bool,
}

/// Writes the artifact's files below `out`, which is made if it is missing.
pub async fn pull(
    artifact: &Artifact,
    out: &Path,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Pulled> {
    let output = Output::open(out, options.allow_path_traversal)?;
    let mut pulled = pull_one(artifact, &output, options, progress).await?;
    let mut subject = artifact.manifest.subject().cloned();
    for _ in 0..MAX_SUBJECTS {
        let Some(next) = subject.take().filter(|_| options.include_subject) else { break };
        let name = Name::Digest(next.digest.clone());
        let reference = format!("{}, the subject of {}", next.digest, artifact.reference);
        let opened =
            artifact::open(Arc::clone(&artifact.source), &name, &reference, &View::default()).await?;
        let more = pull_one(&opened, &output, options, progress).await?;
        pulled.files.extend(more.files);
        pulled.unnamed += more.unnamed;
        subject = opened.manifest.subject().cloned();
    }
    Ok(pulled)
}

async fn pull_one(
    artifact: &Artifact,
    output: &Output,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Pulled> {
    if !options.allow_path_traversal {
        refuse_escaping(&artifact.manifest)?;
    }
    progress.processing(&artifact.descriptor, artifact.manifest.media_type());
    let mut plan = Plan { concurrency: options.concurrency.max(1), ..Plan::default() };
    let root = Node::Folder(Arc::clone(&artifact.root));
    if options.paths.is_empty() {
        plan.add_root_layers(&artifact.manifest);
        plan.add(Vec::new(), root).await?;
    } else {
        for path in &options.paths {
            let node = tree::walk(&root, path.as_bytes()).await?;
            let clean = names::clean(path.as_bytes())
                .map_err(|why| Error::new(ErrorKind::Invalid, format!("{path:?}: {why}")))?;
            // A member asked for by name is listed, with the layer it lies in.
            if let Node::File(file) = &node
                && let (None, Some(layer)) = (file.whole_layer(), &file.layer)
            {
                plan.files.push((clean.components.clone(), Descriptor::clone(layer), false));
            }
            plan.add(clean.components, node).await?;
        }
    }
    plan.add_config(artifact, options)?;
    let unnamed = plan.count_left(&artifact.manifest, options);
    let work = Work { output, options, progress, source: &artifact.source };
    work.carry_out(&plan).await?;
    let files = plan.files.into_iter().map(|(names, descriptor, folder)| PulledFile {
        path: output.path(&names),
        descriptor,
        folder,
    });
    Ok(Pulled { files: files.collect(), unnamed })
}

/// Everything to do, in the tree's order, nothing on disk touched yet.
#[derive(Default)]
struct Plan {
    files: Vec<(Names, Descriptor, bool)>,
    folders: Vec<(Names, Arc<dyn Folder>)>,
    /// So many layers are looked into at a time.
    concurrency: usize,
    /// Files that are a blob, by digest: one transfer, however many names.
    blobs: BTreeMap<Digest, Vec<(Names, Arc<File>)>>,
    /// Other files, by the layer they lie in, to be read in one go.
    members: BTreeMap<Option<Digest>, Vec<(Names, Arc<File>)>>,
    links: Vec<(Names, Arc<Link>)>,
}

impl Plan {
    fn add(&mut self, names: Names, node: Node) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match node {
                Node::Link(link) => self.links.push((names, link)),
                Node::File(file) => {
                    if let Some(layer) = file.whole_layer().cloned() {
                        self.files.push((names.clone(), Descriptor::clone(&layer), false));
                        self.blobs.entry(layer.digest.clone()).or_default().push((names, file));
                    } else {
                        let layer = file.layer.as_ref().map(|layer| layer.digest.clone());
                        self.members.entry(layer).or_default().push((names, file));
                    }
                }
                Node::Folder(folder) => {
                    let entries = folder.list().await.doing(|| shown(&names))?;
                    let layer = folder.origin().filter(|origin| !origin.is_manifest());
                    if let (Some(origin), false) = (layer, names.is_empty()) {
                        self.files.push((names.clone(), origin.clone(), true));
                    }
                    self.folders.push((names.clone(), folder));
                    self.look_ahead(entries.values()).await;
                    for (name, node) in entries.iter() {
                        let mut below = names.clone();
                        below.push(name.clone());
                        self.add(below, node.clone()).await?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Enters several folders at once; who comes by later finds them open, or sees their error.
    async fn look_ahead(&self, nodes: impl Iterator<Item = &Node>) {
        let folders = nodes.filter_map(|node| match node {
            Node::Folder(folder) => Some(Arc::clone(folder)),
            _ => None,
        });
        let enter = |folder: Arc<dyn Folder>| async move {
            let _ = folder.list().await;
        };
        futures_util::stream::iter(folders).for_each_concurrent(self.concurrency, enter).await;
    }

    /// A layer that is unpacked to the output folder itself.
    fn add_root_layers(&mut self, manifest: &Manifest) {
        let Manifest::Image(image) = manifest else { return };
        let is_root = |layer: &&Descriptor| {
            layer.annotation("io.deis.oras.content.unpack") == Some("true")
                && layer.annotation(TITLE).is_some_and(|title| {
                    names::clean(title.as_bytes()).is_ok_and(|clean| clean.components.is_empty())
                })
        };
        let layers = image.layers.iter().filter(is_root);
        self.files.extend(layers.map(|layer| (Names::new(), layer.clone(), true)));
    }

    fn add_config(&mut self, artifact: &Artifact, options: &PullOptions) -> Result<()> {
        let (Some((path, kind)), Manifest::Image(image)) = (&options.config, &artifact.manifest) else {
            return Ok(());
        };
        let wanted = |config: &&Descriptor| {
            kind.as_ref().is_none_or(|kind| crate::oci::media_type::same(kind, &config.media_type))
        };
        let Some(config) = image.config.as_ref().filter(wanted) else { return Ok(()) };
        let raw = path.as_os_str().as_encoded_bytes();
        let clean = names::clean(raw)
            .map_err(|why| Error::new(ErrorKind::Invalid, format!("{}: {why}", path.display())))?;
        if (clean.escapes && !options.allow_path_traversal) || clean.components.is_empty() {
            return Err(output::traversal());
        }
        let layer = Arc::new(config.clone());
        let content = match config.inline() {
            Some(bytes) => Content::Inline(bytes),
            None => {
                Content::Blob { source: Arc::clone(&artifact.source), blob: Arc::clone(&layer), offset: 0 }
            }
        };
        let file = File {
            attributes: Attributes::FILE,
            id: tree::blob_id(&config.digest, Attributes::FILE.mode),
            size: config.size,
            links: 1,
            xattrs: None,
            content,
            layer: Some(layer),
        };
        self.files.push((clean.components.clone(), config.clone(), false));
        self.blobs.entry(config.digest.clone()).or_default().push((clean.components, Arc::new(file)));
        Ok(())
    }

    /// Layers and configs with content that have no name and are not among the files.
    fn count_left(&self, manifest: &Manifest, options: &PullOptions) -> usize {
        if !options.paths.is_empty() {
            return 0;
        }
        let unnamed = manifest
            .successors()
            .into_iter()
            .filter(|part| !part.is_manifest() && part.annotation(TITLE).is_none())
            .filter(|part| part.digest.as_str() != Digest::EMPTY_JSON && part.size > 0);
        unnamed.filter(|part| !self.blobs.contains_key(&part.digest)).count()
    }
}

struct Work<'a> {
    output: &'a Output,
    options: &'a PullOptions,
    progress: &'a dyn Progress,
    source: &'a Arc<dyn Source>,
}

impl Work<'_> {
    async fn carry_out(&self, plan: &Plan) -> Result<()> {
        if self.options.keep_old {
            self.refuse_existing(plan)?;
        }
        for (names, folder) in &plan.folders {
            let mode = folder.own_attributes().await?.map_or(0o777, |attributes| attributes.mode);
            let open = self.output.folder(names, mode)?;
            // One that an earlier pull left without permission to write: `finish_folder` takes it away again.
            if mode & 0o300 != 0o300 && !names.is_empty() {
                let mode = rustix::fs::Mode::from_raw_mode(mode | 0o700);
                rustix::fs::fchmod(&open, mode)
                    .doing(|| format!("open up {}", self.output.path(names).display()))?;
            }
        }
        let blobs = plan.blobs.values().map(|files| Box::pin(self.blob(files)) as BoxFuture<'_, Result<()>>);
        let members = plan.members.values().map(|files| Box::pin(self.members(files)) as BoxFuture<'_, _>);
        futures_util::stream::iter(blobs.chain(members))
            .buffer_unordered(self.options.concurrency.max(1))
            .try_collect::<()>()
            .await?;
        // A folder without files in it was pulled all the same.
        for (_, layer, _) in plan.files.iter().filter(|(.., folder)| *folder) {
            if !plan.members.contains_key(&Some(layer.digest.clone())) {
                self.progress.finished(layer, name_of(layer));
            }
        }
        for (names, link) in &plan.links {
            self.output.place(names)?.link_to(&link.target)?;
        }
        for (names, folder) in plan.folders.iter().rev() {
            self.finish_folder(names, folder.as_ref()).await?;
        }
        Ok(())
    }

    /// One blob under all its names.
    async fn blob(&self, files: &[(Names, Arc<File>)]) -> Result<()> {
        let Some(((names, file), others)) = files.split_first() else { return Ok(()) };
        let Some(layer) = file.whole_layer() else { return Ok(()) };
        let shown = shown(names);
        let place = self.output.place(names)?;
        match transfer::blob(self.source, layer, &place, &shown, self.progress)
            .await
            .doing(|| shown.clone())?
        {
            Outcome::Fetched => self.progress.finished(layer, &shown),
            Outcome::Right => self.progress.skipped(layer, &shown),
        }
        place.dress(file)?;
        let mut first = HashMap::from([(file.id, names)]);
        for (names, file) in others {
            let shown = self::shown(names);
            let new = self.output.place(names)?;
            if let Some(first) = first.get(&file.id).filter(|_| file.links > 1) {
                new.same_as(&self.output.place(first)?)?;
            } else {
                // What was dressed may not be readable any more, and a copy must not be one with it.
                transfer::copy(&place, self.output.place(names)?, layer).await.doing(|| shown.clone())?;
                new.dress(file)?;
                first.insert(file.id, names);
            }
            self.progress.restored(file.whole_layer().unwrap_or(layer), &shown);
        }
        Ok(())
    }

    /// The files of one layer, in the order they lie in it: a compressed one is read once through.
    async fn members(&self, files: &[(Names, Arc<File>)]) -> Result<()> {
        let mut ordered: Vec<&(Names, Arc<File>)> = files.iter().collect();
        ordered.sort_by_key(|(_, file)| file.position());
        let mut share = Share::of(files);
        let layer = files.first().and_then(|(_, file)| file.layer.clone());
        if let Some(layer) = &layer {
            self.progress.started(layer, name_of(layer));
        }
        let mut first: HashMap<u64, Place> = HashMap::new();
        for (names, file) in ordered {
            let place = self.output.place(names)?;
            if let Some(first) = first.get(&file.id).filter(|_| file.links > 1) {
                place.same_as(first)?;
                continue;
            }
            transfer::member(file, &place).await.doing(|| shown(names))?;
            if let Some(layer) = &layer {
                self.progress.advanced(layer, share.add(file.size, layer.size));
            }
            if file.links > 1 {
                first.insert(file.id, place);
            }
        }
        if let Some(layer) = &layer {
            self.progress.finished(layer, name_of(layer));
        }
        Ok(())
    }

    /// Gives a folder out of an archive its permissions and time, now that nothing more goes into it.
    async fn finish_folder(&self, names: &Names, folder: &dyn Folder) -> Result<()> {
        if let Some(xattrs) = folder.xattrs().filter(|_| !names.is_empty()) {
            output::set_xattrs(&self.output.folder(names, 0o777)?, xattrs, &self.output.path(names))?;
        }
        let Some(attributes) = folder.own_attributes().await?.filter(|_| !names.is_empty()) else {
            return Ok(());
        };
        let open = self.output.folder(names, attributes.mode)?;
        let path = self.output.path(names);
        let now = rustix::fs::fstat(&open).doing(|| format!("look at {}", path.display()))?.st_mode & 0o7777;
        // Taking bits away keeps what the umask took.
        if now & attributes.mode != now {
            let mode = rustix::fs::Mode::from_raw_mode(now & attributes.mode);
            rustix::fs::fchmod(&open, mode).doing(|| format!("set the mode of {}", path.display()))?;
        }
        output::set_owner(&open, attributes.owner, &path)?;
        if attributes.modified.0 > 0 {
            output::set_modified(&open, attributes.modified, &path)?;
        }
        Ok(())
    }

    fn refuse_existing(&self, plan: &Plan) -> Result<()> {
        let files = plan.blobs.values().chain(plan.members.values()).flatten().map(|(names, _)| names);
        for names in files.chain(plan.links.iter().map(|(names, _)| names)) {
            if self.output.place(names)?.kind()?.is_some() {
                return Err(output::overwrite().context(shown(names)));
            }
        }
        Ok(())
    }
}

/// How much of a layer counts as done when so much of what it unpacks to is: progress is told in the
/// layer's own bytes.
struct Share {
    total: u64,
    done: u64,
    told: u64,
}

impl Share {
    fn of(files: &[(Names, Arc<File>)]) -> Self {
        Self { total: files.iter().map(|(_, file)| file.size).sum::<u64>().max(1), done: 0, told: 0 }
    }

    fn add(&mut self, unpacked: u64, layer: u64) -> u64 {
        self.done = (self.done + unpacked).min(self.total);
        let now = (u128::from(layer) * u128::from(self.done) / u128::from(self.total)) as u64;
        let more = now - self.told;
        self.told = now;
        more
    }
}

fn name_of(layer: &Descriptor) -> &str {
    layer.annotation(TITLE).unwrap_or(&layer.media_type)
}

/// A title that leads outside is an attempt to, and refused before anything is written, as ORAS does.
fn refuse_escaping(manifest: &Manifest) -> Result<()> {
    let Manifest::Image(image) = manifest else { return Ok(()) };
    let titles = image.layers.iter().chain(&image.config).filter_map(|layer| layer.annotation(TITLE));
    for title in titles {
        if names::clean(title.as_bytes()).is_ok_and(|clean| clean.escapes) {
            return Err(output::traversal().context(format!("{title:?}")));
        }
    }
    Ok(())
}

fn shown(names: &[Vec<u8>]) -> String {
    if names.is_empty() {
        return ".".to_owned();
    }
    String::from_utf8_lossy(&names.join(&b'/')).into_owned()
}
