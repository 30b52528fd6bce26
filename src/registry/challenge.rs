//! What a registry asks for with its 401: every challenge of every `WWW-Authenticate` line.

use http_auth::parser::ChallengeParser;

use super::http::{HeaderMap, header};

/// One challenge that we may be able to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token from the service at `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String>, error: Option<String> },
    /// Another scheme, by name.
    Other(String),
}

impl Challenge {
    /// What a Bearer challenge says is wrong with the token sent; empty if it does not say.
    pub(super) fn bearer_error(&self) -> Option<&str> {
        match self {
            Self::Bearer { error, .. } => Some(error.as_deref().unwrap_or_default()),
            _ => None,
        }
    }
}

/// All challenges, in order. A line that does not parse is worth nothing, and no reason to ignore the others.
pub(super) fn parse(headers: &HeaderMap) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for line in headers.get_all(header::WWW_AUTHENTICATE) {
        let Ok(line) = line.to_str() else { continue };
        for challenge in ChallengeParser::new(line).map_while(Result::ok) {
            let parameter = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                Some(found.1.to_unescaped()).filter(|text| !text.is_empty())
            };
            challenges.push(match challenge.scheme.to_ascii_lowercase().as_str() {
                "basic" => Challenge::Basic,
                "bearer" => match parameter("realm") {
                    Some(realm) => Challenge::Bearer {
                        realm,
                        service: parameter("service"),
                        scope: parameter("scope").filter(|scope| scope != "*"),
                        error: parameter("error"),
                    },
                    None => Challenge::Other("Bearer without a realm".into()),
                },
                _ => Challenge::Other(challenge.scheme.to_owned()),
            });
        }
    }
    challenges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_lines(lines: &[&str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::WWW_AUTHENTICATE, line.parse().unwrap());
        }
        parse(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
            error: None,
        }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        assert_eq!(
            parse_lines(&[r#"Bearer realm="https://a/token",service="s",scope="repository:x:pull,push""#]),
            [bearer("https://a/token", Some("s"), Some("repository:x:pull,push"))]
        );
        // Old Gitea: two lines. A proxy: several in one. Nexus: in capitals.
        assert_eq!(
            parse_lines(&[r#"Bearer realm="https://a/t",scope="*""#, r#"BASIC realm="Sonatype, \"Nexus\"""#]),
            [bearer("https://a/t", None, None), Challenge::Basic]
        );
        assert_eq!(
            parse_lines(&[r#"Negotiate, bEaReR REALM=https-a, Service="", Basic realm=x"#]),
            [Challenge::Other("Negotiate".into()), bearer("https-a", None, None), Challenge::Basic]
        );
        assert_eq!(parse_lines(&["=broken=", r#"Basic realm="x""#]), [Challenge::Basic]);
        assert_eq!(parse_lines(&["Bearer"]).len(), 1);
    }
}
