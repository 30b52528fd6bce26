//! Go templates, as far as people use them on the command line.
//!
//! The language of Go's `text/template` without named templates, over JSON, with those functions of Go
//! and Sprig that [`functions`] lists. No maintained crate offers it.

mod functions;
mod parse;
mod print;

use std::fmt::Write as _;

use serde_json::Value;

use parse::{Base, Piece, Pipeline, Term};

/// A template, parsed.
#[derive(Clone, Debug)]
pub(crate) struct Template(Vec<Piece>);

impl Template {
    /// Reads a template. The error says the line and what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        parse::parse(text).map(Self).map_err(|why| {
            let hint = if why.ends_with("not defined") { functions::listed() } else { String::new() };
            format!("template: {why}{hint}")
        })
    }

    /// What it says about `data`.
    pub(crate) fn render(&self, data: &Value) -> Result<String, String> {
        let mut run = Run { out: String::new(), variables: vec![(String::new(), data.clone())] };
        run.pieces(&self.0, data).map_err(|why| format!("template: {why}"))?;
        Ok(run.out)
    }
}

/// `{{range N}}` is for a column of dashes, not for heating the room.
const MOST_TURNS: u64 = 100_000;

type Evaluated<T> = Result<T, String>;

/// How a list of pieces ended.
#[derive(PartialEq)]
enum End {
    Reached,
    Break,
    Continue,
}

struct Run {
    out: String,
    /// Innermost last. The one without a name is `$`, what the template was given.
    variables: Vec<(String, Value)>,
}

impl Run {
    fn pieces(&mut self, pieces: &[Piece], dot: &Value) -> Evaluated<End> {
        let scope = self.variables.len();
        let mut end = End::Reached;
        for piece in pieces {
            end = self.piece(piece, dot)?;
            if end != End::Reached {
                break;
            }
        }
        self.variables.truncate(scope);
        Ok(end)
    }

    fn piece(&mut self, piece: &Piece, dot: &Value) -> Evaluated<End> {
        match piece {
            Piece::Text(text) => self.out.push_str(text),
            Piece::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    let _ = write!(self.out, "{}", print::Shown(&value));
                }
            }
            Piece::If { condition, then, otherwise } => {
                let scope = self.variables.len();
                let chosen = if functions::truth(&self.pipeline(condition, dot)?) { then } else { otherwise };
                let end = self.pieces(chosen, dot);
                self.variables.truncate(scope);
                return end;
            }
            Piece::With { value, then, otherwise } => {
                let scope = self.variables.len();
                let value = self.pipeline(value, dot)?;
                let end = if functions::truth(&value) {
                    self.pieces(then, &value)
                } else {
                    self.pieces(otherwise, dot)
                };
                self.variables.truncate(scope);
                return end;
            }
            Piece::Range { over, body, otherwise } => self.range(over, body, otherwise, dot)?,
            Piece::Break => return Ok(End::Break),
            Piece::Continue => return Ok(End::Continue),
        }
        Ok(End::Reached)
    }

    fn range(&mut self, over: &Pipeline, body: &[Piece], otherwise: &[Piece], dot: &Value) -> Evaluated<()> {
        let pipeline = Pipeline { variables: Vec::new(), ..over.clone() };
        let items: Vec<(Value, Value)> = match self.pipeline(&pipeline, dot)? {
            Value::Array(items) => {
                items.into_iter().enumerate().map(|(index, item)| (index.into(), item)).collect()
            }
            // Go walks maps in the order of their keys.
            Value::Object(fields) => {
                let mut fields: Vec<_> = fields.into_iter().collect();
                fields.sort_by(|(one, _), (other, _)| one.cmp(other));
                fields.into_iter().map(|(key, value)| (key.into(), value)).collect()
            }
            Value::Null => Vec::new(),
            Value::Number(count) if count.as_u64().is_some_and(|count| count <= MOST_TURNS) => {
                (0..count.as_u64().unwrap_or_default()).map(|turn| (turn.into(), turn.into())).collect()
            }
            other => return Err(format!("range can't iterate over {}", print::Shown(&other))),
        };
        if items.is_empty() {
            self.pieces(otherwise, dot)?;
        }
        let scope = self.variables.len();
        for (key, item) in items {
            match over.variables.as_slice() {
                [value] => self.variables.push((value.clone(), item.clone())),
                [index, value] => {
                    self.variables.push((index.clone(), key));
                    self.variables.push((value.clone(), item.clone()));
                }
                _ => {}
            }
            let end = self.pieces(body, &item)?;
            self.variables.truncate(scope);
            if end == End::Break {
                break;
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Evaluated<Value> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, last, dot)?);
        }
        let value = last.unwrap_or(Value::Null);
        for name in &pipeline.variables {
            if pipeline.assigns {
                let found = self.variables.iter_mut().rev().find(|(known, _)| known == name);
                found.ok_or_else(|| format!("undefined variable ${name}"))?.1 = value.clone();
            } else {
                self.variables.push((name.clone(), value.clone()));
            }
        }
        Ok(value)
    }

    fn command(&mut self, words: &[Term], last: Option<Value>, dot: &Value) -> Evaluated<Value> {
        let Some((first, rest)) = words.split_first() else { return Err("empty command".into()) };
        if let Base::Function(name) = &first.base {
            let mut arguments = Vec::new();
            for word in rest {
                arguments.push(self.term(word, dot)?);
            }
            arguments.extend(last);
            return take(functions::call(name, &arguments)?, &first.fields);
        }
        if !rest.is_empty() || last.is_some() {
            return Err("can't give an argument to what is not a function".into());
        }
        self.term(first, dot)
    }

    fn term(&mut self, term: &Term, dot: &Value) -> Evaluated<Value> {
        let value = match &term.base {
            Base::Dot => return take_from(dot, &term.fields),
            Base::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone()).ok_or_else(|| format!("undefined variable ${name}"))?
            }
            Base::Literal(value) => value.clone(),
            Base::Function(name) => functions::call(name, &[])?,
            Base::Group(pipeline) => self.pipeline(pipeline, dot)?,
        };
        take(value, &term.fields)
    }
}

fn take(value: Value, fields: &[String]) -> Evaluated<Value> {
    if fields.is_empty() { Ok(value) } else { take_from(&value, fields) }
}

/// The field of a field of a map. A key that is missing is no value, as in Go; a field of text is an error.
fn take_from(value: &Value, fields: &[String]) -> Evaluated<Value> {
    let mut value = value;
    for field in fields {
        value = match value {
            Value::Object(map) => map.get(field).unwrap_or(&Value::Null),
            // Go says so of what is missing; of what is null it complains, which helps nobody here.
            Value::Null => return Ok(Value::Null),
            other => return Err(format!("can't evaluate field {field} in {}", print::Shown(other))),
        };
    }
    Ok(value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String, String> {
        let data = serde_json::json!({
            "reference": "h/r@sha256:0",
            "size": 1_234_567,
            "files": [{"path": "/a", "size": 1}, {"path": "/b", "size": 2}],
            "annotations": {"b": "<2>", "a": "1", "x.y": "z"},
            "none": null, "empty": [], "yes": true,
        });
        Template::parse(template)?.render(&data)
    }

    /// What has no function of Sprig in it was printed by Go 1.26's text/template.
    #[test]
    fn templates_say_what_go_says() {
        for (template, says) in [
            ("{{.reference}}", "h/r@sha256:0"),
            ("a {{- .yes -}} b", "atrueb"),
            ("{{/* a */}}x{{- /* b */ -}} y", "xy"),
            ("{{range .files}}{{.path}} {{end}}", "/a /b "),
            ("{{range $i, $f := .files}}{{$i}}={{$f.path}},{{end}}", "0=/a,1=/b,"),
            ("{{range .empty}}x{{else}}nothing{{end}}", "nothing"),
            ("{{range $k, $v := .annotations}}{{$k}}:{{$v}} {{end}}", "a:1 b:<2> x.y:z "),
            ("{{range .files}}{{if eq .size 2}}{{break}}{{end}}{{.path}}{{end}}", "/a"),
            ("{{range .files}}{{if eq .size 1}}{{continue}}{{end}}{{.path}}{{end}}", "/b"),
            ("{{if .none}}a{{else if .yes}}b{{else}}c{{end}}", "b"),
            ("{{if and .yes (not .none)}}a{{end}}", "a"),
            ("{{with .annotations}}{{.a}}{{$.size}}{{end}}", "11234567"),
            ("{{with .none}}a{{else}}b{{end}}", "b"),
            ("{{.missing}}{{.missing.x}}", "<no value><no value>"),
            ("{{range 3}}{{.}}{{end}}", "012"),
            ("{{printf \"%d %s\" \"x\" 1}}{{printf \"%s\"}}", "%!d(string=x) %!s(int=1)%!s(MISSING)"),
            ("{{printf \"%6.2f|%x\" 1.5 255}}{{printf \"%s\" \"a\" \"b\"}}", "  1.50|ffa%!(EXTRA string=b)"),
            ("{{.annotations}}", "map[a:1 b:<2> x.y:z]"),
            ("{{.files}}", "[map[path:/a size:1] map[path:/b size:2]]"),
            ("{{index .annotations \"x.y\"}}", "z"),
            ("{{(index .files 1).path}}", "/b"),
            ("{{index .files 0 \"path\"}}", "/a"),
            ("{{len .files}} {{len \"abc\"}}", "2 3"),
            ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
            ("{{println \"a\" 1 true}}", "a 1 true\n"),
            ("{{print \"a\" 1 2 \"b\"}}", "a1 2b"),
            (
                "{{printf \"%s|%5d|%-4s|%q|%v|%t|%%|%03d\" \"x\" 7 \"y\" \"q\\\"\" .files true 5}}",
                "x|    7|y   |\"q\\\"\"|[map[path:/a size:1] map[path:/b size:2]]|true|%|005",
            ),
            ("{{.files | toJson}}", r#"[{"path":"/a","size":1},{"path":"/b","size":2}]"#),
            ("{{.annotations.a | printf \"%s-%s\" \"x\"}}", "x-1"),
            ("{{`raw \\n`}}{{\"\\t\"}}", "raw \\n\t"),
            ("{{upper \"a\"}}{{default \"d\" .none}}{{join \",\" (splitList \"/\" \"a/b\")}}", "Ada,b"),
            ("{{trimPrefix \"sha256:\" \"sha256:ab\" | trunc 1}}", "a"),
            ("{{if and (gt .size 10) (lt 1 2) (ne \"a\" \"b\")}}y{{end}}", "y"),
            ("{{eq \"a\" \"b\" \"a\"}}", "true"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(says), "{template}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (template, says) in [
            ("{{.a", "template: 1: unclosed action"),
            ("x\n{{if .a}}", "template: 2: {{if}} has no {{end}}"),
            ("{{end}}", "template: 1: unexpected {{end}} or {{else}}"),
            ("{{}}", "template: 1: missing value for command"),
            ("{{\"a}}", "template: 1: unterminated quoted string"),
            ("{{(.a}}", "template: 1: unclosed left paren"),
            ("{{.size.x}}", "template: can't evaluate field x in 1234567"),
            ("{{.reference .size}}", "template: can't give an argument to what is not a function"),
            ("{{index .files 9}}", "template: index: index out of range: 9"),
            ("{{$y}}", "template: undefined variable $y"),
        ] {
            assert_eq!(render(template), Err(says.to_owned()), "{template}");
        }
        let unknown = render("{{shout .a}}").unwrap_err();
        assert!(unknown.starts_with("template: 1: function \"shout\" not defined"), "{unknown}");
        assert!(unknown.contains("toJson"), "{unknown}");
        assert!(Template::parse(&"{{if .a}}".repeat(100_000)).is_err());
        assert!(Template::parse(&format!("{{{{{}", "(".repeat(100_000))).is_err());
    }
}
