use super::script::{Answer, Script, reply};
use super::*;

const LIMITS: Limits = Limits { connect: Duration::from_secs(2), total: Duration::from_secs(2), body: 1000 };

fn http() -> Http {
    Http::for_imds(&Arc::new(Clock::new(None).unwrap()))
}

fn get(http: &Http, url: &str) -> Result<Response, Failure> {
    http.send(&Request { method: "GET", url, headers: &[], body: b"" }, &LIMITS)
}

#[test]
fn one_connection_serves_many_requests_and_any_status_is_an_answer() {
    let server = Script::of(vec![reply(200, "a"), reply(404, "b"), Answer::Reply(302, "Location: /x\r\n", "".into())]);
    let http = http();
    for (status, body) in [(200, "a"), (404, "b"), (302, "")] {
        let r = get(&http, &server.url).unwrap();
        assert_eq!((r.status, r.body.as_slice()), (status, body.as_bytes()));
    }
    assert!(server.asked().iter().all(|a| a.connection == 0));
    assert_eq!(server.asked()[0].header("user-agent"), Some(concat!("ec2fleetd/", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_new_address_wants_new_connections() {
    let server = Script::of(vec![reply(200, "a"), reply(200, "b"), reply(200, "c"), reply(200, "d")]);
    let http = http();
    get(&http, &server.url).unwrap();
    get(&http, &server.url).unwrap();
    http.forget_connections();
    get(&http, &server.url).unwrap();
    get(&http, &server.url).unwrap();
    assert_eq!(server.asked().iter().map(|a| a.connection).collect::<Vec<_>>(), [0, 0, 1, 1]);
}

#[test]
fn nothing_was_sent_when_nobody_listens() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let f = get(&http(), &format!("http://127.0.0.1:{port}/")).unwrap_err();
    assert_eq!((f.sent, f.cause), (Sent::Nothing, Cause::Unreachable));
    assert!(f.text.starts_with("no connection: "), "{f}");
}

#[test]
fn a_new_connection_that_breaks_says_nothing_of_the_request() {
    let f = get(&http(), &Script::of(vec![Answer::Close]).url).unwrap_err();
    assert_eq!((f.sent, f.cause), (Sent::Unknown, Cause::Broken));
}

#[test]
fn a_kept_connection_that_is_dead_at_first_use_is_stale() {
    let server = Script::of(vec![reply(200, "a"), Answer::Close, reply(200, "b")]);
    let http = http();
    get(&http, &server.url).unwrap();
    assert_eq!(get(&http, &server.url).unwrap_err().sent, Sent::Stale);
    assert_eq!(get(&http, &server.url).unwrap().body, b"b");
}

#[test]
fn a_server_that_hangs_is_left_in_time() {
    let server = Script::of(vec![Answer::Hang(Duration::from_secs(5))]);
    let limits = Limits { total: Duration::from_millis(300), ..LIMITS };
    let f = http().send(&Request { method: "GET", url: &server.url, headers: &[], body: b"" }, &limits).unwrap_err();
    assert_eq!((f.sent, f.cause), (Sent::Unknown, Cause::Timeout));
}

#[test]
fn a_body_is_bounded() {
    let f = get(&http(), &Script::of(vec![reply(200, "x".repeat(1001))]).url).unwrap_err();
    assert_eq!((f.cause, f.text.as_str()), (Cause::TooLong, "the answer is longer than 1000 bytes"));
    assert_eq!(get(&http(), &Script::of(vec![reply(200, "x".repeat(1000))]).url).unwrap().body.len(), 1000);
}

#[test]
fn the_date_of_an_answer_tells_how_wrong_our_clock_is() {
    let d = |head| {
        let server = Script::by(move |_, _| Answer::Reply(200, head, String::new()));
        get(&http(), &server.url).unwrap().server_ahead_ms()
    };
    assert!(d("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n").unwrap() < -86_400_000 * 365);
    assert_eq!(d("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nAge: 5\r\n"), None);
    assert_eq!(d("Date: yesterday\r\n"), None);
    assert_eq!(d(""), None);
}

#[test]
fn requests_are_not_shown() {
    let headers = [("authorization".to_owned(), "hidden".to_owned())];
    let r = Request { method: "GET", url: "http://x/", headers: &headers, body: b"hidden" };
    assert_eq!(format!("{r:?}"), "GET http://x/");
}

#[test]
fn a_ca_bundle_must_hold_certificates() {
    let clock = Arc::new(Clock::new(None).unwrap());
    let e = Http::for_aws(&clock, &Roots::Pem("/dev/null".into())).unwrap_err();
    assert_eq!(e.to_string(), "AWS_CA_BUNDLE /dev/null holds no PEM certificate");
    let e = Http::for_aws(&clock, &Roots::Pem("/no/such".into())).unwrap_err();
    assert!(e.to_string().starts_with("cannot read AWS_CA_BUNDLE /no/such: "));
    assert!(Http::for_aws(&clock, &Roots::Web).is_ok());
}

#[test]
fn the_end_of_time_is_no_date() {
    for (year, known) in [(2026, true), (2999, true), (3000, false), (9999, false)] {
        assert_eq!(parse_date(&format!("Fri, 31 Dec {year} 23:59:59 GMT")).is_some(), known, "{year}");
    }
}
