//! Reading a template: text, and actions between `{{` and `}}`.

use std::iter::Peekable;
use std::vec::IntoIter;

use serde_json::Value;

use super::functions;

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Text(String),
    Print(Pipeline),
    If { condition: Pipeline, then: Vec<Piece>, otherwise: Vec<Piece> },
    With { value: Pipeline, then: Vec<Piece>, otherwise: Vec<Piece> },
    Range { over: Pipeline, body: Vec<Piece>, otherwise: Vec<Piece> },
    Break,
    Continue,
}

/// `$a, $b := first | second`: each command gets the result of the one before as its last argument.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    pub(super) variables: Vec<String>,
    pub(super) assigns: bool,
    pub(super) commands: Vec<Vec<Term>>,
}

/// One word of a command, with the fields taken from it.
#[derive(Clone, Debug)]
pub(super) struct Term {
    pub(super) base: Base,
    pub(super) fields: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Literal(Value),
    Function(String),
    Group(Box<Pipeline>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Fields(Vec<String>),
    Dot,
    Variable(String),
    Literal(Value),
    Pipe,
    Open,
    Close,
    Comma,
    Declare,
    Assign,
    /// Space counts in one place only: `x.y` takes a field, `x .y` is two words.
    Space,
}

enum Section {
    Text(String),
    Action(usize, Vec<Token>),
}

type Parsed<T> = Result<T, String>;

/// How deep blocks and parentheses may be nested.
const DEEPEST: usize = 100;

/// The pieces of `text`; the error says the line.
pub(super) fn parse(text: &str) -> Parsed<Vec<Piece>> {
    let mut sections = sections(text)?.into_iter().peekable();
    let (pieces, end) = block(&mut sections, 0)?;
    match end {
        None => Ok(pieces),
        Some((line, _)) => Err(format!("{line}: unexpected {{{{end}}}} or {{{{else}}}}")),
    }
}

/// Cuts the template into text and actions, trimming where `{{-` and `-}}` ask for it.
fn sections(text: &str) -> Parsed<Vec<Section>> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some(at) = rest.find("{{") {
        let line = text[..text.len() - rest.len() + at].matches('\n').count() + 1;
        let mut before = &rest[..at];
        if trim {
            before = before.trim_start();
        }
        let mut inside = &rest[at + 2..];
        if let Some(trimmed) = inside.strip_prefix('-').filter(|rest| rest.starts_with(char::is_whitespace)) {
            before = before.trim_end();
            inside = trimmed;
        }
        found.push(Section::Text(before.to_owned()));
        let comment = inside.trim_start().strip_prefix("/*");
        if let Some((_, after)) = comment.and_then(|comment| comment.split_once("*/")) {
            let after = after.trim_start();
            trim = after.starts_with('-');
            rest = after
                .trim_start_matches('-')
                .strip_prefix("}}")
                .ok_or_else(|| format!("{line}: comment ends before closing delimiter"))?;
            continue;
        }
        let (tokens, after, trims) = action(inside).map_err(|why| format!("{line}: {why}"))?;
        found.push(Section::Action(line, tokens));
        (rest, trim) = (after, trims);
    }
    found.push(Section::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
    Ok(found)
}

/// The tokens of one action, what follows its `}}`, and whether that is to be trimmed.
fn action(text: &str) -> Parsed<(Vec<Token>, &str, bool)> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((tokens, after, false));
        }
        let Some(first) = rest.chars().next() else { return Err("unclosed action".into()) };
        if first.is_whitespace() {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix("-}}") {
                return Ok((tokens, after, true));
            }
            tokens.push(Token::Space);
            continue;
        }
        let (token, after) = token(rest, first)?;
        tokens.push(token);
        rest = after;
    }
}

fn token(text: &str, first: char) -> Parsed<(Token, &str)> {
    let one = |token| Ok((token, &text[first.len_utf8()..]));
    match first {
        '|' => one(Token::Pipe),
        '(' => one(Token::Open),
        ')' => one(Token::Close),
        ',' => one(Token::Comma),
        '=' => one(Token::Assign),
        ':' if text.starts_with(":=") => Ok((Token::Declare, &text[2..])),
        '"' => quoted(text),
        '`' => {
            let (inside, after) =
                text[1..].split_once('`').ok_or_else(|| "unterminated raw quoted string".to_owned())?;
            Ok((Token::Literal(inside.into()), after))
        }
        '.' => {
            let (names, after) = fields(text);
            Ok((if names.is_empty() { Token::Dot } else { Token::Fields(names) }, after))
        }
        '$' => {
            let (name, after) = word(&text[1..]);
            Ok((Token::Variable(name.to_owned()), after))
        }
        c if c.is_ascii_digit() || "+-".contains(c) => {
            let end = text[1..]
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '.')
                .map_or(text.len(), |end| end + 1);
            let (number, after) = text.split_at(end);
            let value = number.trim_start_matches('+').parse::<i64>().map(Value::from).ok();
            let value = value.or_else(|| number.parse::<f64>().ok().map(Value::from));
            value
                .map(|value| (Token::Literal(value), after))
                .ok_or_else(|| format!("bad number syntax: {number:?}"))
        }
        c if c.is_alphabetic() || c == '_' => {
            let (name, after) = word(text);
            let token = match name {
                "true" => Token::Literal(true.into()),
                "false" => Token::Literal(false.into()),
                "nil" => Token::Literal(Value::Null),
                name => Token::Word(name.to_owned()),
            };
            Ok((token, after))
        }
        other => Err(format!("unexpected {other:?} in action")),
    }
}

fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len()))
}

/// `.a.b.c`
fn fields(mut text: &str) -> (Vec<String>, &str) {
    let mut names = Vec::new();
    while let Some(after) = text.strip_prefix('.') {
        let (name, rest) = word(after);
        text = rest;
        if name.is_empty() {
            break;
        }
        names.push(name.to_owned());
    }
    (names, text)
}

/// `"…"` with Go's escapes, of which JSON knows all that matter.
fn quoted(text: &str) -> Parsed<(Token, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\n' => break,
            '"' => {
                let value: String =
                    serde_json::from_str(&text[..=at]).map_err(|_| format!("bad string {}", &text[..=at]))?;
                return Ok((Token::Literal(value.into()), &text[at + 1..]));
            }
            _ => {}
        }
    }
    Err("unterminated quoted string".into())
}

type Sections = Peekable<IntoIter<Section>>;
/// The `end` or `else` a block stopped at, and its line. `None`: the template's end.
type Stop = Option<(usize, Vec<Token>)>;
type Tokens = Peekable<IntoIter<Token>>;

/// Pieces up to the end or to an `end` or `else`, which is handed back with what follows it.
fn block(sections: &mut Sections, depth: usize) -> Parsed<(Vec<Piece>, Stop)> {
    let mut pieces = Vec::new();
    while let Some(section) = sections.next() {
        let (line, tokens) = match section {
            Section::Text(text) => {
                if !text.is_empty() {
                    pieces.push(Piece::Text(text));
                }
                continue;
            }
            Section::Action(line, tokens) => (line, tokens),
        };
        let mut words = tokens.iter().filter(|token| **token != Token::Space);
        match words.next() {
            Some(Token::Word(word)) if word == "end" || word == "else" => {
                return Ok((pieces, Some((line, tokens))));
            }
            None => return Err(format!("{line}: missing value for command")),
            Some(_) => pieces.push(piece(line, tokens, sections, depth)?),
        }
    }
    Ok((pieces, None))
}

fn piece(line: usize, tokens: Vec<Token>, sections: &mut Sections, depth: usize) -> Parsed<Piece> {
    if depth > DEEPEST {
        return Err(format!("{line}: blocks are nested too deep"));
    }
    let mut tokens = tokens.into_iter().peekable();
    skip(&mut tokens);
    let keyword = match tokens.peek() {
        Some(Token::Word(word)) => word.clone(),
        _ => String::new(),
    };
    let blocks = matches!(keyword.as_str(), "if" | "with" | "range");
    if blocks || keyword == "break" || keyword == "continue" {
        tokens.next();
    }
    match keyword.as_str() {
        "break" => return Ok(Piece::Break),
        "continue" => return Ok(Piece::Continue),
        "define" | "template" | "block" => {
            return Err(format!("{line}: {{{{{keyword}}}}} is not supported"));
        }
        _ => {}
    }
    let pipeline = pipeline(&mut tokens, depth).map_err(|why| format!("{line}: {why}"))?;
    if !blocks {
        return Ok(Piece::Print(pipeline));
    }
    let (then, end) = block(sections, depth + 1)?;
    let otherwise = otherwise(line, &keyword, end, sections, depth)?;
    Ok(match keyword.as_str() {
        "if" => Piece::If { condition: pipeline, then, otherwise },
        "with" => Piece::With { value: pipeline, then, otherwise },
        _ => Piece::Range { over: pipeline, body: then, otherwise },
    })
}

/// What follows `else`; `else if` is one more block that shares the `end`.
fn otherwise(
    line: usize,
    keyword: &str,
    end: Stop,
    sections: &mut Sections,
    depth: usize,
) -> Parsed<Vec<Piece>> {
    let Some((at, tokens)) = end else { return Err(format!("{line}: {{{{{keyword}}}}} has no {{{{end}}}}")) };
    let mut tokens = tokens.into_iter().filter(|token| *token != Token::Space).peekable();
    if tokens.next() == Some(Token::Word("end".into())) {
        return Ok(Vec::new());
    }
    if tokens.peek().is_some() {
        // Spaces were dropped to look ahead; between words they only ever part, so one each is as good.
        let nested = tokens.flat_map(|token| [Token::Space, token]).collect();
        return Ok(vec![piece(at, nested, sections, depth + 1)?]);
    }
    let (pieces, end) = block(sections, depth + 1)?;
    match end {
        Some((_, tokens)) if tokens.contains(&Token::Word("end".into())) => Ok(pieces),
        _ => Err(format!("{at}: {{{{else}}}} has no {{{{end}}}}")),
    }
}

fn skip(tokens: &mut Tokens) {
    while tokens.next_if_eq(&Token::Space).is_some() {}
}

fn pipeline(tokens: &mut Tokens, depth: usize) -> Parsed<Pipeline> {
    if depth > DEEPEST {
        return Err("parentheses are nested too deep".into());
    }
    let (variables, assigns) = variables(tokens)?;
    let mut commands = vec![Vec::new()];
    while let Some(token) = tokens.next_if(|token| *token != Token::Close) {
        let base = match token {
            Token::Space => continue,
            Token::Pipe => {
                commands.push(Vec::new());
                continue;
            }
            Token::Dot => Base::Dot,
            Token::Fields(fields) => {
                push(&mut commands, Term { base: Base::Dot, fields });
                continue;
            }
            Token::Variable(name) => Base::Variable(name),
            Token::Literal(value) => Base::Literal(value),
            Token::Word(name) if functions::known(&name) => Base::Function(name),
            Token::Word(name) => return Err(format!("function {name:?} not defined")),
            Token::Open => {
                let inside = pipeline(tokens, depth + 1)?;
                tokens.next_if_eq(&Token::Close).ok_or("unclosed left paren")?;
                Base::Group(Box::new(inside))
            }
            other => return Err(format!("unexpected {other:?} in command")),
        };
        let fields = match tokens.next_if(|token| matches!(token, Token::Fields(_))) {
            Some(Token::Fields(fields)) => fields,
            _ => Vec::new(),
        };
        push(&mut commands, Term { base, fields });
    }
    if depth == 0 && tokens.peek().is_some() {
        return Err("unexpected right paren".into());
    }
    if commands.iter().any(Vec::is_empty) {
        return Err("missing value for command".into());
    }
    Ok(Pipeline { variables, assigns, commands })
}

fn push(commands: &mut [Vec<Term>], term: Term) {
    if let Some(command) = commands.last_mut() {
        command.push(term);
    }
}

/// `$x :=`, `$i, $x :=`, `$x =` at the beginning of a pipeline.
fn variables(tokens: &mut Tokens) -> Parsed<(Vec<String>, bool)> {
    let mut ahead = tokens.clone().filter(|token| *token != Token::Space);
    let mut names = Vec::new();
    let assigns = loop {
        match (ahead.next(), ahead.next()) {
            (Some(Token::Variable(name)), Some(Token::Comma)) if names.is_empty() => names.push(name),
            (Some(Token::Variable(name)), Some(Token::Declare)) => {
                names.push(name);
                break false;
            }
            (Some(Token::Variable(name)), Some(Token::Assign)) => {
                names.push(name);
                break true;
            }
            _ if names.is_empty() => return Ok((names, false)),
            _ => return Err("expected := after variables".into()),
        }
    };
    for token in tokens.by_ref() {
        if matches!(token, Token::Declare | Token::Assign) {
            break;
        }
    }
    Ok((names, assigns))
}
