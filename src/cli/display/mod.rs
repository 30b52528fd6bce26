//! What a command says: text by the verb itself, or one value as JSON or through a template.

mod template;

use std::borrow::Cow;
use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::{Value, json};

use artifs::oci::Descriptor;

use super::failure::{Failure, Result};
pub(crate) use template::Template;

/// How a command's result is printed.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    /// As the verb words it.
    Text,
    /// JSON, indented by two spaces.
    Json,
    /// A Go template over the same value.
    Template(Template),
}

impl Shape {
    /// Whether the verb words its result itself.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self, Self::Text)
    }

    /// Prints `value`. Nothing for [`Shape::Text`].
    pub(crate) fn print(&self, value: &impl Serialize) -> Result<()> {
        let value = serde_json::to_value(value).map_err(|error| Failure::new(error.to_string()))?;
        let mut out = io::stdout().lock();
        match self {
            Self::Text => {}
            Self::Json => writeln!(out, "{value:#}")?,
            // No newline behind it, as in ORAS: a template says all that is to be printed.
            Self::Template(template) => {
                write!(out, "{}", template.render(&value).map_err(Failure::new)?)?;
            }
        }
        Ok(out.flush()?)
    }
}

/// A descriptor as ORAS shows it: where it is, its type, digest and size, its annotations.
pub(crate) fn descriptor(repository: &str, descriptor: &Descriptor) -> Value {
    let mut shown = json!({
        "reference": format!("{repository}@{}", descriptor.digest),
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    });
    if !descriptor.annotations.is_empty() {
        shown["annotations"] = json!(descriptor.annotations);
    }
    if let Some(kind) = &descriptor.artifact_type {
        shown["artifactType"] = json!(kind);
    }
    shown
}

/// A name from outside, fit for a terminal: what would speak to it is shown as `?`.
pub(crate) fn printable(name: &str) -> Cow<'_, str> {
    if name.contains(char::is_control) {
        Cow::Owned(name.replace(char::is_control, "?"))
    } else {
        Cow::Borrowed(name)
    }
}

/// A size for people: `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
