//! Makes an OCI layout for `scripts/demo`: a model of 1 GiB in the safetensors format, and a README.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use artifs::oci::{Descriptor, Digest, Hasher, Tag, media_type};
use artifs::store::{Body, Layout, Target as _};

/// 64 tensors of 16 MiB each.
const TENSORS: u64 = 64;
const TENSOR: u64 = 16 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: make_demo FOLDER")?;
    let layout = Layout::create(&folder)?;

    let draft = Path::new(&folder).join("model.draft");
    let (digest, size) = write_model(&draft)?;
    let mut model = Descriptor::new("application/vnd.safetensors", digest, size);
    name(&mut model, "model.safetensors");
    layout.push(&model, &Body::File(draft.clone())).await?;
    std::fs::remove_file(draft)?;

    let text: &[u8] = b"A model that was made up, in an OCI layout, shown as files.\n";
    let mut readme = Descriptor::of("text/markdown", text);
    name(&mut readme, "README.md");
    layout.push(&readme, &Body::Bytes(text.into())).await?;

    let config = Descriptor::of(media_type::EMPTY_JSON, b"{}");
    layout.push(&config, &Body::Bytes("{}".into())).await?;
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::IMAGE_MANIFEST,
        "artifactType": "application/vnd.example.model",
        "config": config,
        "layers": [model, readme],
        "annotations": {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
    }))?;
    let root = Descriptor::of(media_type::IMAGE_MANIFEST, &manifest);
    layout.push(&root, &Body::Bytes(manifest.into())).await?;
    layout.tag(&root, &"v1".parse::<Tag>()?).await?;
    Ok(())
}

fn name(layer: &mut Descriptor, title: &str) {
    layer.annotations.insert("org.opencontainers.image.title".into(), title.into());
}

/// The length of a header, the header, the tensors: numbers that do not compress, and are the same every time.
fn write_model(path: &Path) -> io::Result<(Digest, u64)> {
    let tensors: serde_json::Map<_, _> = (0..TENSORS)
        .map(|number| {
            let place = [number * TENSOR, (number + 1) * TENSOR];
            let tensor = serde_json::json!({"dtype": "BF16", "shape": [2048, 4096], "data_offsets": place});
            (format!("model.layers.{number}.mlp.weight"), tensor)
        })
        .collect();
    let mut header = serde_json::to_vec(&tensors)?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut file = BufWriter::new(File::create(path)?);
    let mut hasher = Hasher::for_algorithm("sha256").map_err(io::Error::other)?;
    let mut size = 0;
    let mut write = |bytes: &[u8]| {
        hasher.update(bytes);
        size += bytes.len() as u64;
        file.write_all(bytes)
    };
    write(&(header.len() as u64).to_le_bytes())?;
    write(&header)?;
    let mut state = 1_u64;
    let mut piece = vec![0; 1 << 20];
    for _ in 0..TENSORS * TENSOR / piece.len() as u64 {
        for word in piece.chunks_exact_mut(8) {
            // Weyl's sequence, mixed once: fast, and no two pieces are alike.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            word.copy_from_slice(&(state ^ (state >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes());
        }
        write(&piece)?;
    }
    file.flush()?;
    Ok((hasher.finish(), size))
}
