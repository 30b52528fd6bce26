//! Media types, and how they compare (formats.md R1b).

/// OCI image manifest.
pub const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The artifact manifest the image-spec withdrew; read, never written.
pub const ARTIFACT_MANIFEST: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// The artifact manifest ORAS used before that one; read, never written.
pub const ORAS_ARTIFACT_MANIFEST: &str = "application/vnd.cncf.oras.artifact.manifest.v1+json";
/// The two bytes `{}`: "there is nothing to say here".
pub const EMPTY_JSON: &str = "application/vnd.oci.empty.v1+json";
/// An OCI image's configuration.
pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer that is a tar, or, from ORAS, any file.
pub const IMAGE_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer that is a gzipped tar.
pub const IMAGE_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Bytes of any kind.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// What a manifest request says it can read, most wanted first, on one line (registry.md §2.1).
pub const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.artifact.manifest.v1+json";

/// The type without parameters and surrounding space.
pub fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// Whether two media types mean the same: parameters and letter case do not count.
pub fn same(one: &str, other: &str) -> bool {
    essence(one).eq_ignore_ascii_case(essence(other))
}

/// Whether this names an index or manifest list.
pub fn is_index(media_type: &str) -> bool {
    same(media_type, IMAGE_INDEX) || same(media_type, DOCKER_LIST)
}

/// Whether this names any manifest, index included.
pub fn is_manifest(media_type: &str) -> bool {
    is_index(media_type)
        || [IMAGE_MANIFEST, DOCKER_MANIFEST, ARTIFACT_MANIFEST, ORAS_ARTIFACT_MANIFEST]
            .iter()
            .any(|known| same(media_type, known))
}
