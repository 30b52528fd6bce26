//! Files ⇄ manifests. Knows media types and producers' habits, not registries.
