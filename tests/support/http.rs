//! Just enough HTTP to put things into a registry, without the client that is under test.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use artifs::oci::{Descriptor, media_type};
use bytes::Bytes;

use crate::content::Content;
use crate::seed::{Destination, fallback_tag, with_referrer};

/// A registry somewhere, spoken to over plain HTTP, one connection per request.
#[derive(Clone, Debug)]
pub struct Client {
    host: String,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// The first header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl Client {
    /// `host` is `address:port`.
    pub fn new(host: impl ToString) -> Self {
        Self { host: host.to_string() }
    }

    /// One request. HTTP/1.0, so that the answer ends with the connection and is never chunked.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Content,
    ) -> std::io::Result<Response> {
        let mut stream = TcpStream::connect(&self.host)?;
        let mut head =
            format!("{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Length: {}\r\n", self.host, body.size());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        let mut at = 0;
        while at < body.size() {
            let piece = body.read(at..at + (1 << 20));
            stream.write_all(&piece)?;
            at += piece.len() as u64;
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let odd = || std::io::Error::other("no HTTP answer");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(odd)?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(odd)?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Ok(Response {
            status,
            headers: lines.filter_map(header).collect(),
            body: Bytes::from(answer).slice(end + 4..),
        })
    }

    fn expect(
        &self,
        status: u16,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Content,
    ) -> Response {
        let response = self.request(method, path, headers, body).expect("the registry answers");
        let text = String::from_utf8_lossy(&response.body);
        assert_eq!(response.status, status, "{method} {path}: {text}");
        response
    }

    /// Removes a manifest, or a blob, where the registry lets us.
    pub fn delete(&self, repository: &str, descriptor: &Descriptor) {
        let kind = if descriptor.is_manifest() { "manifests" } else { "blobs" };
        let path = format!("/v2/{repository}/{kind}/{}", descriptor.digest);
        self.expect(202, "DELETE", &path, &[], &"".into());
    }
}

impl Destination for Client {
    fn blob(&self, repository: &str, descriptor: &Descriptor, content: &Content) {
        let head = format!("/v2/{repository}/blobs/{}", descriptor.digest);
        if self.request("HEAD", &head, &[], &"".into()).is_ok_and(|response| response.status == 200) {
            return;
        }
        let opened = self.expect(202, "POST", &format!("/v2/{repository}/blobs/uploads/"), &[], &"".into());
        let location = opened.header("location").expect("an upload has a place");
        let path = location.strip_prefix(&format!("http://{}", self.host)).unwrap_or(location);
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}digest={}", descriptor.digest);
        self.expect(201, "PUT", &path, &[("Content-Type", media_type::OCTET_STREAM)], content);
    }

    fn manifest(&self, repository: &str, descriptor: &Descriptor, bytes: &Bytes, tag: Option<&str>) {
        let name = tag.map_or(descriptor.digest.to_string(), str::to_owned);
        let path = format!("/v2/{repository}/manifests/{name}");
        let put = self.expect(
            201,
            "PUT",
            &path,
            &[("Content-Type", &descriptor.media_type)],
            &bytes.clone().into(),
        );
        if put.header("oci-subject").is_some() {
            return;
        }
        // No Referrers API here: the fallback tag's list has to be kept by hand.
        let Some(tag) = fallback_tag(descriptor, bytes) else { return };
        let path = format!("/v2/{repository}/manifests/{tag}");
        let accept = [("Accept", media_type::IMAGE_INDEX)];
        let now = self.request("GET", &path, &accept, &"".into()).expect("the registry answers");
        let list = with_referrer((now.status == 200).then_some(&now.body), descriptor, bytes);
        self.expect(201, "PUT", &path, &[("Content-Type", media_type::IMAGE_INDEX)], &list.into());
    }
}
