//! Values as Go's `%v` prints them, and `printf`.

use std::fmt::{self, Write as _};

use serde_json::Value;

/// A value as `%v`.
pub(super) struct Shown<'a>(pub(super) &'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("<no value>"),
            Value::Bool(truth) => truth.fmt(f),
            Value::Number(number) => number.fmt(f),
            Value::String(text) => f.write_str(text),
            Value::Array(items) => {
                f.write_char('[')?;
                for (index, item) in items.iter().enumerate() {
                    let space = if index > 0 { " " } else { "" };
                    write!(f, "{space}{}", Inside(item))?;
                }
                f.write_char(']')
            }
            Value::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                fields.sort_by_key(|(key, _)| *key);
                f.write_str("map[")?;
                for (index, (key, value)) in fields.into_iter().enumerate() {
                    let space = if index > 0 { " " } else { "" };
                    write!(f, "{space}{key}:{}", Inside(value))?;
                }
                f.write_char(']')
            }
        }
    }
}

/// The same inside a list or map, where nothing is `<nil>`.
struct Inside<'a>(&'a Value);

impl fmt::Display for Inside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_null() { f.write_str("<nil>") } else { Shown(self.0).fmt(f) }
    }
}

/// Nobody wants a column wider than this; a template that asks for one is mistaken.
const WIDEST: usize = 10_000;

/// Go's `Sprintf` with the verbs `v s d q t x f` and the flags `-`, `0`, width and precision.
pub(super) fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let flags = after.len() - after.trim_start_matches(['-', '0', '+', ' ', '#']).len();
        let (flags, after) = after.split_at(flags);
        let (width, after) = number(after);
        let (precision, after) = match after.strip_prefix('.') {
            Some(after) => {
                let (precision, after) = number(after);
                (Some(precision.unwrap_or(0)), after)
            }
            None => (None, after),
        };
        let Some(verb) = after.chars().next() else {
            out.push_str("%!(NOVERB)");
            return out;
        };
        rest = &after[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = arguments.next() else {
            let _ = write!(out, "%!{verb}(MISSING)");
            continue;
        };
        pad(&mut out, &one(verb, value, precision), flags, width.unwrap_or(0));
    }
    out.push_str(rest);
    let extra: Vec<String> = arguments.map(|value| format!("{}={}", kind(value), Inside(value))).collect();
    if !extra.is_empty() {
        let _ = write!(out, "%!(EXTRA {})", extra.join(", "));
    }
    out
}

fn number(text: &str) -> (Option<usize>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].parse().ok().map(|number: usize| number.min(WIDEST)), &text[end..])
}

fn one(verb: char, value: &Value, precision: Option<usize>) -> String {
    match (verb, value) {
        ('q', Value::String(_)) | ('t', Value::Bool(_)) => value.to_string(),
        ('s' | 'v', Value::String(text)) => match precision {
            Some(most) => text.chars().take(most).collect(),
            None => text.clone(),
        },
        ('x', Value::String(text)) => text.bytes().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        ('x', Value::Number(number)) if number.is_i64() => {
            format!("{:x}", number.as_i64().unwrap_or_default())
        }
        ('f', Value::Number(number)) => {
            format!("{:.*}", precision.unwrap_or(6), number.as_f64().unwrap_or_default())
        }
        ('d', Value::Number(number)) if !number.is_f64() => number.to_string(),
        ('v', value) => Inside(value).to_string(),
        ('s', Value::Array(_) | Value::Object(_)) => Shown(value).to_string(),
        (verb, value) => format!("%!{verb}({}={})", kind(value), Inside(value)),
    }
}

fn pad(out: &mut String, text: &str, flags: &str, width: usize) {
    let missing = width.saturating_sub(text.chars().count());
    let fill = |with: &str| with.repeat(missing);
    if flags.contains('-') {
        let _ = write!(out, "{text}{}", fill(" "));
    } else if flags.contains('0') {
        let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
        let _ = write!(out, "{sign}{}{digits}", fill("0"));
    } else {
        let _ = write!(out, "{}{text}", fill(" "));
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
