//! Looking at an artifact's tree.

use std::sync::Arc;

use artifs::artifact::tree::{self, Node};
use artifs::artifact::{Artifact, File};
use futures_util::future::BoxFuture;

/// Every path below a folder: folders with a `/`, links with their targets.
fn paths(prefix: String, node: Node) -> BoxFuture<'static, Vec<String>> {
    Box::pin(async move {
        match node {
            Node::File(_) => vec![prefix],
            Node::Link(link) => vec![format!("{prefix} -> {}", String::from_utf8_lossy(&link.target))],
            Node::Folder(folder) => {
                let mut all = if prefix.is_empty() { vec![] } else { vec![format!("{prefix}/")] };
                for (name, node) in folder.list().await.unwrap().iter() {
                    let name = String::from_utf8_lossy(name);
                    let below =
                        if prefix.is_empty() { name.into_owned() } else { format!("{prefix}/{name}") };
                    all.extend(paths(below, node.clone()).await);
                }
                all
            }
        }
    })
}

pub(crate) fn root(artifact: &Artifact) -> Node {
    Node::Folder(Arc::clone(&artifact.root))
}

pub(crate) async fn tree_of(artifact: &Artifact) -> Vec<String> {
    paths(String::new(), root(artifact)).await
}

pub(crate) async fn file(artifact: &Artifact, path: &str) -> Arc<File> {
    match tree::walk(&root(artifact), path.as_bytes()).await.unwrap() {
        Node::File(file) => file,
        _ => panic!("{path} is no file"),
    }
}

pub(crate) async fn content(artifact: &Artifact, path: &str) -> Vec<u8> {
    let file = file(artifact, path).await;
    file.reader().unwrap().read(0..file.size).await.unwrap().to_vec()
}

pub(crate) fn rules(artifact: &Artifact) -> Vec<&'static str> {
    artifact.warnings.list().into_iter().map(|warning| warning.rule).collect()
}
