//! Names from outside, made safe (formats.md R10).

use super::tree::FileName;
use crate::oci::Digest;

/// The deepest path shown (formats.md R20).
pub const MAX_DEPTH: usize = 256;
/// The longest path taken as it is; Linux refuses longer ones in one call anyway.
const MAX_PATH: usize = 4096;
/// The longest name Linux tools expect (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// A path as components that are safe to show, and what had to be done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clean {
    /// Every one a valid [`FileName`]. None at all means the root (`.`).
    pub components: Vec<FileName>,
    /// What was changed beyond spelling, for a warning.
    pub change: Option<&'static str>,
    /// Whether the path as it was written leads outside: absolute, or up with `..`.
    pub escapes: bool,
}

/// Cleans a path from a manifest or an archive. `Err` says why there is no safe way to read it.
///
/// Promised whatever the input: no component is empty, `.` or `..`, none contains `/` or NUL, none is
/// longer than 255 bytes, and there are at most [`MAX_DEPTH`] of them. So joined to any folder the result
/// lies below that folder.
pub fn clean(raw: &[u8]) -> Result<Clean, &'static str> {
    if raw.contains(&0) {
        return Err("it contains a NUL byte");
    }
    if raw.len() > MAX_PATH {
        return Err("the path is longer than 4096 bytes");
    }
    let mut components: Vec<FileName> = Vec::new();
    let mut escapes = raw.starts_with(b"/");
    let mut change = escapes.then_some("the leading \"/\" was removed");
    for part in raw.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if components.pop().is_none() {
                    escapes = true;
                    change = Some("\"..\" that would lead outside was dropped");
                }
            }
            part if part.len() > MAX_NAME => {
                components.push(shorten(part));
                change = Some("a name longer than 255 bytes was shortened");
            }
            part => components.push(part.to_vec()),
        }
    }
    if components.len() > MAX_DEPTH {
        return Err("it is deeper than 256 folders");
    }
    Ok(Clean { components, change, escapes })
}

/// One safe name out of any text: for folders named after platforms, references, types.
pub fn single(text: &str) -> Option<FileName> {
    let name: Vec<u8> = text.bytes().map(|byte| if matches!(byte, b'/' | 0) { b'-' } else { byte }).collect();
    match name.as_slice() {
        b"" | b"." | b".." => None,
        long if long.len() > MAX_NAME => Some(shorten(long)),
        _ => Some(name),
    }
}

/// What a layer without a usable name is called: `sha256-<hex>`.
pub fn of_digest(digest: &Digest) -> FileName {
    let name = format!("{}-{}", digest.algorithm(), digest.encoded()).into_bytes();
    if name.len() > MAX_NAME { shorten(&name) } else { name }
}

/// The name a file gets when a folder takes its place: `name~<8 hex>`.
pub fn beside(name: &[u8], mark: &[u8]) -> FileName {
    let mut made = [name, b"~", &Digest::of(mark).encoded().as_bytes()[..8]].concat();
    if made.len() > MAX_NAME {
        made = shorten(&made);
    }
    made
}

/// The first bytes of a long name, a hash of all of it, and its extension if that is short.
fn shorten(name: &[u8]) -> FileName {
    let mut end = 240.min(name.len());
    while end > 0 && name.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    // Not UTF-8: there is no boundary to look for.
    if end == 0 {
        end = 240.min(name.len());
    }
    let extension = name.iter().rposition(|byte| *byte == b'.').map_or(&b""[..], |dot| &name[dot..]);
    let extension = if extension.len() <= 6 { extension } else { b"" };
    [&name[..end], b"~", &Digest::of(name).encoded().as_bytes()[..8], extension].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(raw: &str) -> String {
        let clean = clean(raw.as_bytes()).unwrap();
        clean.components.iter().map(|name| String::from_utf8_lossy(name)).collect::<Vec<_>>().join("/")
    }

    #[test]
    fn paths_come_out_clean() {
        for (raw, expected) in [
            ("a", "a"),
            ("./a//b/./c/", "a/b/c"),
            ("/etc/passwd", "etc/passwd"),
            ("../../x", "x"),
            ("a/../../b", "b"),
            ("a\\..\\b", "a\\..\\b"),
            (".", ""),
            ("", ""),
            ("...", "..."),
        ] {
            assert_eq!(joined(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn what_cannot_be_shown_is_refused() {
        assert!(clean(b"a\0b").is_err());
        assert!(clean(&b"a/".repeat(300)).is_err());
        assert!(clean(&[b'a'; 5000]).is_err());
    }

    #[test]
    fn long_names_stay_apart_and_keep_their_extension() {
        let (one, two) = (format!("{}1.json", "é".repeat(200)), format!("{}2.json", "é".repeat(200)));
        let (one, two) = (joined(&one), joined(&two));
        assert_ne!(one, two);
        assert!(one.len() <= 255 && one.contains(".json") && !one.contains('\u{fffd}'), "{one}");
    }

    proptest! {
        #[test]
        fn no_path_escapes(raw in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), Just(b'a'), any::<u8>()], 0..600)) {
            if let Ok(clean) = clean(&raw) {
                prop_assert!(clean.components.len() <= MAX_DEPTH);
                for name in clean.components {
                    prop_assert!(!name.is_empty() && name.len() <= 255);
                    prop_assert!(name != b"." && name != b"..");
                    prop_assert!(!name.contains(&b'/') && !name.contains(&0));
                }
            }
        }

        #[test]
        fn a_single_name_is_one_component(text in any::<String>()) {
            if let Some(name) = single(&text) {
                prop_assert_eq!(clean(&name).unwrap().components, vec![name]);
            }
        }
    }
}
