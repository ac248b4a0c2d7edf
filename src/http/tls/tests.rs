use std::net::TcpListener;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::super::{Failure, Http, Limits, Request, Roots, Sent};
use super::*;

/// A TLS server for 127.0.0.1 that answers every request with 200, and the file with its certificate.
fn server() -> (String, std::path::PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let pem = std::env::temp_dir().join(format!("ec2fleetd-ca-{:x}.pem", crate::random::bits()));
    std::fs::write(&pem, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().flatten().enumerate() {
            let config = config.clone();
            std::thread::spawn(move || {
                let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                let mut got = Vec::new();
                let mut buffer = [0; 1000];
                while let Ok(length @ 1..) = tls.read(&mut buffer) {
                    got.extend_from_slice(&buffer[..length]);
                    if got.ends_with(b"\r\n\r\n") {
                        got.clear();
                        let body = format!("{n}{}", "x".repeat(40_000));
                        write!(tls, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
                        tls.flush().unwrap();
                    }
                }
            });
        }
    });
    (url, pem)
}

fn get(url: &str, roots: &Roots, clock: &Arc<Clock>, times: usize) -> Result<Vec<u8>, Failure> {
    let http = Http::for_aws(clock, roots).unwrap();
    let limits = Limits { connect: Duration::from_secs(5), total: Duration::from_secs(5), body: 100_000 };
    let mut last = Vec::new();
    for _ in 0..times {
        last = http.send(&Request { method: "GET", url, headers: &[], body: b"" }, &limits)?.body;
    }
    Ok(last)
}

#[test]
fn a_bundle_is_trusted_and_the_connection_is_kept() {
    let (url, pem) = server();
    let clock = Arc::new(Clock::new(None).unwrap());
    let body = get(&url, &Roots::Pem(pem.clone()), &clock, 3).unwrap();
    std::fs::remove_file(pem).unwrap();
    assert_eq!((body.len(), body[0]), (40_001, b'0'), "the first connection serves all");
}

#[test]
fn a_stranger_is_not_trusted_and_nothing_is_sent_to_it() {
    let (url, pem) = server();
    std::fs::remove_file(pem).unwrap();
    let f = get(&url, &Roots::Web, &Arc::new(Clock::new(None).unwrap()), 1).unwrap_err();
    assert_eq!((f.cause, f.sent), (Cause::Certificate, Sent::Nothing));
    assert!(f.text.ends_with("for a private CA set AWS_CA_BUNDLE"), "{f}");
}

#[test]
fn certificates_are_judged_at_the_corrected_time() {
    let (url, pem) = server();
    // A clock that stands in 1970: the certificate, valid from 1975 on, is not valid yet.
    let clock = Arc::new(Clock::new(Some("offset=-1788000000")).unwrap());
    let f = get(&url, &Roots::Pem(pem.clone()), &clock, 1).unwrap_err();
    assert_eq!((f.cause, f.sent), (Cause::CertificateTime, Sent::Nothing), "{f}");
    clock.set_skew_ms(1_788_000_000_000);
    get(&url, &Roots::Pem(pem.clone()), &clock, 1).unwrap();
    std::fs::remove_file(pem).unwrap();
}

/// The first record that a client sends to a listener.
fn hello(listener: &TcpListener) -> (std::net::TcpStream, Vec<u8>) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    let mut record = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut record).unwrap();
    assert_eq!((head[0], record[0]), (22, 1), "a handshake that begins with a ClientHello");
    (stream, record)
}

/// The versions that a ClientHello offers (extension 43, RFC 8446).
fn offered(hello: &[u8]) -> Vec<u16> {
    let number = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    // Type, length, version and random; then session id, cipher suites and compressions, each with its length.
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + number(at);
    at += 1 + usize::from(hello[at]);
    at += 2;
    while number(at) != 43 {
        at += 4 + number(at + 2);
    }
    hello[at + 5..at + 4 + number(at + 2)].chunks(2).map(|v| u16::from_be_bytes([v[0], v[1]])).collect()
}

#[test]
fn tls_1_3_and_1_2_are_offered_and_a_server_with_1_1_gets_nothing() {
    // What a server of each version answers: ServerHello with an ECDHE cipher suite and nothing else.
    for version in [[3u8, 2], [3, 1], [3, 0]] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, hello) = hello(&listener);
            let mut answer = vec![22, version[0], version[1], 0, 42, 2, 0, 0, 38, version[0], version[1]];
            answer.extend([7; 32]);
            answer.extend([0, 0xc0, 0x13, 0]);
            stream.write_all(&answer).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            (offered(&hello), rest)
        });
        let f = get(&url, &Roots::Web, &Arc::new(Clock::new(None).unwrap()), 1).unwrap_err();
        assert_eq!((f.cause, f.sent), (Cause::Broken, Sent::Nothing), "{f}");
        assert!(f.text.starts_with("TLS: ") && f.text.contains("Tls12"), "{f}");
        let (offered, rest) = server.join().unwrap();
        assert_eq!(offered, [0x0304, 0x0303]);
        // An alert (21), and none of the request.
        assert!(rest.first() == Some(&21) && rest.len() == 7, "{rest:?}");
    }
}
