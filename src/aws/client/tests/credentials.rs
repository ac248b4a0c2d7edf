//! Clocks and credentials that are refused, over all services.

use super::*;

/// A metadata service whose role has the key `OLD` at first and then `NEW`.
fn role_service() -> Script {
    let given = AtomicU64::new(0);
    Script::by(move |_, asked| match asked.line.split(' ').nth(1) {
        Some("/latest/api/token") => reply(200, "token"),
        Some("/latest/meta-data/iam/security-credentials/") => reply(200, "r"),
        _ => {
            let id = if given.fetch_add(1, Ordering::Relaxed) == 0 { "OLD" } else { "NEW" };
            let keys = format!(r#""AccessKeyId":"{id}","SecretAccessKey":"s","Token":"t""#);
            reply(200, format!(r#"{{"Code":"Success",{keys},"Expiration":"2099-01-01T00:00:00Z"}}"#))
        }
    })
}

fn aws_of_role(metadata: &Script, server: &Script) -> (Aws, Arc<Clock>) {
    let clock = Arc::new(Clock::new(None).unwrap());
    let imds = Arc::new(Imds::new(vec![metadata.url.clone()], &clock));
    let config = AwsConfig { env: Env::of(&[("AWS_ENDPOINT_URL", &server.url)]), profile: None };
    let aws = Aws::new(&config, &clock, &imds).unwrap();
    aws.set_instance_region("eu-west-1");
    (aws, clock)
}

#[test]
fn credentials_that_are_refused_are_renewed_once() {
    let metadata = role_service();
    for (accepted, requests) in [("NEW", 2), ("NONE", 2)] {
        let server = Script::by(move |_, asked| match asked.header("authorization").unwrap().contains(accepted) {
            true => reply(200, NONE),
            false => error(403, "ExpiredToken", "m"),
        });
        let (aws, clock) = aws_of_role(&metadata, &server);
        let scope = Scope::new(&clock, Duration::from_secs(20), None);
        match aws.describe_volumes(&scope, &[]) {
            Ok(_) => assert_eq!(accepted, "NEW"),
            Err(e) => assert_eq!((e.class(), accepted), (Class::Auth, "NONE")),
        }
        assert!(server.asked().len() <= requests, "{:?}", server.lines());
    }
}

/// Asks one service after the other; which comes first is `first`.
fn ask_all(aws: &Aws, scope: &Scope, first: usize) {
    for n in 0..4 {
        let queue = "https://sqs.eu-west-1.amazonaws.com/1/q";
        let end = match (first + n) % 4 {
            0 => aws.attach_volume(scope, "vol-1", "i-1", "/dev/xvdf", &Still::always()).map(drop),
            1 => aws.records_at(scope, "Z1", "a.e.").map(drop),
            2 => aws.sns_publish(scope, "arn:aws:sns:eu-west-1:1:t", None, "s", "m", None).map(drop),
            _ => aws.sqs_send(scope, queue, None, "m", None).map(drop),
        };
        end.unwrap();
    }
}

/// What [`ask_all`] is answered when all is well.
fn success(asked: &Asked) -> String {
    match asked.body.as_str() {
        "" => "<ListResourceRecordSetsResponse><ResourceRecordSets/></ListResourceRecordSetsResponse>".into(),
        b if b.starts_with("Action=AttachVolume") => OK.into(),
        b if b.starts_with("Action=Publish") => "<PublishResponse/>".into(),
        _ => r#"{"MessageId":"m"}"#.into(),
    }
}

#[test]
fn each_error_of_a_wrong_clock_corrects_it_for_all_services_at_the_first_refusal() {
    const SKEW: [(u16, &str); 7] = [
        (401, "AuthFailure"),
        (400, "RequestExpired"),
        (403, "RequestTimeTooSkewed"),
        (403, "SignatureDoesNotMatch"),
        (403, "InvalidSignatureException"),
        (403, "RequestInTheFuture"),
        (403, "AccessDeniedException"),
    ];
    for (n, (status, code)) in SKEW.into_iter().enumerate() {
        let server = Script::by(move |_, asked: &Asked| {
            let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
            if asked.header("x-amz-date").unwrap().starts_with("19941106T08") {
                return Answer::Reply(200, date, success(asked));
            }
            let Answer::Reply(status, _, body) = error(status, code, "m") else { unreachable!() };
            Answer::Reply(status, date, body)
        });
        let (aws, clock) = aws_of(&server.url, "offset=864000");
        ask_all(&aws, &Scope::new(&clock, Duration::from_secs(60), None), n);
        assert_eq!(server.asked().len(), 5, "{code}: {:?}", server.lines());
    }
}

#[test]
fn each_error_of_credentials_that_ended_renews_them_once_for_all_services() {
    const OVER: [&str; 6] = [
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "AuthFailure",
    ];
    for (n, code) in OVER.into_iter().enumerate() {
        let metadata = role_service();
        let server = Script::by(move |_, asked| match asked.header("authorization").unwrap().contains("NEW") {
            true => reply(200, success(asked)),
            false => error(403, code, "m"),
        });
        let (aws, clock) = aws_of_role(&metadata, &server);
        ask_all(&aws, &Scope::new(&clock, Duration::from_secs(20), None), n);
        assert_eq!(server.asked().len(), 5, "{code}: {:?}", server.lines());
        let documents = metadata.lines().iter().filter(|l| l.ends_with("/r")).count();
        assert_eq!(documents, 2, "{code}: {:?}", metadata.lines());
    }
}
