//! TLS: whom we trust, who we say we are, and what is said when it fails.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use artifs::error::Result;
use artifs::registry::{Registry, Settings};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::settings;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/registry/tls").join(name)
}

/// A server that answers every request with `{}`, each on a connection of its own. It tells for every request
/// whether the client had shown a certificate.
fn server() -> (String, Receiver<bool>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.crt")).unwrap()).unwrap();
    let clients =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(file("server.crt")).unwrap()],
            PrivateKeyDer::from_pem_file(file("server.key")).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (tell, told) = channel();
    // Ends with the test program.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = BufReader::new(rustls::StreamOwned::new(session, stream));
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let stream = stream.get_mut();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
            if !stream.conn.is_handshaking() {
                let _ = tell.send(stream.conn.peer_certificates().is_some());
            }
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    (host, told)
}

async fn ping(host: &str, settings: &Settings) -> Result<()> {
    Registry::new(&host.parse().unwrap(), settings)?.ping().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_trusted_when_a_person_says_so() {
    let (host, told) = server();
    // Nothing is said about the scheme: 127.0.0.1 is asked for TLS first, and answers it.
    let unsaid = Settings { plain_http: None, ..settings() };
    let error = ping(&host, &unsaid).await.unwrap_err().to_string();
    assert!(error.contains(&format!("certs.d/{host}/ca.crt")) && error.contains("--ca-file"), "{error}");
    assert!(told.try_recv().is_err(), "a request was sent to somebody we do not trust");

    ping(&host, &Settings { ca_file: Some(file("ca.crt")), ..unsaid.clone() }).await.unwrap();
    assert!(!told.recv().unwrap());
    ping(&host, &Settings { insecure: true, ..unsaid.clone() }).await.unwrap();
    assert!(!told.recv().unwrap());
    let identity = Settings {
        ca_file: Some(file("ca.crt")),
        cert_file: Some(file("client.crt")),
        key_file: Some(file("client.key")),
        ..unsaid
    };
    ping(&host, &identity).await.unwrap();
    assert!(told.recv().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_stays_with_the_registry() {
    let (storage, told) = server();
    let registry = support::registry::Registry::start();
    let blob = registry.put_blob("r", "{}");
    let location = format!("https://{storage}/somewhere");
    registry.fault(support::registry::On::blobs(), support::registry::Fault::redirect(&location));
    let settings = Settings {
        insecure: true,
        cert_file: Some(file("client.crt")),
        key_file: Some(file("client.key")),
        ..settings()
    };
    let found = crate::read(&crate::repository_with(&registry, &settings), &blob, 0..2).await.unwrap();
    assert_eq!(found, "{}");
    assert!(!told.recv().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_where_tls_is_expected_is_explained() {
    let registry = support::registry::Registry::start();
    let https = Settings { plain_http: Some(false), ..settings() };
    let error = ping(registry.host().as_str(), &https).await.unwrap_err().to_string();
    assert!(error.contains("--plain-http") && error.contains(registry.host().as_str()), "{error}");
    // And found out where nothing is said.
    ping(registry.host().as_str(), &Settings { plain_http: None, ..settings() }).await.unwrap();
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let host = "h.x".parse().unwrap();
    let alone = Settings { cert_file: Some(file("client.crt")), ..settings() };
    let error = Registry::new(&host, &alone).err().unwrap().to_string();
    assert_eq!(error, "--cert-file must be used in conjunction with --key-file");
    let absent = Settings { ca_file: Some(file("absent.crt")), ..settings() };
    let error = Registry::new(&host, &absent).err().unwrap().to_string();
    assert!(error.contains("absent.crt"), "{error}");
}
