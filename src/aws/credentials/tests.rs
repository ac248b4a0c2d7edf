use super::*;
use crate::http::script::{Answer, Script, reply};

/// A metadata service that answers the n-th GET (the token aside) by `f`.
fn service(f: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> Script {
    let count = Mutex::new(0);
    Script::by(move |_, asked| {
        if asked.line.starts_with("PUT") {
            return reply(200, "token");
        }
        let mut count = count.lock().unwrap();
        *count += 1;
        let path = asked.line.split(' ').nth(1).unwrap();
        f(*count - 1, path.trim_start_matches("/latest/meta-data/iam/security-credentials/"))
    })
}

fn document(id: &str, minutes: i64) -> String {
    let end = OffsetDateTime::now_utc() + time::Duration::minutes(minutes);
    let end = end.format(&Rfc3339).unwrap();
    format!(
        r#"{{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"{id}","SecretAccessKey":"s","Token":"t","Expiration":"{end}"}}"#
    )
}

fn provider(server: &Script, rate: &str) -> (Provider, Arc<Clock>) {
    let clock = Arc::new(Clock::new(Some(rate)).unwrap());
    let imds = Arc::new(Imds::new(vec![server.url.clone()], &clock));
    let env = Env::of(&[]);
    (Provider::new(&env, None, &imds, &clock).unwrap().0, clock)
}

fn scope(clock: &Arc<Clock>) -> Scope {
    Scope::new(clock, Duration::from_secs(60), None)
}

#[test]
fn secrets_are_not_shown() {
    let keys = Keys::new("AKID", "hidden-secret", Some("hidden-token"));
    assert_eq!(format!("{keys:?}"), "Keys { id: \"AKID\", expires: None, .. }");
    let server = service(|_, _| reply(404, ""));
    let (provider, _) = provider(&server, "rate=1");
    provider.lock().keys = Some(Arc::new(keys));
    assert!(!format!("{provider:?}").contains("hidden"));
}

#[test]
fn a_role_takes_two_requests_and_its_keys_are_kept() {
    let server =
        service(|_, path| if path.is_empty() { reply(200, "my-role") } else { reply(200, document("A", 360)) });
    let (provider, clock) = provider(&server, "rate=1");
    assert_eq!(provider.get(&scope(&clock)).unwrap().id, "A");
    assert_eq!(provider.get(&scope(&clock)).unwrap().id, "A");
    assert_eq!(
        server.lines()[1..],
        ["GET /latest/meta-data/iam/security-credentials/", "GET /latest/meta-data/iam/security-credentials/my-role"]
    );
}

#[test]
fn late_refused_and_swapped_credentials_are_waited_for() {
    let server = service(|n, path| match (n, path) {
        (0, _) => reply(404, ""), // no profile yet
        (1, _) => reply(200, ""), // an empty list
        (2, _) => reply(200, "old"),
        (3, "old") => reply(404, ""), // swapped meanwhile
        (4, "") | (6, "") | (8, "") => reply(200, "new"),
        (5, "new") => reply(200, r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"m"}"#),
        (7, "new") => reply(200, "<html/>"),
        (9, "new") => reply(200, document("A", 360)),
        _ => reply(404, ""),
    });
    let (provider, clock) = provider(&server, "rate=50");
    assert_eq!(provider.get(&Scope::new(&clock, Duration::from_secs(300), None)).unwrap().id, "A");
}

#[test]
fn an_instance_without_a_role_is_told_so_in_the_end() {
    let (provider, clock) = provider(&service(|_, _| reply(404, "")), "rate=100");
    let e = provider.get(&scope(&clock)).unwrap_err();
    assert_eq!(
        e.to_string(),
        "cannot get credentials of the instance role: the time for it is over; the instance has no role (no instance \
         profile is associated)"
    );
    assert_eq!(e.halt(), Some(Halt::Deadline));
    let server =
        service(|_, p| reply(200, if p.is_empty() { "r" } else { r#"{"Code":"InvalidRole","Message":"gone"}"# }));
    let (provider, clock) = super::tests::provider(&server, "rate=100");
    assert!(provider.get(&scope(&clock)).unwrap_err().to_string().ends_with("; role r: InvalidRole: gone"));
}

#[test]
fn keys_are_renewed_five_minutes_before_their_end() {
    let server = service(|n, path| match path {
        "" => reply(200, "r"),
        _ if n == 1 => reply(200, document("A", 4)),
        _ => reply(200, document("B", 360)),
    });
    let (provider, clock) = provider(&server, "rate=1");
    assert_eq!(provider.get(&scope(&clock)).unwrap().id, "A");
    assert_eq!(provider.get(&scope(&clock)).unwrap().id, "B");
    assert_eq!(provider.get(&scope(&clock)).unwrap().id, "B");
    assert_eq!(server.asked().len(), 4, "the role's name is known by then");
}

#[test]
fn keys_beyond_their_end_are_used_on_when_there_are_no_others() {
    let server = service(|_, path| if path.is_empty() { reply(200, "r") } else { reply(200, document("A", -10)) });
    let (provider, clock) = provider(&server, "rate=1");
    for _ in 0..5 {
        assert_eq!(provider.get(&scope(&clock)).unwrap().id, "A");
    }
    assert_eq!(server.asked().len(), 4, "one look for newer ones, not one for each request");
}

#[test]
fn while_one_thread_renews_the_others_go_on() {
    let server = service(|n, path| match path {
        "" => reply(200, "r"),
        _ if n == 1 => reply(200, document("A", 4)),
        _ => {
            std::thread::sleep(Duration::from_millis(600));
            reply(200, document("B", 360))
        }
    });
    let (provider, clock) = provider(&server, "rate=1");
    provider.get(&scope(&clock)).unwrap();
    std::thread::scope(|s| {
        let renewing = s.spawn(|| provider.get(&scope(&clock)).unwrap().id.clone());
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(provider.get(&scope(&clock)).unwrap().id, "A");
        assert_eq!(renewing.join().unwrap(), "B");
    });
}

#[test]
fn what_is_over_is_not_gone_on_with_while_one_thread_renews() {
    let server = service(|n, path| match path {
        "" => reply(200, "r"),
        _ if n == 1 => reply(200, document("A", -1)),
        _ => {
            std::thread::sleep(Duration::from_millis(300));
            reply(200, document("B", 360))
        }
    });
    let (provider, clock) = provider(&server, "rate=1");
    provider.get(&scope(&clock)).unwrap();
    std::thread::scope(|s| {
        let all: Vec<_> = (0..3).map(|_| s.spawn(|| provider.get(&scope(&clock)).unwrap().id.clone())).collect();
        for one in all {
            assert_eq!(one.join().unwrap(), "B");
        }
    });
    assert_eq!(server.asked().len(), 4, "one of them asks");
}

#[test]
fn after_a_refusal_newer_keys_are_fetched_once() {
    let server = service(|n, path| match path {
        "" => reply(200, "r"),
        _ => reply(200, document(if n == 1 { "A" } else { "B" }, 360)),
    });
    let (provider, clock) = provider(&server, "rate=1");
    let a = provider.get(&scope(&clock)).unwrap();
    let b = provider.after_refusal(&scope(&clock), &a).unwrap();
    assert_eq!(b.id, "B");
    assert_eq!(provider.after_refusal(&scope(&clock), &a).unwrap(), b, "another thread's refusal finds them there");
}

#[test]
fn the_environment_comes_first_and_must_be_whole() {
    let clock = Arc::new(Clock::new(None).unwrap());
    let imds = Arc::new(Imds::new(vec!["http://127.0.0.1:1".into()], &clock));
    let of = |env: &[(&str, &str)]| Provider::new(&Env::of(env), None, &imds, &clock);
    let (a, b) = (("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "S"));
    assert_eq!(of(&[a, b]).unwrap().0.get(&scope(&clock)).unwrap().id, "A");
    assert_eq!(
        of(&[a]).unwrap_err().to_string(),
        "cannot get credentials: of the two keys in the environment AWS_SECRET_ACCESS_KEY is missing"
    );
    assert!(of(&[b]).unwrap_err().to_string().ends_with("AWS_ACCESS_KEY_ID is missing"));
    let e = of(&[("AWS_PROFILE", "x"), ("AWS_CONFIG_FILE", "/no"), ("AWS_SHARED_CREDENTIALS_FILE", "/no")]);
    assert!(e.unwrap_err().to_string().starts_with("cannot get credentials: no profile 'x'"));
}

/// One thread waits for a role that does not come, for as long as its own scope goes on; another has less time.
#[test]
fn a_call_does_not_wait_longer_than_its_own_scope_for_the_keys_that_another_asks_for() {
    let server = service(|_, _| reply(404, ""));
    let (provider, clock) = provider(&server, "rate=50");
    let stop = crate::scope::Stop::new();
    std::thread::scope(|s| {
        let first = s.spawn(|| provider.get(&Scope::new(&clock, Duration::from_secs(3000), Some(&stop))));
        while provider.renewing.try_lock().is_ok() {
            std::thread::yield_now();
        }
        let brief = Scope::new(&clock, Duration::from_secs(2), None);
        let error = provider.get(&brief).unwrap_err();
        let used = Arc::new(Keys::new("A", "s", None));
        assert!(provider.after_refusal(&Scope::new(&clock, Duration::from_secs(2), None), &used).is_none());
        // The first one goes on.
        assert!(!first.is_finished());
        assert_eq!(error.halt(), Some(Halt::Deadline));
        assert!(error.to_string().ends_with("another call is still asking for them"), "{error}");
        stop.request(crate::scope::StopReason::Terminate);
        assert!(first.join().unwrap().is_err());
    });
}
