//! The house plan, held: who may use whom, and who may say what.
//!
//! Reads `src/**/*.rs` as text. Comments and literals are blanked first, so only code counts.

use std::path::Path;

/// The library's modules, lowest first. A module uses only itself and those before it.
const LAYERS: [&str; 9] =
    ["error", "oci", "store", "registry", "cache", "artifact", "ops", "mount", "location"];

/// Uses the order would allow and the plan does not.
const FORBIDDEN: [(&str, &str); 6] = [
    ("cache", "registry"),
    ("artifact", "registry"),
    ("ops", "registry"),
    ("mount", "registry"),
    ("artifact", "cache"),
    ("ops", "cache"),
];

/// The only files that may say these words, or the modules: a file and the folder beside it.
const SPOKEN_ONCE: [(&str, &str); 2] = [("reqwest", "src/registry/http.rs"), ("fuser", "src/mount/fuse")];

/// What the library leaves to the program around it.
const NOT_IN_THE_LIBRARY: [&str; 7] =
    ["println!", "eprintln!", "print!", "eprint!", "runtime::Builder", "Runtime::new", "process::exit"];

/// Names that say nothing.
const NO_NOUNS: [&str; 6] = ["util", "utils", "helper", "helpers", "common", "misc"];

#[test]
fn the_sources_follow_the_plan() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut files = 0;
    for entry in walkdir::WalkDir::new(root.join("src")) {
        let entry = entry.unwrap();
        if entry.path().extension().is_some_and(|extension| extension == "rs") {
            files += 1;
            let name = entry.path().strip_prefix(root).unwrap().to_str().unwrap();
            found.extend(violations(name, &std::fs::read_to_string(entry.path()).unwrap()));
        }
    }
    assert!(files > 10, "only {files} sources found");
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Everything wrong with one file.
fn violations(path: &str, source: &str) -> Vec<String> {
    let code = blank(source);
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').skip(1).collect();
    let mut found = Vec::new();
    let mut wrong = |what: String| found.push(format!("{path}: {what}"));

    for part in &parts {
        if NO_NOUNS.contains(part) {
            wrong(format!("\"{part}\" says nothing: give it a noun, or keep it beside its one user"));
        }
    }
    for (word, home) in SPOKEN_ONCE {
        let at_home = path == home
            || path.strip_prefix(home).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'));
        if !at_home && words(&code).any(|(_, found)| found == word) {
            wrong(format!("only {home} says {word}"));
        }
    }

    let in_program = parts[0] == "main" || parts[0] == "cli";
    if in_program {
        for (target, _) in uses_of(&code, "crate") {
            if target != "cli" {
                wrong(format!("the program sees the public API, not crate::{target}"));
            }
        }
        for (target, _) in uses_of(&code, "artifs") {
            if target == "registry" && !matches!(parts.last(), Some(&"login" | &"logout")) {
                wrong("only login and logout talk to a registry themselves".into());
            }
        }
        return found;
    }

    for word in NOT_IN_THE_LIBRARY {
        if mentions(&code, word) {
            wrong(format!("the library leaves {word} to the program"));
        }
    }
    if parts[0] == "lib" {
        return found;
    }
    let Some(own) = LAYERS.iter().position(|layer| *layer == parts[0]) else {
        wrong(format!("{} is not in the list of layers", parts[0]));
        return found;
    };
    let depth = parts.iter().filter(|part| **part != "mod").count();
    let through_crate = uses_of(&code, "crate").into_iter().map(|(target, _)| (target, true));
    let through_super =
        uses_of(&code, "super").into_iter().filter(|(_, n)| *n >= depth).map(|(target, _)| (target, false));
    for (target, from_root) in through_crate.chain(through_super) {
        match LAYERS.iter().position(|layer| *layer == target) {
            Some(layer) if layer > own => wrong(format!("{} is below {target}", LAYERS[own])),
            Some(_) if FORBIDDEN.contains(&(LAYERS[own], target.as_str())) => {
                wrong(format!("{} does not know {target}", LAYERS[own]));
            }
            None if from_root => wrong(format!("import by path, not crate::{target}")),
            // A layer below, or `super::X` with X no layer, which stays inside the module.
            _ => {}
        }
    }
    found
}

/// The first names below each `root::` in the code, groups opened: `crate::{a::b, c}` gives a and c.
/// With each, how many times `root` stood before it (`super::super::x`).
fn uses_of(code: &str, root: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, word) in words(code) {
        if word != root || code[..at].trim_end().ends_with("::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut times = 0;
        while let Some(after) = rest.trim_start().strip_prefix(root).map(str::trim_start)
            && let Some(after) = after.strip_prefix("::")
        {
            times += 1;
            rest = after;
        }
        if times > 0 {
            found.extend(heads(rest).into_iter().map(|head| (head, times)));
        }
    }
    found
}

/// The first name of a path, or of each path in a group.
fn heads(text: &str) -> Vec<String> {
    let text = text.trim_start();
    let Some(group) = text.strip_prefix('{') else {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        return vec![if end == 0 { text.chars().take(1).collect() } else { text[..end].to_owned() }];
    };
    let (mut found, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                if !group[start..at].trim().is_empty() {
                    found.extend(heads(&group[start..at]));
                }
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            // A layer below, or `super::X` with X no layer, which stays inside the module.
            _ => {}
        }
    }
    found
}

/// Identifiers with where they begin.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// Whether `text` stands in the code and is not the end of a longer word.
fn mentions(code: &str, text: &str) -> bool {
    code.match_indices(text).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The source with comments and the insides of literals replaced by spaces.
fn blank(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = string(rest, out.chars().last()) {
            length
        } else if first == '\'' {
            // A lifetime has no closing quote right behind its first character.
            char_literal(rest).unwrap_or(0)
        } else {
            0
        };
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if text[at..].starts_with("*/") {
            (at, depth) = (at + 2, depth - 1);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a string literal beginning here, prefix included.
fn string(text: &str, before: Option<char>) -> Option<usize> {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let prefix = text.find(|c: char| !"bcr".contains(c)).filter(|length| *length <= 2)?;
    if prefix > 0 && in_word {
        return None;
    }
    if text[..prefix].contains('r') {
        let hashes = text[prefix..].find(|c| c != '#')?;
        let inside = text[prefix + hashes..].strip_prefix('"')?;
        let closing = format!("\"{}", "#".repeat(hashes));
        let end = inside.find(&closing)?;
        return Some(prefix + hashes + 1 + end + closing.len());
    }
    let inside = text[prefix..].strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(prefix + 1 + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

fn char_literal(text: &str) -> Option<usize> {
    let inside = &text[1..];
    if let Some(escape) = inside.strip_prefix('\\') {
        let after = escape.chars().next()?.len_utf8();
        return Some(2 + after + escape[after..].find('\'')? + 1);
    }
    let first = inside.chars().next()?.len_utf8();
    inside[first..].starts_with('\'').then_some(first + 2)
}

#[test]
fn the_checker_catches_what_it_is_for() {
    for (path, source) in [
        ("src/store/mod.rs", "use crate::registry::Registry;"),
        ("src/oci/digest.rs", "use crate::{error::Error, store::{Source, Body}};"),
        ("src/oci/mod.rs", "use super::store::Source;"),
        ("src/oci/digest.rs", "fn f() -> super::super::store::Body {}"),
        ("src/oci/digest.rs", "fn f() { crate :: mount :: go() }"),
        ("src/artifact/tree.rs", "use crate::cache::Cache;"),
        ("src/mount/mod.rs", "use crate::registry::Repository;"),
        ("src/ops/pull.rs", "use crate::{cache};"),
        ("src/registry/auth.rs", "use reqwest::Client;"),
        ("src/mount/names.rs", "fn f(request: &fuser::Request) {}"),
        ("src/store/memory.rs", "use crate::*;"),
        ("src/store/memory.rs", "use crate::Result;"),
        ("src/store/memory.rs", "fn f() { println!(\"{}\", '\"'); }"),
        ("src/cache/mod.rs", "let r = tokio::runtime::Builder::new_current_thread();"),
        ("src/cache/util.rs", ""),
        ("src/helpers/mod.rs", ""),
        ("src/main.rs", "use crate::store::Source;"),
        ("src/cli/ls.rs", "use artifs::registry::Registry;"),
        ("src/store/mod.rs", "const C: char = '\\''; use crate::mount::Mount; // '"),
        ("src/store/mod.rs", "fn f<'a>(s: &'a str) { crate::cache::x() }"),
    ] {
        assert!(!violations(path, source).is_empty(), "{path}: {source}");
    }
}

#[test]
fn the_checker_lets_pass_what_is_right() {
    for (path, source) in [
        ("src/location.rs", "use crate::{cache::Cache, registry::Registry, mount};"),
        (
            "src/store/mod.rs",
            "//! see crate::mount\n/* crate::mount /* nested */ fuser */ use crate::error::Result;",
        ),
        (
            "src/store/mod.rs",
            "const S: &str = \"crate::mount \\\" reqwest\"; const R: &[u8] = br#\"println!(\"\"#;",
        ),
        ("src/oci/manifest.rs", "mod tests { use super::super::Digest; }"),
        ("src/registry/http.rs", "use reqwest::Client;"),
        ("src/mount/fuse.rs", "use fuser::Filesystem;"),
        ("src/mount/mod.rs", "fn fusermount3() {}"),
        (
            "src/cli/login.rs",
            "use artifs::registry::credentials; use crate::cli::options; fn f() { println!() }",
        ),
        ("src/main.rs", "mod cli; use artifs::location; fn main() { crate::cli::run() }"),
    ] {
        assert_eq!(violations(path, source), Vec::<String>::new(), "{source}");
    }
}
