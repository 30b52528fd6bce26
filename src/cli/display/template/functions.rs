//! What a template may call: Go's own functions and the ones of Sprig that people use.

use std::cmp::Ordering;

use serde_json::Value;

use super::print::{Shown, printf};

type Outcome = Result<Value, String>;
type Function = fn(&[Value]) -> Outcome;

/// Every function, by name.
const FUNCTIONS: &[(&str, Function)] = &[
    ("and", |a| Ok(a.iter().find(|value| !truth(value)).or(a.last()).cloned().unwrap_or_default())),
    ("or", |a| Ok(a.iter().find(|value| truth(value)).or(a.last()).cloned().unwrap_or_default())),
    ("not", |a| Ok((!truth(one("not", a)?)).into())),
    ("eq", |a| {
        let (first, others) = a.split_first().ok_or("eq: missing argument")?;
        Ok(others.iter().any(|other| compare(first, other) == Some(Ordering::Equal)).into())
    }),
    ("ne", |a| ordered("ne", a, Ordering::is_ne)),
    ("lt", |a| ordered("lt", a, Ordering::is_lt)),
    ("le", |a| ordered("le", a, Ordering::is_le)),
    ("gt", |a| ordered("gt", a, Ordering::is_gt)),
    ("ge", |a| ordered("ge", a, Ordering::is_ge)),
    ("len", |a| length(one("len", a)?)),
    ("index", index),
    ("print", |a| Ok(print(a).into())),
    ("println", |a| {
        let words: Vec<String> = a.iter().map(|value| Shown(value).to_string()).collect();
        Ok(format!("{}\n", words.join(" ")).into())
    }),
    ("printf", |a| {
        let (format, arguments) = a.split_first().ok_or("printf: missing format")?;
        Ok(printf(text("printf", format)?, arguments).into())
    }),
    ("toJson", |a| Ok(one("toJson", a)?.to_string().into())),
    ("json", |a| Ok(one("json", a)?.to_string().into())),
    ("toPrettyJson", |a| {
        serde_json::to_string_pretty(one("toPrettyJson", a)?).map(Value::from).map_err(|e| e.to_string())
    }),
    ("toString", |a| Ok(Shown(one("toString", a)?).to_string().into())),
    ("default", |a| {
        let [fallback, rest @ ..] = a else { return Err("default: missing argument".into()) };
        Ok(rest.last().filter(|value| truth(value)).unwrap_or(fallback).clone())
    }),
    ("upper", |a| on_text("upper", a, str::to_uppercase)),
    ("lower", |a| on_text("lower", a, str::to_lowercase)),
    ("trim", |a| on_text("trim", a, |text| text.trim().to_owned())),
    ("base", |a| {
        on_text("base", a, |text| text.trim_end_matches('/').rsplit('/').next().unwrap_or("").to_owned())
    }),
    ("quote", |a| {
        Ok(a.iter()
            .map(|value| format!("{:?}", Shown(value).to_string()))
            .collect::<Vec<_>>()
            .join(" ")
            .into())
    }),
    ("trimPrefix", |a| two("trimPrefix", a, |part, text| text.strip_prefix(part).unwrap_or(text).into())),
    ("trimSuffix", |a| two("trimSuffix", a, |part, text| text.strip_suffix(part).unwrap_or(text).into())),
    ("hasPrefix", |a| two("hasPrefix", a, |part, text| text.starts_with(part).into())),
    ("hasSuffix", |a| two("hasSuffix", a, |part, text| text.ends_with(part).into())),
    ("contains", |a| two("contains", a, |part, text| text.contains(part).into())),
    ("splitList", |a| two("splitList", a, |by, text| text.split(by).map(Value::from).collect())),
    ("replace", |a| match a {
        [old, new, whole] => {
            Ok(text("replace", whole)?.replace(text("replace", old)?, text("replace", new)?).into())
        }
        _ => Err("replace: wants three arguments".into()),
    }),
    ("trunc", |a| match a {
        [most, whole] => {
            let most = most.as_u64().ok_or("trunc: wants a length")?;
            Ok(text("trunc", whole)?.chars().take(most as usize).collect::<String>().into())
        }
        _ => Err("trunc: wants two arguments".into()),
    }),
    ("join", |a| match a {
        [by, Value::Array(items)] => {
            let items: Vec<String> = items.iter().map(|item| Shown(item).to_string()).collect();
            Ok(items.join(text("join", by)?).into())
        }
        _ => Err("join: wants a separator and a list".into()),
    }),
    ("first", |a| Ok(list("first", a)?.first().cloned().unwrap_or_default())),
    ("last", |a| Ok(list("last", a)?.last().cloned().unwrap_or_default())),
    ("hasKey", |a| match a {
        [Value::Object(map), Value::String(key)] => Ok(map.contains_key(key).into()),
        _ => Err("hasKey: wants a map and a key".into()),
    }),
    ("keys", |a| match one("keys", a)? {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().cloned().collect();
            keys.sort();
            Ok(keys.into())
        }
        _ => Err("keys: wants a map".into()),
    }),
];

/// Whether there is a function of this name.
pub(super) fn known(name: &str) -> bool {
    FUNCTIONS.iter().any(|(known, _)| *known == name)
}

/// A line that names every function.
pub(super) fn listed() -> String {
    let names: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
    format!("\nfunctions: {}", names.join(" "))
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: &[Value]) -> Outcome {
    let (_, function) = FUNCTIONS
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| format!("function {name:?} not defined"))?;
    function(arguments)
}

/// What counts as true: anything that is not empty.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn one<'a>(name: &str, arguments: &'a [Value]) -> Result<&'a Value, String> {
    match arguments {
        [argument] => Ok(argument),
        _ => Err(format!("wrong number of args for {name}: want 1 got {}", arguments.len())),
    }
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{name}: expected string; found {}", Shown(value)))
}

fn list<'a>(name: &str, arguments: &'a [Value]) -> Result<&'a [Value], String> {
    let items = one(name, arguments)?.as_array();
    items.map(Vec::as_slice).ok_or_else(|| format!("{name}: expected a list"))
}

fn on_text(name: &str, arguments: &[Value], change: fn(&str) -> String) -> Outcome {
    Ok(change(text(name, one(name, arguments)?)?).into())
}

fn two(name: &str, arguments: &[Value], of: fn(&str, &str) -> Value) -> Outcome {
    match arguments {
        [part, whole] => Ok(of(text(name, part)?, text(name, whole)?)),
        _ => Err(format!("wrong number of args for {name}: want 2 got {}", arguments.len())),
    }
}

fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (one.as_i64(), other.as_i64()) {
            (Some(one), Some(other)) => Some(one.cmp(&other)),
            _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
        },
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        (one, other) if one == other => Some(Ordering::Equal),
        _ => None,
    }
}

fn ordered(name: &str, arguments: &[Value], wanted: fn(Ordering) -> bool) -> Outcome {
    match arguments {
        [one, other] => match compare(one, other) {
            Some(order) => Ok(wanted(order).into()),
            None if name == "ne" => Ok(true.into()),
            None => Err(format!("{name}: incompatible types for comparison")),
        },
        _ => Err(format!("wrong number of args for {name}: want 2 got {}", arguments.len())),
    }
}

fn length(value: &Value) -> Outcome {
    match value {
        Value::String(text) => Ok(text.len().into()),
        Value::Array(items) => Ok(items.len().into()),
        Value::Object(fields) => Ok(fields.len().into()),
        other => Err(format!("len of type {}", Shown(other))),
    }
}

fn index(arguments: &[Value]) -> Outcome {
    let (value, path) = arguments.split_first().ok_or("index: missing argument")?;
    let mut value = value;
    for step in path {
        value = match (value, step) {
            (Value::Array(items), Value::Number(number)) => number
                .as_u64()
                .and_then(|at| items.get(at as usize))
                .ok_or_else(|| format!("index: index out of range: {number}"))?,
            (Value::Object(map), Value::String(key)) => map.get(key).unwrap_or(&Value::Null),
            (value, _) => return Err(format!("index: can't index item of {}", Shown(value))),
        };
    }
    Ok(value.clone())
}

/// Go's `Sprint`: a space between two values when neither is text.
fn print(values: &[Value]) -> String {
    let mut out = String::new();
    for (at, value) in values.iter().enumerate() {
        if at > 0 && !value.is_string() && !values[at - 1].is_string() {
            out.push(' ');
        }
        out.push_str(&Shown(value).to_string());
    }
    out
}
