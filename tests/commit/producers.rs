//! Artifacts of other producers, told anew in their words.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::Duration;

use artifs::ErrorKind;
use artifs::mount::{CommitOptions, Ended};
use artifs::oci::{Digest, Manifest};
use artifs::store::{Body, Memory, SourceExt as _, Target};
use support::registry::Registry;
use support::seed::Artifact;

use crate::stand::{Stand, layers, listed, one, repository, tag, title};

const FILEPATH: &str = "org.cncf.model.filepath";
const METADATA: &str = "org.cncf.model.file.metadata+json";

/// A layer as modctl and others describe it.
fn model_file(artifact: Artifact, kind: &str, path: &str, content: &str) -> Artifact {
    let layer = artifact.unnamed(kind, content.as_bytes().to_vec());
    let name = path.rsplit('/').next().unwrap();
    let told = format!(
        r#"{{"name":"{name}","mode":384,"uid":1000,"gid":7,"size":{},"mtime":"2025-06-01T12:00:00Z","typeflag":48}}"#,
        content.len()
    );
    layer.layer_annotation(FILEPATH, path).layer_annotation(METADATA, &told)
}

async fn image(target: &dyn Target) -> artifs::oci::ImageManifest {
    match target.fetch_manifest(&tag("v1")).await.unwrap().1 {
        Manifest::Image(image) => image,
        Manifest::Index(_) => panic!("an index"),
    }
}

async fn config(target: &dyn Target) -> serde_json::Value {
    let config = image(target).await.config.unwrap();
    serde_json::from_slice(&target.fetch_all(&config, 1 << 20).await.unwrap()).unwrap()
}

fn told(layer: &artifs::oci::Descriptor) -> serde_json::Value {
    serde_json::from_str(&layer.annotations[METADATA]).unwrap()
}

const MODEL_CONFIG: &str = "application/vnd.cncf.model.config.v1+json";

fn model() -> Artifact {
    let weight = "application/vnd.cncf.model.weight.v1.raw";
    let mut artifact = model_file(Artifact::new(), weight, "m/a.safetensors", "aaa");
    artifact = model_file(artifact, "application/vnd.cncf.model.doc.v1.raw", "README.md", "read");
    artifact = model_file(artifact, "application/vnd.cncf.model.weight.config.v1.raw", "config.json", "{} ");
    let digests: Vec<String> = artifact.layers().map(|layer| layer.digest.to_string()).collect();
    let config = serde_json::json!({
        "descriptor": {"name": "m"}, "config": {"architecture": "x"},
        "modelfs": {"type": "layers", "diffIds": digests}, "later": 1,
    });
    artifact.kind("application/vnd.cncf.model.manifest.v1+json").config(MODEL_CONFIG, config.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_pack_is_told_anew() {
    let mut digests = Vec::new();
    for _ in 0..2 {
        let memory = Arc::new(Memory::new());
        model().tag("v1").push(memory.as_ref(), "r");
        let mut stand = Stand::new(Arc::clone(&memory) as _).await;
        let mode = |path: &str| stand.path(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("README.md"), stand.path("README.md").metadata().unwrap().mtime()),
            (0o600, 1_748_779_200)
        );
        fs::write(stand.path("config.json"), r#"{"edited":1}"#).unwrap();
        fs::rename(stand.path("README.md"), stand.path("m/NOTES.md")).unwrap();
        fs::set_permissions(stand.path("m/a.safetensors"), fs::Permissions::from_mode(0o444)).unwrap();
        fs::write(stand.path("m/run.py"), "run").unwrap();
        fs::set_permissions(stand.path("m/run.py"), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, seconds) in [("config.json", 1_750_000_000), ("m/run.py", 1_750_000_001)] {
            let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
            fs::File::options().write(true).open(stand.path(name)).unwrap().set_modified(time).unwrap();
        }
        let wanted = listed(&stand.at());
        let options = CommitOptions { created: Some(1_760_000_000), ..CommitOptions::default() };
        let done = one(stand.mounted().commit(&options, &()).await.unwrap());
        assert!(done.left_out.is_empty(), "{:?}", done.left_out);
        assert!(!one(stand.mounted().commit(&options, &()).await.unwrap()).changed);
        assert!(matches!(stand.unmount().await, Ended::Clean));
        stand.mount().await;
        assert_eq!(listed(&stand.at()), wanted);

        let now = layers(memory.as_ref(), "v1").await;
        let paths: Vec<&str> = now.iter().map(|layer| layer.annotations[FILEPATH].as_str()).collect();
        assert_eq!(paths, ["m/a.safetensors", "m/NOTES.md", "config.json", "m/run.py"]);
        assert_eq!(now[3].media_type, "application/vnd.cncf.model.code.v1.raw");
        let whole = serde_json::json!({
            "name": "config.json", "mode": 384, "uid": 1000, "gid": 7, "size": 12,
            "mtime": "2025-06-15T15:06:40Z", "typeflag": 48,
        });
        assert_eq!(told(&now[2]), whole);
        assert_eq!(
            (told(&now[0])["mode"].clone(), told(&now[1])["name"].clone()),
            (0o444.into(), "NOTES.md".into())
        );
        assert_eq!((told(&now[3])["mode"].clone(), told(&now[3])["size"].clone()), (0o755.into(), 3.into()));
        let config = config(memory.as_ref()).await;
        let listed: Vec<String> = now.iter().map(|layer| layer.digest.to_string()).collect();
        assert_eq!(config["modelfs"]["diffIds"], serde_json::json!(listed));
        assert_eq!((config["descriptor"]["name"].clone(), config["later"].clone()), ("m".into(), 1.into()));
        digests.push(done.digest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_producer_has_no_words_for_is_refused_by_name() {
    let registry = Registry::start();
    model().tag("v1").push(&registry, "r");
    let stand = Stand::new(repository(&registry)).await;
    fs::write(stand.path("config.json"), "edited").unwrap();
    std::os::unix::fs::symlink("config.json", stand.path("latest")).unwrap();
    let error = stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("latest"), "{error}");
    assert!(!registry.requests().iter().any(|request| request.method == "PUT" || request.method == "POST"));
}

/// Blob names stay titles, paths are the annotation's.
#[tokio::test(flavor = "multi_thread")]
async fn ramalama_keeps_its_titles_and_moves_its_paths() {
    let memory = Arc::new(Memory::new());
    let artifact = model_file(Artifact::new(), "application/octet-stream", "tiny.gguf", "gguf")
        .layer_annotation("org.opencontainers.image.title", "sha256-0f9c");
    artifact.tag("v1").push(memory.as_ref(), "r");
    let mut stand = Stand::new(Arc::clone(&memory) as _).await;
    fs::rename(stand.path("tiny.gguf"), stand.path("small.gguf")).unwrap();
    fs::write(stand.path("card"), "card").unwrap();
    let Ended::Published(_) = stand.unmount().await else { panic!("not published") };
    let now = layers(memory.as_ref(), "v1").await;
    assert_eq!((title(&now[0]), now[0].annotations[FILEPATH].as_str()), ("sha256-0f9c".into(), "small.gguf"));
    assert_eq!(title(&now[1]), format!("sha256-{}", Digest::of(b"card").encoded()));
    assert_eq!(now.len(), 2);
}

/// Configs with other words for the same thing.
#[tokio::test(flavor = "multi_thread")]
async fn digests_in_configs_follow_their_layers() {
    let kit = "application/vnd.kitops.modelkit.config.v1+json";
    let runner = "application/vnd.docker.ai.model.config.v0.2+json";
    for (kind, layer, pointer) in [
        (kit, "application/vnd.kitops.modelkit.docs.v1.raw", "/docs/0/digest"),
        (kit, "application/vnd.kitops.modelkit.docs.v1.raw", "/docs/0/diffId"),
        (runner, "application/vnd.docker.ai.model.file", "/rootfs/diff_ids/0"),
        ("application/vnd.wasm.config.v0+json", "application/wasm", "/layerDigests/0"),
    ] {
        let memory = Arc::new(Memory::new());
        let artifact = model_file(Artifact::new(), layer, "d/f", "before");
        let digest = artifact.layers().next().unwrap().digest.to_string();
        let config_before = serde_json::json!({
            "docs": [{"path": "d/f", "digest": digest, "diffId": digest}],
            "rootfs": {"type": "rootfs", "diff_ids": [digest]}, "layerDigests": [digest], "kept": {"z": 1, "a": 2},
        });
        artifact.config(kind, config_before.to_string()).tag("v1").push(memory.as_ref(), "r");
        let mut stand = Stand::new(Arc::clone(&memory) as _).await;
        fs::write(stand.path("d/f"), "after").unwrap();
        let Ended::Published(_) = stand.unmount().await else { panic!("{kind}: not published") };
        let now = config(memory.as_ref()).await;
        assert_eq!(now.pointer(pointer).unwrap(), Digest::of(b"after").as_str(), "{kind}");
        assert_eq!(now["kept"].to_string(), r#"{"z":1,"a":2}"#);
        stand.mount().await;
        assert_eq!(fs::read_to_string(stand.path("d/f")).unwrap(), "after");
    }
}

/// Some producers' manifests do not say what they are, and their readers expect that.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_was_silent_of_its_type_stays_so() {
    let memory = Arc::new(Memory::new());
    let artifact = Artifact::new().file("a", "a");
    artifact.push(memory.as_ref(), "r");
    let mut fields: serde_json::Value = serde_json::from_slice(&artifact.manifest().1).unwrap();
    fields.as_object_mut().unwrap().remove("mediaType");
    fields["later"] = serde_json::json!({"kept": true});
    let bytes = fields.to_string().into_bytes();
    let descriptor = artifs::oci::Descriptor::of(artifs::oci::media_type::IMAGE_MANIFEST, &bytes);
    memory.publish(&descriptor, &Body::Bytes(bytes.into()), &"v1".parse().unwrap()).await.unwrap();
    let mut stand = Stand::new(Arc::clone(&memory) as _).await;
    fs::write(stand.path("a"), "b").unwrap();
    assert!(matches!(stand.unmount().await, Ended::Published(_)));
    let now: serde_json::Value = serde_json::from_slice(&image(memory.as_ref()).await.raw).unwrap();
    assert!(now.get("mediaType").is_none());
    assert_eq!(now["later"]["kept"], true);
}
