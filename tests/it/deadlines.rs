//! Nothing waits without an end: each thing that may never come ends in an error that names it, in bounded time.
//!
//! A test that would wait for ever is ended by the lab's patience. Time runs fast; who hangs, hangs for real.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::kit::{one, record};
use crate::lab::{How, Lab, once};
use crate::matrix::all;

/// Where a server stops to answer, or begins to trickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// It does not even take the connection.
    Connected,
    /// This byte of its answer (with TLS: of its side of the handshake).
    Byte(usize),
    /// The first bytes of the body.
    Body,
    /// The client's request is there (behind TLS this cannot be seen; it is as long as this).
    Asked(usize),
}

#[derive(Debug, Clone, Copy)]
struct Case {
    until: Until,
    /// Afterwards a byte now and then, not silence.
    trickles: bool,
    tls: bool,
}

const fn case(until: Until, trickles: bool) -> Case {
    Case { until, trickles, tls: false }
}

const HTTP: [Case; 6] = [
    case(Until::Connected, false),
    case(Until::Byte(0), false),
    case(Until::Byte(30), false),
    case(Until::Body, false),
    case(Until::Byte(0), true),
    case(Until::Body, true),
];
const TLS: [Case; 6] = [
    Case { tls: true, ..case(Until::Byte(0), false) },
    Case { tls: true, ..case(Until::Byte(200), false) },
    Case { tls: true, ..case(Until::Byte(3), true) },
    Case { tls: true, ..case(Until::Byte(200), true) },
    Case { tls: true, ..case(Until::Asked(500), false) },
    Case { tls: true, ..case(Until::Asked(500), true) },
];
/// On a clock 50 times as fast it is more than a second.
const TRICKLE: Duration = Duration::from_millis(25);
const RATE: u32 = 50;

/// Stands before a server and behaves like `case`; gives its port. It lives as long as the test process.
fn bad_peer(server: &str, case: Case) -> u16 {
    let behind: SocketAddr = server.rsplit('/').next().unwrap().replace("localhost", "127.0.0.1").parse().unwrap();
    if case.until == Until::Connected {
        return nobody_accepts();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || pass(client, behind, case));
        }
    });
    port
}

/// A listener whose queue is full: the kernel lets further clients wait.
fn nobody_accepts() -> u16 {
    use rustix::net::{AddressFamily, SocketType, bind, connect, getsockname, listen, socket};
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&listener, 0).unwrap();
    let address = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
    for _ in 0..4 {
        let waits = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::io::ioctl_fionbio(&waits, true).unwrap();
        let _ = connect(&waits, &address);
        std::mem::forget(waits);
    }
    std::mem::forget(listener);
    address.port()
}

fn pass(client: TcpStream, behind: SocketAddr, case: Case) {
    let server = TcpStream::connect(behind).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let (mut from, mut to, count) = (client.try_clone().unwrap(), server.try_clone().unwrap(), asked.clone());
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n) = from.read(&mut buffer)
            && n > 0
        {
            count.fetch_add(n, Ordering::SeqCst);
            if to.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    });
    let (mut server, mut client, mut sent) = (server, client, Vec::new());
    let mut buffer = [0; 1];
    loop {
        let reached = match case.until {
            Until::Connected => true,
            Until::Byte(n) => sent.len() >= n,
            Until::Body => sent.windows(4).position(|w| w == b"\r\n\r\n").is_some_and(|head| sent.len() > head + 8),
            Until::Asked(n) => asked.load(Ordering::SeqCst) >= n,
        };
        if reached && !case.trickles {
            // Held open until the test process ends.
            std::mem::forget((server, client));
            return;
        }
        if reached {
            thread::sleep(TRICKLE);
        }
        match server.read(&mut buffer) {
            Ok(1) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            _ => return,
        }
        sent.push(buffer[0]);
        if client.write_all(&buffer).is_err() {
            return;
        }
    }
}

fn timed(seconds: u32, content: &str) -> String {
    one(content).replacen('{', &format!("{{ timeout: {seconds},"), 1)
}

/// A list of records that is longer than what trickles in the time.
fn records(lab: &Lab) {
    for n in 0..30 {
        crate::kit::add(lab, "a.example.com", "TXT", 60 + n, &["\"something to read\""]);
    }
}

#[test]
fn an_api_that_hangs_anywhere_ends_each_try_and_then_init() {
    let cases: Vec<Case> = HTTP.into_iter().chain(TLS).collect();
    all(&cases, |case| {
        let lab = Lab::new();
        records(&lab);
        let behind = if case.tls { lab.server.https_url() } else { lab.server.http_url() };
        let url =
            format!("{}:{}", if case.tls { "https://localhost" } else { "http://127.0.0.1" }, bad_peer(&behind, *case));
        let text = timed(60, &format!("\"update-route53\": [{}]", record("a.example.com", "")));
        let run = lab.run(&text, once().rate(RATE).env("AWS_ENDPOINT_URL_ROUTE_53", &url));
        let what =
            "cannot list the records at a.example.com. in hosted zone Z1: the time for it is over; last answer: ";
        run.ends(1, &[what, &url, "no answer in time"]);
        let tries = run.log.matches("no answer in time").count();
        assert!(tries >= 3, "one try took all of the time: {case:?} {run}");
    });
}

#[test]
fn a_metadata_service_that_hangs_anywhere_is_named_in_the_end() {
    all(&HTTP, |case| {
        let lab = Lab::new();
        let url = format!("http://127.0.0.1:{}", bad_peer(&lab.server.imds_url(&lab.me), *case));
        let how = once().rate(2 * RATE).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url);
        let run = lab.run(&one(""), how);
        run.ends(
            1,
            &["cannot read the instance's metadata: cannot read /latest/", "the time for it is over; last: ", &url],
        );
    });
}

#[test]
fn a_proxy_that_hangs_anywhere_ends_each_try_and_then_init() {
    let cases = [HTTP[0], HTTP[1], HTTP[4]];
    all(&cases, |case| {
        let lab = Lab::new();
        // What it answers does not matter: it never gets that far.
        let proxy = format!("http://127.0.0.1:{}", bad_peer(&lab.server.http_url(), *case));
        let text = timed(60, &format!("\"update-route53\": [{}]", record("a.example.com", "")));
        let run = lab.run(&text, How { tls: true, ..once() }.rate(RATE).env("HTTPS_PROXY", &proxy));
        let what =
            "cannot list the records at a.example.com. in hosted zone Z1: the time for it is over; last answer: ";
        run.ends(1, &[what, "no answer in time"]);
        assert!(run.log.matches("no answer in time").count() >= 3, "{case:?} {run}");
    });
}
