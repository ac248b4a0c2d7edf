//! The way to AWS: TLS, clocks that are wrong, credentials and regions from elsewhere.

use std::time::{Duration, Instant};

use crate::fakeaws::world::STATIC_KEY;
use crate::fakeaws::{Fault, FaultKind, InstanceSpec};
use crate::kit::{SHORT, bodies, one, record, to_queue, to_topic, zone};
use crate::lab::{How, Lab, once};

/// A volume, a record and two messages: all four services.
fn all_services(lab: &Lab) -> String {
    lab.pool_volume("d", "p");
    one(&format!(
        r#""attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p" }}],
            "update-route53": [{}], notify: [{}, {}]"#,
        record("a.example.com", ""),
        to_topic(SHORT),
        to_queue(SHORT)
    ))
}

#[test]
fn a_whole_run_over_tls() {
    let lab = Lab::new();
    let text = all_services(&lab);
    let run = lab.run(&text, How { tls: true, ..once() });
    run.ends(0, &["ready: d started"]);
    assert!(lab.server.calls().iter().all(|c| c.tls), "{run}");
    assert_eq!((lab.attached(&lab.me).len(), zone(&lab, "Z1").len(), bodies(&lab).len()), (1, 2, 2), "{run}");
}

#[test]
fn an_unknown_ca_is_said_and_soon() {
    let (lab, other) = (Lab::new(), Lab::new());
    let text = one(&format!("\"update-route53\": [{}]", record("a.example.com", "")));
    let begin = Instant::now();
    let how = How { tls: true, ..once() }.env("AWS_CA_BUNDLE", other.server.ca_pem().to_str().unwrap());
    let run = lab.run(&text, how);
    run.ends(1, &["cannot list the records at a.example.com. in hosted zone Z1", "certificate"]);
    assert!(begin.elapsed() < Duration::from_secs(10), "{run}");
    assert!(lab.server.calls().is_empty(), "{run}");
}

#[test]
fn a_bundle_that_cannot_be_used_is_named() {
    let lab = Lab::new();
    lab.run(&one(""), once().env("AWS_CA_BUNDLE", "/no/such/bundle.pem"))
        .ends(1, &["cannot read AWS_CA_BUNDLE /no/such/bundle.pem: No such file"]);
    let empty = lab.file("empty.pem", "nothing");
    lab.run(&one(""), once().env("AWS_CA_BUNDLE", empty.to_str().unwrap())).ends(1, &["holds no PEM certificate"]);
}

#[test]
fn a_wrong_clock_is_corrected_before_anything_is_signed() {
    for tls in [false, true] {
        for offset in ["-7200", "7200", "-315360000"] {
            let lab = Lab::new();
            let text = all_services(&lab);
            let how = How { tls, ..once() }.env("EC2FLEETD_CLOCK", &format!("offset={offset}"));
            let run = lab.run(&text, how);
            run.ends(0, &["the clock of this machine is ", "ready: d started"]);
            assert!(lab.server.calls().iter().all(|c| c.status == 200), "{offset} {run}");
        }
    }
}

#[test]
fn aws_has_the_last_word_on_the_time() {
    // The metadata service is another world's, two hours ahead of this machine and of AWS.
    let (lab, other) = (Lab::new(), Lab::new());
    other.server.world().knobs.clock_offset_s = 7200;
    let text = one(&format!("notify: [{}, {}]", to_topic(SHORT), to_queue(SHORT)));
    let how = keys(once()).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &other.server.imds_url(&other.me));
    let run = lab.run(&text, how);
    run.ends(0, &["behind the metadata service's: corrected for", "behind AWS's: corrected for", "ready: d started"]);
    assert_eq!(bodies(&lab).len(), 2, "{run}");
    let refused = lab.server.calls().iter().filter(|c| c.status != 200).count();
    assert!((1..=2).contains(&refused), "{run}");
}

#[test]
fn a_notice_is_judged_by_aws_clock() {
    let lab = Lab::new();
    // Three hours ahead: by its own clock the notice would be long past.
    let running = lab.start(&one(""), How::default().env("EC2FLEETD_CLOCK", "offset=10800"));
    running.says(&lab, "watching");
    lab.server.world().notice(&lab.me, "terminate", 120);
    running.wait(&lab).ends(0, &["EC2 is going to terminate", "interrupted: 10"]);
}

fn keys(how: How) -> How {
    how.env("AWS_ACCESS_KEY_ID", STATIC_KEY.0).env("AWS_SECRET_ACCESS_KEY", STATIC_KEY.1)
}

fn asked_for_role(lab: &Lab) -> bool {
    lab.server.imds_calls(&lab.me).iter().any(|c| c.path.contains("security-credentials"))
}

#[test]
fn keys_of_the_environment_are_used_before_the_roles() {
    let lab = Lab::with(InstanceSpec { role: None, ..InstanceSpec::default() });
    let text = one(&format!("notify: [{}]", to_topic(SHORT)));
    lab.run(&text, keys(once())).ends(0, &["told arn"]);
    assert_eq!(lab.server.calls()[0].access_key.as_deref(), Some(STATIC_KEY.0));
    assert!(!asked_for_role(&lab));
}

#[test]
fn half_a_pair_of_keys_is_an_error_that_names_the_other_half() {
    let lab = Lab::new();
    lab.run(&one(""), once().env("AWS_ACCESS_KEY_ID", "AKIA")).ends(1, &["AWS_SECRET_ACCESS_KEY is missing"]);
}

#[test]
fn a_profile_has_keys_and_region() {
    let lab = Lab::with(InstanceSpec { role: None, ..InstanceSpec::default() });
    let file = lab.file(
        "credentials",
        &format!(
            "[default]\nregion = us-east-1\n[fleet]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            STATIC_KEY.0, STATIC_KEY.1
        ),
    );
    let text = one(&format!("notify: [{}]", to_topic(SHORT)));
    let how = || once().env("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    lab.run(&text, how().arg("--profile=fleet")).ends(0, &["told arn"]);
    lab.run(&text, how().env("AWS_PROFILE", "fleet")).ends(0, &["told arn"]);
    assert!(!asked_for_role(&lab));
    lab.run(&text, how().arg("--profile=nope")).ends(1, &["nope"]);
    let sso = lab.file("config", "[profile sso]\nsso_start_url = https://x\nrole_arn = arn:aws:iam::1:role/x\n");
    lab.run(&text, once().env("AWS_CONFIG_FILE", sso.to_str().unwrap()).arg("--profile=sso")).ends(1, &["role_arn"]);
}

#[test]
fn the_region_of_the_environment_counts() {
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    let text = one(r#""attach-volume": [{ device: "/dev/xvdf", source: "p", "pool-name": "p" }]"#);
    // In the other region there is no such volume.
    let run = lab.run(&text, keys(once()).env("AWS_REGION", "us-east-1"));
    assert_eq!(run.code, 1, "{run}");
    lab.run(&text, keys(once())).ends(0, &["ready: d started"]);
}

#[test]
fn keys_that_end_during_the_run_are_replaced() {
    let lab = Lab::new();
    let running = lab.start(&one(&format!("notify: [{}]", to_topic(SHORT))), How::default());
    running.says(&lab, "told arn");
    let mut w = lab.server.world();
    w.expire_credentials(&lab.me);
    w.rotate_credentials(&lab.me);
    drop(w);
    running.signal("TERM");
    running.wait(&lab).ends(0, &["fleet: stopping"]);
    assert_eq!(bodies(&lab), ["d started", "d stopping"]);
}

#[test]
fn an_endpoint_that_is_no_url_is_named() {
    let lab = Lab::new();
    lab.run(&one(""), once().env("AWS_ENDPOINT_URL_SNS", "nonsense"))
        .ends(1, &["AWS_ENDPOINT_URL_SNS: 'nonsense' is no http:// or https:// URL"]);
}

#[test]
fn an_endpoint_in_the_clear_beyond_this_machine_is_warned_of() {
    let said = |url: &str| lab_says(&Lab::new(), url).matches("is a plain http:// URL").count();
    assert_eq!(said("http://192.0.2.1"), 1);
    assert_eq!(said("http://metadata.example:80/path"), 1);
    for quiet in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://192.0.2.1"] {
        assert_eq!(said(quiet), 0, "{quiet}");
    }
}

/// The log of a run that has nothing to ask of AWS.
fn lab_says(lab: &Lab, url: &str) -> String {
    let run = lab.run(&one(""), keys(once()).env("AWS_ENDPOINT_URL", url));
    run.ends(0, &["ready: d started"]);
    run.log
}

#[test]
fn a_queue_in_the_clear_is_asked_by_tls() {
    let lab = Lab::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let queue = format!("http://{}/1/q", listener.local_addr().unwrap());
    let heard = std::thread::spawn(move || {
        let mut first = [0; 2000];
        let (mut stream, _) = listener.accept().unwrap();
        let n = std::io::Read::read(&mut stream, &mut first).unwrap();
        first[..n].to_vec()
    });
    let text = one(&format!(r#"notify: [{{ backend: "aws-sqs", options: {{ "queue-url": "{queue}" }} }}]"#));
    lab.run(&text, keys(once()).rate(50).env("AWS_ENDPOINT_URL", "")).ends(0, &["cannot tell "]);
    let heard = heard.join().unwrap();
    // A TLS handshake: nothing of the message, of its signature or of a session token.
    assert_eq!(heard[..2], [22, 3], "{}", String::from_utf8_lossy(&heard));
}

#[test]
fn an_endpoint_where_nobody_answers_ends_with_the_deadline_of_init() {
    let lab = Lab::new();
    let text =
        format!("{{ timeout: 60, domains: {{ d: {{ \"update-route53\": [{}] }} }} }}", record("a.example.com", ""));
    let run = lab.run(&text, once().rate(50).env("AWS_ENDPOINT_URL_ROUTE_53", "http://127.0.0.1:1"));
    run.ends(
        1,
        &["cannot list the records at a.example.com. in hosted zone Z1: the time for it is over", "Connection refused"],
    );
}

#[test]
fn answers_that_make_no_sense_end_in_an_error_and_no_panic() {
    for kind in [FaultKind::Garbage, FaultKind::Truncated] {
        for action in ["DescribeVolumes", "ListResourceRecordSets", "ChangeResourceRecordSets"] {
            let lab = Lab::new();
            let text = all_services(&lab);
            lab.server.world().fault(Fault::every(action, kind.clone()));
            let run = lab.run(&text, once().rate(50));
            // Of a write of records that is carried out, a look tells.
            let written = action == "ChangeResourceRecordSets" && kind == FaultKind::Truncated;
            assert!(if written { run.code == 0 } else { [1, 3].contains(&run.code) }, "{action} {kind:?} {run}");
            assert!(run.log.lines().filter(|l| l.contains("Z error ")).count() <= 4, "{action} {kind:?} {run}");
        }
    }
}
