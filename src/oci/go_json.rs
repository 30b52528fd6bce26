//! JSON as Go's `encoding/json` writes it, to the byte.
//!
//! Digests are made of bytes: what ORAS and everybody else who uses Go would write, we write. Compact, and with
//! `<`, `>`, `&`, U+2028 and U+2029 escaped. Field order is the value's own.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use crate::error::{Error, ErrorKind, Result};

/// `value` as Go would write it.
pub fn go_json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, Go))
        .map_err(|error| Error::with_source(ErrorKind::Invalid, "write JSON", error))?;
    Ok(bytes)
}

struct Go;

impl Formatter for Go {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        let mut rest = text;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let escaped = rest[at..].chars().next().unwrap_or_default();
            write!(writer, "\\u{:04x}", u32::from(escaped))?;
            rest = &rest[at + escaped.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_html_would_trip_over_is_escaped() {
        let text =
            String::from_utf8(go_json(&"<a> & \u{2028}\u{2029}é\u{7f}\"\\\n\u{1}\u{8}").unwrap()).unwrap();
        let expected = "\"\\u003ca\\u003e \\u0026 \\u2028\\u2029é\u{7f}\\\"\\\\\\n\\u0001\\b\"";
        assert_eq!(text, expected);
    }
}
