//! What a registry's error answers say, in ORAS's words.

use serde::Deserialize;
use serde_json::Value;

use super::http::{Answer, StatusCode};
use super::retry::Patience;
use crate::error::{Error, ErrorKind};

/// No message is worth more of a terminal than this.
const LONGEST: usize = 2048;

#[derive(Deserialize)]
struct Body {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    detail: Value,
}

/// An answer that is not what was asked for.
pub(super) struct Complaint {
    pub(super) status: StatusCode,
    codes: Vec<String>,
    text: String,
}

impl Complaint {
    /// Reads the rest of `answer`.
    pub(super) async fn read(answer: Answer, patience: &mut Patience) -> Self {
        let status = answer.status();
        let mut url = answer.url().clone();
        if !answer.is_from_registry() {
            // Signatures live in queries.
            url.set_query(None);
        }
        let request = format!("{} \"{url}\"", answer.method());
        Self::new(status, &request, &answer.complaint(patience).await)
    }

    fn new(status: StatusCode, request: &str, body: &[u8]) -> Self {
        let entries = serde_json::from_slice::<Body>(body).map(|body| body.errors).unwrap_or_default();
        let text = if entries.is_empty() {
            let reason = status.canonical_reason().unwrap_or_default();
            format!("{request}: response status code {}: {reason}", status.as_u16())
        } else {
            entries.iter().map(render).collect::<Vec<_>>().join("; ")
        };
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
        Self { status, codes: entries.into_iter().map(|entry| entry.code).collect(), text }
    }

    /// Whether one of the errors has this code.
    pub(super) fn has_code(&self, code: &str) -> bool {
        self.codes.iter().any(|found| found.eq_ignore_ascii_case(code))
    }

    /// Whether the registry says that our long-lived credential has run out (ECR, registry.md §1.4).
    pub(super) fn says_expired(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        text.contains("token has expired") || text.contains("token is expired")
    }

    /// The error it amounts to.
    pub(super) fn into_error(self) -> Error {
        let kind = match self.status.as_u16() {
            _ if self.has_code("DENIED") && self.status == StatusCode::UNAUTHORIZED => {
                ErrorKind::Unauthorized
            }
            401 => ErrorKind::Unauthorized,
            // 412 is Harbor's policy against pulling this image (registry.md §2.1).
            403 | 412 | 451 => ErrorKind::Denied,
            404 | 410 => ErrorKind::NotFound,
            405 | 501 => ErrorKind::Unsupported,
            409 => ErrorKind::Conflict,
            429 => ErrorKind::RateLimited,
            408 | 425 | 499 | 500..=599 => ErrorKind::Unavailable,
            _ => ErrorKind::Invalid,
        };
        Error::new(kind, self.text)
    }
}

fn render(entry: &Entry) -> String {
    let mut text = entry.code.to_lowercase().replace('_', " ");
    if !entry.message.is_empty() {
        text = format!("{text}: {}", entry.message);
        if !entry.detail.is_null() {
            text.push_str(": ");
            show(&entry.detail, &mut text);
        }
    }
    text
}

/// As Go's `%v` shows it, which is what ORAS prints.
fn show(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                show(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            out.push_str("map[");
            for (index, (key, item)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                show(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_in_oras() {
        let body = br#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry",
            "detail":{"name":"t/a","n":[1,"b"]}},{"code":"DENIED"}]}"#;
        let complaint = Complaint::new(StatusCode::NOT_FOUND, "GET \"http://h/\"", body);
        assert!(complaint.has_code("NAME_UNKNOWN"));
        let error = complaint.into_error();
        assert_eq!(
            error.to_string(),
            "name unknown: repository name not known to registry: map[n:[1 b] name:t/a]; denied"
        );
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn without_a_body_the_status_speaks() {
        let error = Complaint::new(StatusCode::UNAUTHORIZED, "GET \"http://h/v2/\"", b"<html>").into_error();
        assert_eq!(error.to_string(), "GET \"http://h/v2/\": response status code 401: Unauthorized");
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
    }

    #[test]
    fn what_a_server_says_cannot_steer_a_terminal() {
        let body = br#"{"errors":[{"code":"X","message":"\u001b[31mred\n"}]}"#;
        let text = Complaint::new(StatusCode::BAD_REQUEST, "", body).into_error().to_string();
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}
