use super::*;
use crate::http::script::{Answer, Asked, Script, reply};
use crate::model::Facts;

fn clock() -> Arc<Clock> {
    // Pauses of seconds pass in milliseconds; the limits of a try have their floor.
    Arc::new(Clock::new(Some("rate=50")).unwrap())
}

fn scope(clock: &Arc<Clock>, seconds: u64) -> Scope {
    Scope::new(clock, Duration::from_secs(seconds), None)
}

fn imds(urls: &[&str]) -> (Imds, Arc<Clock>) {
    let clock = clock();
    (Imds::new(urls.iter().map(|u| (*u).to_owned()).collect(), &clock), clock)
}

/// A service that gives the tokens t0, t1, … and answers GETs by `f` (their number, path and token).
fn service(f: impl Fn(usize, &str, &str) -> Answer + Send + Sync + 'static) -> Script {
    let counts = Mutex::new((0, 0));
    Script::by(move |_, asked| {
        let mut counts = counts.lock().unwrap();
        if asked.line.starts_with("PUT /latest/api/token ") {
            assert_eq!(asked.header("x-aws-ec2-metadata-token-ttl-seconds"), Some("21600"));
            counts.0 += 1;
            return reply(200, format!("t{}", counts.0 - 1));
        }
        counts.1 += 1;
        f(counts.1 - 1, path(asked), asked.header("x-aws-ec2-metadata-token").unwrap_or("none"))
    })
}

fn path(asked: &Asked) -> &str {
    asked.line.split(' ').nth(1).unwrap()
}

#[test]
fn a_value_takes_one_token_and_one_connection() {
    let server = service(|_, path, token| match (path, token) {
        ("/latest/meta-data/instance-id", "t0") => reply(200, "i-1"),
        ("/latest/user-data", "t0") => reply(200, "data"),
        _ => reply(404, "<html>no</html>"),
    });
    let (imds, clock) = imds(&[&server.url]);
    let scope = scope(&clock, 60);
    assert_eq!(imds.get(&scope, "instance-id").unwrap().as_deref(), Some("i-1"));
    assert_eq!(imds.get(&scope, "nothing").unwrap(), None);
    assert_eq!(imds.user_data(&scope).unwrap().unwrap(), b"data");
    assert_eq!(server.asked().len(), 4);
    assert!(server.asked().iter().all(|a| a.connection == 0));
}

#[test]
fn each_401_takes_a_new_token_until_one_is_accepted() {
    let server = service(|_, _, token| if token == "t5" { reply(200, "v") } else { reply(401, "") });
    let (imds, clock) = imds(&[&server.url]);
    assert_eq!(imds.get(&scope(&clock, 60), "x").unwrap().as_deref(), Some("v"));
    assert_eq!(server.lines().iter().filter(|l| l.starts_with("PUT")).count(), 6);
}

#[test]
fn a_storm_of_401_ends_with_the_scope_and_is_named() {
    let server = service(|_, _, _| reply(401, ""));
    let (imds, clock) = imds(&[&server.url]);
    let e = imds.get(&scope(&clock, 10), "x").unwrap_err();
    assert_eq!(
        e.to_string(),
        "cannot read /latest/meta-data/x from the instance metadata service: the time for it is over; last: 401 (the \
         token is not accepted)"
    );
    assert_eq!(e.halt(), Some(Halt::Deadline));
}

#[test]
fn a_token_is_renewed_before_its_end() {
    let puts = Arc::new(AtomicUsize::new(0));
    let seen = puts.clone();
    let server = Script::by(move |_, asked| {
        if asked.line.starts_with("PUT") {
            seen.fetch_add(1, Ordering::Relaxed);
            return Answer::Reply(200, "X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 10\r\n", "t".to_owned());
        }
        reply(200, "v")
    });
    let (imds, clock) = imds(&[&server.url]);
    let scope = scope(&clock, 600);
    imds.get(&scope, "x").unwrap();
    imds.get(&scope, "x").unwrap();
    let before = puts.load(Ordering::Relaxed);
    scope.sleep(Duration::from_secs(10)).unwrap();
    imds.get(&scope, "x").unwrap();
    assert_eq!(puts.load(Ordering::Relaxed), before + 1);
    assert!(before <= 2);
}

#[test]
fn a_service_that_is_busy_or_slow_or_cut_off_is_asked_again() {
    let server = service(|n, _, _| match n {
        0 => reply(503, ""),
        1 => reply(500, ""),
        2 => reply(429, ""),
        3 => Answer::Close,
        4 => Answer::Hang(Duration::from_secs(2)),
        _ => reply(200, "v"),
    });
    let (imds, clock) = imds(&[&server.url]);
    assert_eq!(imds.get(&scope(&clock, 300), "x").unwrap().as_deref(), Some("v"));
}

#[test]
fn a_service_that_is_switched_off_is_an_error_at_once() {
    for server in [Script::of(vec![reply(403, "")]), service(|_, _, _| reply(403, ""))] {
        let (imds, clock) = imds(&[&server.url]);
        let e = imds.get(&scope(&clock, 60), "x").unwrap_err();
        assert_eq!(
            e.to_string(),
            "cannot read /latest/meta-data/x from the instance metadata service: refused with 403; it is switched off \
             for this instance (HttpEndpoint must be enabled) or does not give this path"
        );
    }
}

#[test]
fn an_answer_that_is_too_long_is_not_asked_for_again() {
    let server = service(|_, _, _| reply(200, "x".repeat((64 << 10) + 1)));
    let (imds, clock) = imds(&[&server.url]);
    let e = imds.get(&scope(&clock, 60), "x").unwrap_err().to_string();
    assert!(e.ends_with("service: the answer is longer than 65536 bytes"), "{e}");
    assert_eq!(server.asked().len(), 2);
    // What is more than a config may have is still read, for an error of its own.
    let server = service(|_, _, _| reply(200, "x".repeat((1 << 20) + 1)));
    let (imds, clock) = self::imds(&[&server.url]);
    assert_eq!(imds.user_data(&scope(&clock, 60)).unwrap().unwrap().len(), (1 << 20) + 1);
}

#[test]
fn version_1_is_never_used() {
    let server = Script::by(|_, a| if a.line.starts_with("PUT") { reply(404, "") } else { reply(200, "v") });
    let (imds, clock) = imds(&[&server.url]);
    let e = imds.get(&scope(&clock, 60), "x").unwrap_err().to_string();
    assert!(e.ends_with("gives no token (status 404): this is not version 2 of the service"), "{e}");
    assert_eq!(server.lines(), ["PUT /latest/api/token"]);
}

#[test]
fn a_token_request_without_answer_names_the_hop_limit() {
    let server = Script::of(vec![Answer::Hang(Duration::from_secs(3))]);
    let (imds, clock) = imds(&[&server.url]);
    let e = imds.get(&scope(&clock, 20), "x").unwrap_err().to_string();
    assert!(e.contains("HttpPutResponseHopLimit"), "{e}");
}

#[test]
fn the_second_endpoint_is_used_when_nobody_answers_at_the_first() {
    let server = service(|_, _, _| reply(200, "v"));
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (imds, clock) = imds(&[&format!("http://{dead}"), &server.url]);
    let scope = scope(&clock, 60);
    assert_eq!(imds.get(&scope, "x").unwrap().as_deref(), Some("v"));
    assert_eq!(imds.current.load(Ordering::Relaxed), 1);
    let (gone, clock) = super::tests::imds(&[&format!("http://{dead}")]);
    let e = gone.get(&super::tests::scope(&clock, 5), "x").unwrap_err().to_string();
    assert!(e.contains("; last: http://127.0.0.1:") && e.contains("no connection"), "{e}");
}

#[test]
fn a_request_to_stop_ends_the_waiting() {
    use crate::scope::{Stop, StopReason};
    let clock = Arc::new(Clock::new(None).unwrap());
    let server = service(|_, _, _| reply(503, ""));
    let imds = Imds::new(vec![server.url.clone()], &clock);
    let stop = Stop::new();
    let scope = Scope::new(&clock, Duration::from_secs(600), Some(&stop));
    std::thread::scope(|s| {
        let waiting = s.spawn(|| imds.get(&scope, "x"));
        std::thread::sleep(Duration::from_millis(300));
        stop.request(StopReason::Terminate);
        let halt = waiting.join().unwrap().unwrap_err().halt();
        assert_eq!(halt, Some(Halt::Stopped(StopReason::Terminate)));
    });
}

#[test]
fn the_facts_of_an_instance_with_one_interface_take_six_requests() {
    let server = service(|_, path, _| match path {
        "/latest/dynamic/instance-identity/document" => reply(
            200,
            r#"{"region":"eu-west-1","availabilityZone":"eu-west-1a","instanceId":"i-1","instanceType":"m7g.large","accountId":"1"}"#,
        ),
        "/latest/meta-data/ami-launch-index" => reply(200, "3"),
        "/latest/meta-data/system" => reply(200, "nitro"),
        "/latest/meta-data/network/interfaces/macs/" => reply(200, "02:00:00:00:00:01/"),
        "/latest/meta-data/network/interfaces/macs/02:00:00:00:00:01/public-ipv4s" => {
            reply(200, "192.0.2.1\n192.0.2.2\nnonsense")
        }
        _ => reply(404, "<html/>"),
    });
    let (imds, clock) = imds(&[&server.url]);
    let facts = imds.facts(&scope(&clock, 60)).unwrap();
    let ips = vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()];
    assert_eq!(
        facts,
        Facts {
            instance_id: "i-1".into(),
            instance_type: "m7g.large".into(),
            launch_index: 3,
            region: "eu-west-1".into(),
            zone: "eu-west-1a".into(),
            hypervisor: Some("nitro".into()),
            primary_ipv4: ips.clone(),
            all_ipv4: ips,
            ..Facts::default()
        }
    );
    assert_eq!(server.asked().len(), 7, "{:?}", server.lines());
}

#[test]
fn interfaces_are_ordered_by_device_and_ties_are_broken_by_mac() {
    let answers = |tie: bool| {
        service(move |_, path, _| {
            let path = path.trim_start_matches("/latest/meta-data/");
            match path.trim_start_matches("network/interfaces/macs/") {
                "" => reply(200, "02:00:00:00:00:01/\n02:00:00:00:00:02/\n../evil/"),
                "02:00:00:00:00:01/device-number" => reply(200, if tie { "0" } else { "1" }),
                "02:00:00:00:00:02/device-number" => reply(200, "0"),
                "02:00:00:00:00:01/public-ipv4s" => reply(200, "192.0.2.1"),
                "02:00:00:00:00:02/public-ipv4s" => reply(200, "192.0.2.2"),
                "02:00:00:00:00:02/ipv6s" => reply(200, "2001:db8::1"),
                "mac" => reply(200, "02:00:00:00:00:02"),
                "instance-id" | "instance-type" | "placement/region" | "placement/availability-zone" => reply(200, "x"),
                _ => reply(404, ""),
            }
        })
    };
    for tie in [false, true] {
        let server = answers(tie);
        let (imds, clock) = imds(&[&server.url]);
        let mut facts = imds.facts(&scope(&clock, 60)).unwrap();
        assert_eq!(facts.primary_ipv4, ["192.0.2.2"]);
        assert_eq!(facts.all_ipv4, ["192.0.2.2", "192.0.2.1"]);
        assert_eq!(facts.primary_ipv6, ["2001:db8::1"]);
        assert_eq!((facts.region.as_str(), facts.hypervisor.clone()), ("x", None));
        assert!(!imds.refresh_public_addresses(&scope(&clock, 60), &mut facts).unwrap());
    }
}

#[test]
fn a_fact_that_is_nowhere_is_named() {
    let server = service(|_, _, _| reply(404, ""));
    let (imds, clock) = imds(&[&server.url]);
    let e = imds.facts(&scope(&clock, 60)).unwrap_err().to_string();
    assert_eq!(
        e,
        "cannot read /latest/meta-data/instance-id from the instance metadata service: neither there nor in the \
         identity document"
    );
}

#[test]
fn the_service_mends_a_clock_that_is_far_off_unless_aws_disputes_it() {
    let server = Script::by(|_, a| match a.line.starts_with("PUT") {
        true => reply(200, "t"),
        false => Answer::Reply(200, "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "v".to_owned()),
    });
    let (imds, clock) = imds(&[&server.url]);
    imds.get(&scope(&clock, 60), "x").unwrap();
    assert!((clock.corrected().unix_timestamp() - 784_111_777).abs() < 100);
    clock.set_skew_ms(0);
    imds.dispute_date();
    imds.get(&scope(&clock, 60), "x").unwrap();
    assert_eq!(clock.skew_ms(), 0);
}
