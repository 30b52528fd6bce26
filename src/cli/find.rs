//! What a path means inside an artifact, links followed.

use artifs::artifact::tree::Node;
use artifs::error::{Error, ErrorKind, Result};

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// The node at `path` below `root`. Links on the way are followed, and one at the end if `last` says so.
/// `..` at the root stays there, so nothing leads outside.
pub(super) async fn find(root: &Node, path: &[u8], last: bool) -> Result<Node> {
    let missing = || {
        Error::new(
            ErrorKind::NotFound,
            format!("{:?}: no such file or directory", String::from_utf8_lossy(path)),
        )
    };
    let mut ahead: Vec<Vec<u8>> = components(path);
    let mut way = vec![root.clone()];
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if name == b".." {
            way.truncate(way.len().saturating_sub(1).max(1));
            continue;
        }
        let Some(Node::Folder(folder)) = way.last() else {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{:?}: not a directory", String::from_utf8_lossy(path)),
            ));
        };
        match folder.lookup(&name).await?.ok_or_else(missing)? {
            Node::Link(link) if last || !ahead.is_empty() => {
                links += 1;
                if links > MOST_LINKS {
                    let message =
                        format!("{:?}: too many levels of symbolic links", String::from_utf8_lossy(path));
                    return Err(Error::new(ErrorKind::Invalid, message));
                }
                if link.target.starts_with(b"/") {
                    way.truncate(1);
                }
                ahead.extend(components(&link.target));
            }
            node => way.push(node),
        }
    }
    way.pop().ok_or_else(missing)
}

/// Last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.rev().map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use artifs::artifact::tree::{Attributes, Content, Entries, File, Link, Plain, stable_id};

    use super::*;

    fn folder(entries: impl IntoIterator<Item = (&'static str, Node)>) -> Node {
        let entries: Entries =
            entries.into_iter().map(|(name, node)| (name.as_bytes().to_vec(), node)).collect();
        Node::Folder(Arc::new(Plain { attributes: Attributes::FOLDER, id: 2, entries: Arc::new(entries) }))
    }

    fn file(text: &'static str) -> Node {
        Node::File(Arc::new(File {
            attributes: Attributes::FILE,
            id: stable_id(&[text.as_bytes()]),
            size: text.len() as u64,
            links: 1,
            xattrs: None,
            content: Content::Inline(text.into()),
            layer: None,
        }))
    }

    fn link(target: &str) -> Node {
        Node::Link(Arc::new(Link { attributes: Attributes::FILE, id: 3, target: target.into() }))
    }

    #[tokio::test]
    async fn links_lead_anywhere_inside_and_nowhere_else() {
        let root = folder([
            (
                "a",
                folder([("b", folder([("f", file("deep")), ("up", link("../../top"))])), ("l", link("b"))]),
            ),
            ("top", file("top")),
            ("out", link("../../../top")),
            ("abs", link("/a/b/f")),
            ("circle", link("circle")),
        ]);
        for (path, text) in [
            ("a/b/f", "deep"),
            ("/a/./b//f", "deep"),
            ("a/l/f", "deep"),
            ("a/l/up", "top"),
            ("out", "top"),
            ("abs", "deep"),
            ("a/../top", "top"),
            ("../../top", "top"),
        ] {
            let found = find(&root, path.as_bytes(), true).await.unwrap();
            assert_eq!(found.id(), stable_id(&[text.as_bytes()]), "{path}");
        }
        for (path, why) in [
            ("a/x", "no such file or directory"),
            ("top/x", "not a directory"),
            ("circle", "too many levels of symbolic links"),
        ] {
            let error = find(&root, path.as_bytes(), true).await.err().unwrap();
            assert_eq!(error.to_string(), format!("{path:?}: {why}"));
        }
        assert!(matches!(find(&root, b"a/l", false).await.unwrap(), Node::Link(_)));
    }
}
