//! Artifacts whose configs or annotations tell of their layers, told anew (formats.md §7).
//!
//! Understood are layers that are files byte for byte, so that a layer's digest is also that of its content: what
//! modctl, Docker Model Runner, `RamaLama` and, with raw layers, `KitOps` make. What such an artifact has no words for is
//! refused before anything is sent.

use std::collections::HashMap;

use serde_json::Value;

use super::items::Item;
use crate::artifact::attributes::is_attributes;
use crate::artifact::pack::{ConfigPart, Draft, LayerPart, TITLE};
use crate::artifact::producers::{FILE_METADATA, FILE_PATHS, file_path};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, ImageManifest, go_json, media_type};
use crate::store::Body;

/// Configs that list the digests of what is in each layer, and where.
const LISTS: [(&str, &str); 5] = [
    ("application/vnd.cncf.model.config.v1+json", "/modelfs/diffIds"),
    ("application/vnd.cnai.model.config.v1+json", "/modelfs/diffIds"),
    ("application/vnd.docker.ai.model.config.v0.1+json", "/rootfs/diff_ids"),
    ("application/vnd.docker.ai.model.config.v0.2+json", "/rootfs/diff_ids"),
    ("application/vnd.wasm.config.v0+json", "/layerDigests"),
];
/// A config with an entry for each layer, wherever in it.
const KITOPS: &str = "application/vnd.kitops.modelkit.config.v1+json";

/// Says how a producer writes, if it is one whose artifacts tell of their layers.
#[derive(Clone, Copy)]
pub(super) struct Habits<'a> {
    base: &'a ImageManifest,
    kind: &'a str,
}

impl<'a> Habits<'a> {
    /// Those of an artifact; `None` if it is one like ORAS's.
    pub(super) fn of(base: &'a ImageManifest) -> Option<Self> {
        let kind = base.config.as_ref().map_or("", |config| media_type::essence(&config.media_type));
        let lists = LISTS.iter().any(|(known, _)| media_type::same(known, kind));
        let words = base.layers.iter().any(has_path) && !base.layers.iter().any(is_attributes);
        let tells = lists || media_type::same(kind, KITOPS) || words;
        tells.then_some(Self { base, kind })
    }

    /// Whether the config has to be known.
    pub(super) fn tells_in_config(&self) -> bool {
        self.list().is_some() || self.is_kitops()
    }

    fn list(&self) -> Option<&'static str> {
        LISTS.iter().find(|(known, _)| media_type::same(known, self.kind)).map(|(_, list)| *list)
    }

    fn is_kitops(&self) -> bool {
        media_type::same(self.kind, KITOPS)
    }

    /// Why no commit of it would be right, if none would.
    pub(super) fn obstacle(&self) -> Option<String> {
        let packed = |layer: &&Descriptor| {
            let kind = media_type::essence(&layer.media_type);
            (kind.contains(".model.") || kind.contains(".modelkit.") || kind.contains("docker.ai."))
                && [".tar", "+gzip", "+zstd"].iter().any(|end| kind.contains(end))
        };
        let layer = self.base.layers.iter().find(packed)?;
        Some(format!(
            "its layer {} ({}) is packed, and cannot be packed anew",
            layer.digest, layer.media_type
        ))
    }

    /// The layer of a file nobody published yet.
    pub(super) fn new_layer(&self, path: &str) -> Result<Descriptor> {
        let refused = |why: &str| Error::new(ErrorKind::Unsupported, format!("{path}: {why}"));
        if self.is_kitops() {
            return Err(refused("a new file needs a place in the Kitfile; add it with kit pack"));
        }
        let Some(beside) = self.base.layers.iter().find(|layer| has_path(layer)) else {
            return Err(refused("a new file has no name in an artifact of this kind"));
        };
        let kind = media_type::essence(&beside.media_type);
        let media_type = match kind.split_once(".model.") {
            Some((before, _)) if kind.rsplit_once('.').is_some_and(|(_, end)| end == "raw") => {
                format!("{before}.model.{}.v1.raw", category(path))
            }
            _ if kind.contains("docker.ai.model.file") => kind.to_owned(),
            _ if kind.contains("vnd.docker.ai.") => {
                return Err(refused("an artifact of docker model has no place for another file"));
            }
            _ => media_type::OCTET_STREAM.to_owned(),
        };
        let mut layer = Descriptor::new(media_type, Digest::of(b""), 0);
        layer.annotations.clone_from(&beside.annotations);
        Ok(layer)
    }

    /// Says of a layer what its file is now. For layers that are new or changed, their digests known.
    pub(super) fn describe(layer: &mut Descriptor, item: &About) -> Result<()> {
        let name = item.path.rsplit('/').next().unwrap_or_default();
        let before = FILE_PATHS.iter().find_map(|key| layer.annotations.get(*key)).cloned();
        for key in FILE_PATHS {
            if let Some(path) = layer.annotations.get_mut(key) {
                item.path.clone_into(path);
            }
        }
        match layer.annotations.get_mut(TITLE) {
            Some(title) if Some(&*title) == before.as_ref() => item.path.clone_into(title),
            // RamaLama's names of blobs.
            Some(title) if item.new && title.starts_with("sha256-") => {
                *title = format!("sha256-{}", layer.digest.encoded());
            }
            _ => {}
        }
        for key in FILE_METADATA {
            let Some(text) = layer.annotations.get_mut(key) else { continue };
            let mut told: Value = serde_json::from_str(text).map_err(|error| {
                let why = format!("{}: what is said of it is no JSON", item.path);
                Error::with_source(ErrorKind::Unsupported, why, error)
            })?;
            let time =
                jiff::Timestamp::new(item.modified.0, item.modified.1.cast_signed()).unwrap_or_default();
            told["name"] = name.into();
            told["size"] = layer.size.into();
            told["mode"] = (told["mode"].as_u64().unwrap_or(0) & !0o777 | u64::from(item.mode)).into();
            told["mtime"] = time.to_string().into();
            *text = String::from_utf8_lossy(&go_json(&told)?).into_owned();
        }
        Ok(())
    }

    /// Makes the config tell of the draft's layers. `config` is the base's.
    pub(super) fn tell(&self, config: &[u8], draft: &mut Draft) -> Result<()> {
        let unsaid =
            |why: &str| Error::new(ErrorKind::Unsupported, format!("its config ({}): {why}", self.kind));
        let Some(before) = &self.base.config else { return Ok(()) };
        let mut told: Value = serde_json::from_slice(config).map_err(|_| unsaid("it is no JSON"))?;
        let now: Vec<&Descriptor> = draft.layers.iter().map(LayerPart::descriptor).collect();
        let same = now.len() == self.base.layers.len()
            && now.iter().zip(&self.base.layers).all(|(now, then)| now.digest == then.digest);
        if same {
            draft.config = ConfigPart::Part(LayerPart::Known(before.clone()));
            return Ok(());
        }
        let gguf = |layer: &Descriptor| layer.media_type.contains("docker.ai.gguf");
        let left = |layer: &&Descriptor| now.iter().any(|now| now.digest == layer.digest);
        if told.pointer("/config/gguf").is_some()
            && let Some(layer) = self.base.layers.iter().find(|layer| gguf(layer) && !left(layer))
        {
            return Err(unsaid(&format!("it describes the model that was {}", layer.digest)));
        }
        if self.is_kitops() {
            let pairs = now.iter().zip(&self.base.layers).filter(|_| now.len() == self.base.layers.len());
            let digests: HashMap<String, String> =
                pairs.map(|(now, then)| (then.digest.to_string(), now.digest.to_string())).collect();
            if digests.is_empty() {
                return Err(unsaid("a file that is gone needs another Kitfile; take it out with kit pack"));
            }
            replace(&mut told, &digests);
        } else if let Some(list) = self.list().and_then(|list| told.pointer_mut(list)) {
            let listed = list.as_array().map_or(0, Vec::len);
            if listed != self.base.layers.len() {
                let why = format!("it lists {listed} layers, and there are {}", self.base.layers.len());
                return Err(unsaid(&why));
            }
            *list = now.iter().map(|layer| Value::from(layer.digest.as_str())).collect();
        }
        let bytes = go_json(&told)?;
        let mut descriptor = Descriptor { data: None, urls: None, ..before.clone() };
        (descriptor.digest, descriptor.size) = (Digest::of(&bytes), bytes.len() as u64);
        draft.config = ConfigPart::Part(LayerPart::New { descriptor, body: Body::Bytes(bytes.into()) });
        Ok(())
    }
}

/// What is to be said of a file.
#[derive(Clone)]
pub(super) struct About {
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) modified: (i64, u32),
    pub(super) new: bool,
}

impl About {
    pub(super) fn of(item: &Item) -> Self {
        let path = String::from_utf8_lossy(&item.path).into_owned();
        Self { path, mode: item.mode, modified: item.modified, new: false }
    }
}

/// Whether a layer says where its file is.
pub(super) fn has_path(layer: &Descriptor) -> bool {
    file_path(layer).is_some()
}

/// Whether a layer says its file's mode.
pub(super) fn has_metadata(layer: &Descriptor) -> bool {
    FILE_METADATA.iter().any(|key| layer.annotation(key).is_some())
}

/// What `ModelPack` calls a file of this name.
fn category(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    match end {
        "safetensors" | "gguf" | "bin" | "pt" | "pth" | "onnx" | "h5" | "ckpt" => "weight",
        "json" | "yaml" | "yml" | "toml" | "jinja" | "model" | "txt" | "tiktoken" => "weight.config",
        "py" | "sh" | "ipynb" | "js" | "rs" | "go" | "c" | "cpp" => "code",
        "csv" | "parquet" | "arrow" | "jsonl" | "tsv" => "dataset",
        _ => "doc",
    }
}

fn replace(value: &mut Value, digests: &HashMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "digest" || key == "diffId" => {
                        if let Some(new) = digests.get(text) {
                            text.clone_from(new);
                        }
                    }
                    value => replace(value, digests),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| replace(value, digests)),
        _ => {}
    }
}
