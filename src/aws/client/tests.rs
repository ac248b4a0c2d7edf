use super::*;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::aws::ec2::Filter;
use crate::aws::{Aws, AwsConfig, Env, Lapsed, Still};
use crate::http::script::{Answer, Asked, Script, reply};
use crate::scope::{Halt, Stop, StopReason};

const OK: &str = "<AttachVolumeResponse><requestId>r</requestId></AttachVolumeResponse>";
const NONE: &str = "<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>";

/// Keys of the environment, and time runs a hundred times as fast.
fn aws_of(url: &str, rate: &str) -> (Aws, Arc<Clock>) {
    let clock = Arc::new(Clock::new(Some(rate)).unwrap());
    let imds = Arc::new(Imds::new(vec!["http://127.0.0.1:1".into()], &clock));
    let env = Env::of(&[
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-secret"),
        ("AWS_SESSION_TOKEN", "hidden-token"),
        ("AWS_ENDPOINT_URL", url),
    ]);
    let config = AwsConfig { env, profile: None };
    let aws = Aws::new(&config, &clock, &imds).unwrap();
    aws.set_instance_region("eu-west-1");
    (aws, clock)
}

fn run<T>(server: &Script, f: impl FnOnce(&Aws, &Scope) -> T) -> T {
    let (aws, clock) = aws_of(&server.url, "rate=100");
    f(&aws, &Scope::new(&clock, Duration::from_secs(120), None))
}

fn attach(server: &Script) -> Result<(), ApiError> {
    run(server, |aws, scope| aws.attach_volume(scope, "vol-1", "i-1", "/dev/xvdf", &Still::always()))
}

fn describe(server: &Script) -> Result<usize, ApiError> {
    run(server, |aws, scope| aws.describe_volumes(scope, &[Filter::exact("a", &["b"])]).map(|v| v.len()))
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    let (code, message) = (xml::escape(code), xml::escape(message));
    reply(
        status,
        format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>\
             <RequestID>r-1</RequestID></Response>"
        ),
    )
}

#[test]
fn a_request_is_signed_for_its_region_and_shows_no_secret() {
    let server = Script::of(vec![reply(200, OK)]);
    attach(&server).unwrap();
    let asked = &server.asked()[0];
    assert_eq!(asked.line, "POST / HTTP/1.1");
    let authorization = asked.header("authorization").unwrap();
    assert!(
        authorization
            .contains("/eu-west-1/ec2/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token,")
    );
    assert_eq!(asked.header("x-amz-security-token"), Some("hidden-token"));
    let (aws, _) = aws_of(&server.url, "rate=1");
    assert!(!format!("{aws:?}").contains("hidden"), "{aws:?}");
}

/// What is derived shows its parts, so each type that keys or tokens pass through is looked at with some in it.
#[test]
fn no_type_shows_a_secret() {
    let role = r#"{"Code":"Success","AccessKeyId":"AKID","SecretAccessKey":"hidden-secret","Token":"hidden-token","Expiration":"2099-01-01T00:00:00Z"}"#;
    let metadata = Script::by(move |_, asked| match asked.line.split(' ').nth(1) {
        Some("/latest/api/token") => reply(200, "hidden-imds-token"),
        Some("/latest/meta-data/iam/security-credentials/") => reply(200, "r"),
        _ => reply(200, role),
    });
    let server = Script::of(vec![reply(200, OK)]);
    let file = std::env::temp_dir().join(format!("ec2fleetd-credentials-{:x}", crate::random::bits()));
    std::fs::write(&file, "[p]\naws_access_key_id = AKID\naws_secret_access_key = hidden-secret\n").unwrap();
    let path = file.display().to_string();
    let shown = |env: &[(&str, &str)], profile: Option<&str>| {
        let clock = Arc::new(Clock::new(None).unwrap());
        let imds = Arc::new(Imds::new(vec![metadata.url.clone()], &clock));
        let config = AwsConfig { env: Env::of(env), profile: profile.map(str::to_owned) };
        let aws = Aws::new(&config, &clock, &imds).unwrap();
        aws.set_instance_region("eu-west-1");
        aws.attach_volume(
            &Scope::new(&clock, Duration::from_secs(20), None),
            "vol-1",
            "i-1",
            "/dev/xvdf",
            &Still::always(),
        )
        .unwrap();
        let loaded = crate::aws::profile::load(&config.env, profile);
        let keys = aws.client.provider.get(&Scope::new(&clock, Duration::from_secs(20), None)).unwrap();
        let parts = (format!("{:?}", keys.identity()), format!("{:?}", aws.client.provider));
        format!("{config:?} {aws:?} {:?} {imds:?} {loaded:?} {keys:?} {parts:?}", aws.client)
    };
    let url = ("AWS_ENDPOINT_URL", server.url.as_str());
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-secret"),
        ("AWS_SESSION_TOKEN", "hidden-token"),
    ];
    let all = [
        shown(&[url], None),
        shown(&[url, keys[0], keys[1], keys[2]], None),
        shown(&[url, ("AWS_SHARED_CREDENTIALS_FILE", &path)], Some("p")),
    ];
    std::fs::remove_file(file).unwrap();
    for text in all {
        assert!(text.contains("AKID") && !text.contains("hidden"), "{text}");
    }
    let sent = server.asked();
    assert_eq!(sent.len(), 3);
    let headers = sent[0].headers.clone();
    assert!(format!("{headers:?}").contains("hidden-token"), "it was sent, so it was there to be shown");
    let request = Request { method: "POST", url: "http://h", headers: &headers, body: b"hidden" };
    assert!(!format!("{request:?}").contains("hidden"), "{request:?}");
}

#[test]
fn a_region_is_part_of_a_host_name_and_never_more() {
    let server = Script::of(vec![reply(200, OK)]);
    for region in ["us-east.example/-1", "us-a@b-1", "eu-west-1/", "us-gov-#", "cn-?-1", "", "eu-west-1:80"] {
        let env = Env::of(&[("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", region)]);
        let clock = Arc::new(Clock::new(Some("rate=100")).unwrap());
        let imds = Arc::new(Imds::new(vec![server.url.clone()], &clock));
        let aws = Aws::new(&AwsConfig { env, profile: None }, &clock, &imds).unwrap();
        let e = aws
            .attach_volume(&Scope::new(&clock, Duration::from_secs(9), None), "v", "i", "d", &Still::always())
            .unwrap_err();
        assert!(e.to_string().contains(&format!("'{region}' is no region")), "{e}");
    }
}

#[test]
fn an_error_that_repeats_what_was_signed_shows_no_token() {
    let told = format!("{}The Canonical String should have been 'x-amz-security-token:hidden-token'", " ".repeat(950));
    for message in [told.clone(), told + &" ".repeat(4000)] {
        let server = Script::of(vec![error(403, "SignatureDoesNotMatch", &message)]);
        let text = attach(&server).unwrap_err().to_string();
        assert!(text.contains("SignatureDoesNotMatch") && !text.contains("hidden"), "{text}");
    }
}

#[test]
fn pages_are_read_until_the_token_is_empty_even_over_an_empty_page() {
    let page = |ids: &[&str], token: &str| {
        let items: String = ids.iter().map(|i| format!("<item><volumeId>{i}</volumeId></item>")).collect();
        reply(
            200,
            format!(
                "<DescribeVolumesResponse><volumeSet>{items}</volumeSet><nextToken>{token}</nextToken></DescribeVolumesResponse>"
            ),
        )
    };
    let server = Script::of(vec![page(&["vol-2"], "a b"), page(&[], "c"), page(&["vol-1"], "")]);
    assert_eq!(describe(&server).unwrap(), 2);
    let bodies: Vec<String> = server.asked().into_iter().map(|a| a.body).collect();
    assert!(bodies[0].ends_with("&MaxResults=500") && bodies[1].ends_with("&NextToken=a%20b") && bodies.len() == 3);
}

#[test]
fn a_throttled_call_is_sent_again_whatever_it_does() {
    let busy = || error(503, "RequestLimitExceeded", "slow down");
    let server = Script::of(vec![busy(), busy(), busy(), reply(200, OK)]);
    attach(&server).unwrap();
    assert_eq!(server.asked().len(), 4);
}

#[test]
fn a_read_survives_every_fault() {
    let server = Script::of(vec![
        reply(500, ""),
        Answer::Close,
        reply(502, "<html>bad gateway</html>"),
        Answer::Hang(Duration::from_secs(2)),
        reply(200, "garbage"),
        Answer::ReplyAndClose(503, String::new()),
        reply(200, NONE),
    ]);
    assert_eq!(describe(&server).unwrap(), 0);
}

#[test]
fn a_write_with_an_uncertain_end_is_not_sent_again() {
    for answer in [
        reply(500, ""),
        error(500, "InternalError", "m"),
        error(503, "Unavailable", "m"),
        Answer::Close,
        Answer::Hang(Duration::from_secs(2)),
        reply(200, "garbage"),
    ] {
        let server = Script::of(vec![answer.clone(), reply(200, OK)]);
        let e = attach(&server).unwrap_err();
        assert_eq!((e.class(), server.asked().len()), (Class::Ambiguous, 1), "{answer:?}");
    }
}

#[test]
fn a_write_that_may_be_repeated_is() {
    for answer in [reply(500, ""), Answer::Close, Answer::Hang(Duration::from_secs(2)), reply(200, "garbage")] {
        let server = Script::of(vec![answer, reply(200, "<CreateTagsResponse/>")]);
        run(&server, |aws, scope| aws.create_tags(scope, &["vol-1"], &[("k", "v")], &Still::always())).unwrap();
        assert_eq!(server.asked().len(), 2);
    }
}

/// Half an error, or the page of something on the way: nobody knows what AWS said.
#[test]
fn a_refusal_that_cannot_be_read_is_as_unclear_as_a_success_that_cannot() {
    for body in ["", "<Response><Errors><Error><Code>VolumeIn", "<html>bad request</html>"] {
        let server = Script::of(vec![reply(400, body), reply(200, OK)]);
        let e = attach(&server).unwrap_err();
        assert_eq!((e.class(), server.asked().len()), (Class::Ambiguous, 1), "{body}");
        let server = Script::of(vec![reply(404, body), reply(200, NONE)]);
        assert_eq!(describe(&server).unwrap(), 0, "{body}");
        // But not for ever.
        let server = Script::of(vec![reply(400, body)]);
        let e = describe(&server).unwrap_err();
        assert_eq!((e.class(), server.asked().len()), (Class::Ambiguous, MAX_GARBAGE as usize), "{body}");
        assert!(e.to_string().contains("HTTP status 400 without an error that can be read"), "{e}");
    }
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Script::of(vec![reply(200, NONE)]);
    for status in [301, 302, 303, 307, 308] {
        let header = Box::leak(format!("Location: {}/\r\n", elsewhere.url).into_boxed_str());
        let server = Script::of(vec![Answer::Reply(status, header, String::new())]);
        let e = describe(&server).unwrap_err();
        assert_eq!((e.class(), server.asked().len()), (Class::Fatal, 1), "{e}");
    }
    assert!(elsewhere.asked().is_empty());
}

#[test]
fn a_stale_connection_is_ambiguous_for_a_write_and_nothing_for_a_read() {
    let script = || Script::of(vec![reply(200, NONE), Answer::Close, reply(200, NONE)]);
    let server = script();
    run(&server, |aws, scope| {
        aws.describe_volumes(scope, &[]).unwrap();
        aws.describe_volumes(scope, &[]).unwrap();
    });
    assert_eq!(server.asked().len(), 3);
    let server = script();
    run(&server, |aws, scope| {
        aws.describe_volumes(scope, &[]).unwrap();
        assert_eq!(aws.attach_volume(scope, "v", "i", "d", &Still::always()).unwrap_err().class(), Class::Ambiguous);
    });
}

#[test]
fn a_refusal_is_final_and_says_which_request_it_was() {
    let server = Script::of(vec![error(403, "UnauthorizedOperation", "You are not authorized")]);
    let e = attach(&server).unwrap_err();
    assert_eq!((e.class(), e.code(), server.asked().len()), (Class::Denied, "UnauthorizedOperation", 1));
    assert_eq!(e.to_string(), "UnauthorizedOperation: You are not authorized (request id r-1)");
    let server = Script::of(vec![Answer::Reply(403, "x-amzn-RequestId: h-1\r\n", "<html/>".into())]);
    assert_eq!(
        attach(&server).unwrap_err().to_string(),
        "HTTP status 403 without an error that can be read (request id h-1)"
    );
}

#[test]
fn the_end_of_the_scope_says_what_was_going_on() {
    let server = Script::of(vec![error(503, "RequestLimitExceeded", "slow down")]);
    let e = describe(&server).unwrap_err();
    assert_eq!((e.halt(), e.code()), (Some(Halt::Deadline), "RequestLimitExceeded"));
    assert_eq!(e.to_string(), "the time for it is over; last answer: RequestLimitExceeded: slow down (request id r-1)");
    // With full jitter that doubles to 20 s, two minutes take a dozen tries or so, not hundreds.
    assert!((4..60).contains(&server.asked().len()), "{}", server.asked().len());
}

#[test]
fn a_request_to_stop_ends_the_tries() {
    let server = Script::of(vec![reply(503, "")]);
    let (aws, clock) = aws_of(&server.url, "rate=1");
    let stop = Stop::new();
    let scope = Scope::new(&clock, Duration::from_secs(600), Some(&stop));
    std::thread::scope(|s| {
        let call = s.spawn(|| aws.describe_volumes(&scope, &[]));
        std::thread::sleep(Duration::from_millis(200));
        stop.request(StopReason::Interrupted);
        assert_eq!(call.join().unwrap().unwrap_err().halt(), Some(Halt::Stopped(StopReason::Interrupted)));
    });
}

#[test]
fn nobody_there_is_not_sent_and_tried_on() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (aws, clock) = aws_of(&format!("http://127.0.0.1:{port}"), "rate=100");
    let scope = Scope::new(&clock, Duration::from_secs(30), None);
    let e = aws.attach_volume(&scope, "v", "i", "d", &Still::always()).unwrap_err();
    assert_eq!(e.halt(), Some(Halt::Deadline));
    assert!(e.to_string().contains(&format!("last answer: http://127.0.0.1:{port}: no connection: ")), "{e}");
}

#[test]
fn a_wrong_clock_is_corrected_once_by_the_date_of_the_refusal() {
    // What the server accepts: dates of 1994.
    let server = Script::by(|_, asked: &Asked| {
        let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        if asked.header("x-amz-date").unwrap().starts_with("19941106T08") {
            Answer::Reply(200, date, NONE.into())
        } else {
            let Answer::Reply(status, _, body) = error(401, "AuthFailure", "m") else { unreachable!() };
            Answer::Reply(status, date, body)
        }
    });
    let (aws, clock) = aws_of(&server.url, "offset=864000");
    let scope = Scope::new(&clock, Duration::from_secs(60), None);
    aws.describe_volumes(&scope, &[]).unwrap();
    aws.describe_volumes(&scope, &[]).unwrap();
    assert_eq!(server.asked().len(), 3);
    assert!(clock.skew_ms() < -864_000_000);
}

#[test]
fn a_refusal_at_the_right_time_is_no_matter_of_the_clock() {
    let server = Script::of(vec![error(401, "AuthFailure", "no")]);
    assert_eq!(describe(&server).unwrap_err().class(), Class::Auth);
    assert_eq!(server.asked().len(), 1, "fixed keys cannot be renewed");
}

#[test]
fn errors_of_sqs_are_json() {
    let send = |answer| {
        let server = Script::of(vec![answer]);
        let url = "https://sqs.us-east-2.amazonaws.com/1/q";
        let out = run(&server, |aws, scope| aws.sqs_send(scope, url, Some("us-east-2"), "m", None));
        (out, server.asked()[0].clone())
    };
    let body = r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"The specified queue does not exist."}"#;
    let (e, asked) = send(Answer::Reply(400, "x-amzn-requestid: q-1\r\n", body.into()));
    let e = e.unwrap_err();
    assert_eq!(e.class(), Class::Gone);
    assert_eq!(e.to_string(), "QueueDoesNotExist: The specified queue does not exist. (request id q-1)");
    assert!(asked.header("authorization").unwrap().contains("/us-east-2/sqs/aws4_request"));
    assert_eq!(asked.header("x-amz-target"), Some("AmazonSQS.SendMessage"));
    send(reply(200, r#"{"MessageId":"m","MD5OfMessageBody":"x"}"#)).0.unwrap();
}

#[test]
fn the_sets_of_a_name_are_read_over_pages_until_another_name_comes() {
    let page = |names: &[&str], next: Option<&str>| {
        let sets: String = names
            .iter()
            .map(|n| format!("<ResourceRecordSet><Name>{n}</Name><Type>A</Type></ResourceRecordSet>"))
            .collect();
        let next = next.map_or("<IsTruncated>false</IsTruncated>".to_owned(), |n| {
            format!(
                "<IsTruncated>true</IsTruncated><NextRecordName>{n}</NextRecordName><NextRecordType>A</NextRecordType>"
            )
        });
        reply(
            200,
            format!(
                "<ListResourceRecordSetsResponse><ResourceRecordSets>{sets}</ResourceRecordSets>{next}</ListResourceRecordSetsResponse>"
            ),
        )
    };
    let list = |answers| {
        let server = Script::of(answers);
        let sets = run(&server, |aws, scope| aws.records_at(scope, "Z1", "*.E.com")).unwrap();
        (sets.len(), server)
    };
    let (found, server) = list(vec![
        page(&["\\052.e.com."], Some("\\052.e.com.")),
        page(&["\\052.e.com.", "a.e.com."], Some("b.e.com.")),
    ]);
    assert_eq!((found, server.asked().len()), (2, 2));
    assert!(server.lines()[1].contains("?name=%2A.e.com.&type=A"), "{:?}", server.lines());
    assert!(server.asked()[0].header("authorization").unwrap().contains("/us-east-1/route53/"));
    assert_eq!(list(vec![page(&["z.e.com."], Some("y.e.com."))]).0, 0);
    assert_eq!(list(vec![page(&[], None)]).0, 0);
}

#[test]
fn a_batch_is_repeated_only_if_it_upserts_and_prior_requests_are_waited_for() {
    use crate::aws::route53::{Change, RecordSet};
    let set = RecordSet::simple("a.e.com", "A", 60, &["192.0.2.1".into()]);
    let ok = || reply(200, "<ChangeResourceRecordSetsResponse/>");
    let prior = || error(400, "PriorRequestNotComplete", "m");
    for (action, first, want) in [
        (Change::upsert as fn(RecordSet) -> Change, Answer::Close, Ok(())),
        (Change::delete, Answer::Close, Err(Class::Ambiguous)),
        (Change::delete, prior(), Ok(())),
        (Change::create, error(400, "InvalidChangeBatch", "m"), Err(Class::Conflict)),
    ] {
        let server = Script::of(vec![first, ok()]);
        let got = run(&server, |aws, scope| aws.change_record_sets(scope, "Z1", &[action(set.clone())]));
        assert_eq!(got.map_err(|e| e.class()), want);
        assert!(server.lines()[0].ends_with("/2013-04-01/hostedzone/Z1/rrset/"));
    }
}

/// Throttled, unanswered, refused for the clock: what a call changes is looked at again before each try.
#[test]
fn a_call_is_not_repeated_on_what_has_changed_meanwhile() {
    for first in [error(503, "RequestLimitExceeded", "slow down"), reply(500, ""), Answer::Close] {
        let server = Script::of(vec![first, reply(200, "<DeleteVolumeResponse/>")]);
        let asked = AtomicU64::new(0);
        let ask = |_: &Scope| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err(Lapsed::Changed("vol-1 is now attached to i-2".to_owned())),
        };
        let end = run(&server, |aws, scope| aws.delete_volume(scope, "vol-1", &Still::while_(&ask)));
        let e = end.unwrap_err();
        assert_eq!((e.class(), e.to_string().as_str()), (Class::Lapsed, "vol-1 is now attached to i-2"));
        assert_eq!((server.asked().len(), asked.load(Ordering::Relaxed)), (1, 2));
        // Who has just looked is not asked before the first try.
        let server = Script::of(vec![error(503, "RequestLimitExceeded", ""), reply(200, "<DeleteVolumeResponse/>")]);
        let ask = |_: &Scope| Err(Lapsed::Unknown(ApiError::ours("DescribeVolumes", Class::Denied, "no")));
        let e = run(&server, |aws, scope| aws.delete_volume(scope, "vol-1", &Still::again(&ask))).unwrap_err();
        assert_eq!((e.class(), e.action, server.asked().len()), (Class::Denied, "DescribeVolumes", 1));
    }
}

#[test]
fn nothing_is_sent_for_nothing() {
    let server = Script::of(vec![reply(500, "")]);
    run(&server, |aws, scope| {
        aws.delete_tags(scope, &["vol-1"], &[], &Still::always()).unwrap();
        aws.create_tags(scope, &[], &[("k", "v")], &Still::always()).unwrap();
        aws.change_record_sets(scope, "Z1", &[]).unwrap();
    });
    assert!(server.asked().is_empty());
}

mod credentials;
