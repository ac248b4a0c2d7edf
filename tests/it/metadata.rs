//! The metadata service: late, slow, refusing, and how little it is asked.

use std::io::Write;

use crate::fakeaws::InstanceSpec;
use crate::kit::{nic, note_events, one, record, seen, sh, to_topic, with_nics, zone};
use crate::lab::{How, Lab, USER_DATA_MARK, once};

fn from_user_data() -> How {
    How { user_data: true, ..once() }
}

#[test]
fn fresh_tokens_that_are_refused_are_replaced_until_one_is_good() {
    let lab = Lab::new();
    let now = lab.server.world().now_ms();
    lab.server.world().imds(&lab.me).refuse_gets_until_ms = now + 1000;
    let run = lab.run(&one(""), once().rate(10));
    run.ends(0, &["does not give", "the instance metadata service answers again"]);
    assert_eq!(run.log.matches("does not give").count(), 1, "{run}");
    let calls = lab.server.imds_calls(&lab.me);
    let refused = calls.iter().filter(|c| c.status == 401).count();
    let tokens = calls.iter().filter(|c| c.method == "PUT").count();
    // A new one after each refusal, and no GET without.
    assert!(refused >= 3 && tokens > refused / 2, "{refused} refusals, {tokens} tokens");
}

#[test]
fn late_credentials_are_waited_for() {
    let notify = one(&format!("notify: [{}]", to_topic("")));
    for late in ["absent", "AssumeRoleUnauthorizedAccess", "Failed"] {
        let lab = Lab::new();
        let mut w = lab.server.world();
        match late {
            "absent" => w.imds(&lab.me).credentials_late = 6,
            code => w.imds(&lab.me).credentials_code = Some((code.to_owned(), 4)),
        }
        drop(w);
        let run = lab.run(&notify, once().rate(20));
        run.ends(
            0,
            &["no credentials of the instance role yet", "credentials of the instance role have come", "told arn"],
        );
        assert_eq!(run.log.matches("no credentials of the instance role yet").count(), 1, "{run}");
    }
}

#[test]
fn a_role_that_is_swapped_is_found_again() {
    let lab = Lab::new();
    let notify = one(&format!("exec: [{{ on: ['started'], lines: [{}] }}], notify: [{}]", sh("true"), to_topic("")));
    let running = lab.start(&notify, How::default());
    running.says(&lab, "told arn");
    lab.server.world().swap_role(&lab.me, "other");
    running.signal("TERM");
    running.wait(&lab).ends(0, &["fleet: stopping"]);
    assert_eq!(lab.server.world().messages().len(), 2);
}

#[test]
fn a_switched_off_service_is_a_clear_error() {
    let lab = Lab::new();
    lab.server.world().imds(&lab.me).disabled = true;
    let run = lab.run(&one(""), once());
    run.ends(1, &["refused with 403", "HttpEndpoint must be enabled"]);
    assert_eq!(run.log.matches("error").count(), 1, "{run}");
}

#[test]
fn a_service_that_is_not_there_ends_with_one_message_in_bounded_time() {
    let lab = Lab::new();
    let how = || once().rate(200);
    // Port 1: nobody listens.
    let run = lab.run(&one(""), how().env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1"));
    run.ends(1, &["cannot read the instance's metadata", "http://127.0.0.1:1"]);
    assert_eq!(run.log.lines().filter(|l| l.contains("Z error ")).count(), 1, "{run}");
    let how = How { user_data: true, ..how() }.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1");
    lab.run(&one(""), how).ends(1, &["cannot read the user data"]);
}

#[test]
fn a_hop_limit_is_named_as_what_it_may_be() {
    let lab = Lab::new();
    lab.server.world().imds(&lab.me).hop_limit = true;
    lab.run(&one(""), once().rate(100)).ends(1, &["HttpPutResponseHopLimit"]);
}

#[test]
fn user_data_may_be_plain_gzip_base64_or_multipart() {
    let text = one(&format!("exec: [{}], \"x-secret\": \"{USER_DATA_MARK}\"", note_events()));
    let gzip = |bytes: &[u8]| {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(bytes).unwrap();
        e.finish().unwrap()
    };
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes).into_bytes();
    let multipart = format!(
        "Content-Type: multipart/mixed; boundary=\"=b=\"\r\nMIME-Version: 1.0\r\n\r\n--=b=\r\nContent-Type: text/cloud-config\r\n\r\n#cloud-config\r\n{{}}\r\n--=b=\r\nContent-Type: text/x-ec2fleetd\r\n\r\n{text}\r\n--=b=--\r\n"
    );
    let plain = text.as_bytes().to_vec();
    let forms = [
        plain.clone(),
        gzip(&plain),
        base64(&plain),
        base64(&gzip(&plain)),
        multipart.clone().into_bytes(),
        gzip(multipart.as_bytes()),
        [b"\xef\xbb\xbf".to_vec(), plain].concat(),
    ];
    for (n, form) in forms.into_iter().enumerate() {
        let lab = Lab::with(InstanceSpec { user_data: Some(form), ..InstanceSpec::default() });
        let run = run_as_it_is(&lab);
        run.ends(0, &["ready: d started"]);
        assert_eq!(seen(&lab), ["d starting", "d started"], "form {n}: {run}");
    }
}

/// Runs with the user data that the instance has.
fn run_as_it_is(lab: &Lab) -> crate::lab::Run {
    lab.run_user_data(once())
}

#[test]
fn no_user_data_is_nothing_to_do_and_ready() {
    for data in [None, Some(Vec::new()), Some(b"  \n".to_vec())] {
        let lab = Lab::with(InstanceSpec { user_data: data.clone(), ..InstanceSpec::default() });
        let path = lab.dir.join("notify");
        let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let run = lab.run_user_data(How::default().env("NOTIFY_SOCKET", path.to_str().unwrap()));
        run.ends(0, &["there is no config: nothing to do"]);
        let mut buffer = [0; 500];
        let mut told = Vec::new();
        while let Ok(n) = manager.recv(&mut buffer) {
            told.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
        }
        assert!(told.contains(&"READY=1".to_owned()), "{data:?} {told:?}");
    }
}

#[test]
fn user_data_for_somebody_else_gets_advice() {
    let secret = USER_DATA_MARK;
    for (data, said) in [
        (format!("#!/bin/sh\necho {secret}\n"), "the user data is a script (#!)"),
        (format!("#cloud-config\n# {secret}\n"), "the user data is for cloud-init (#cloud-config)"),
        (format!("<powershell>{secret}</powershell>"), "the user data is for Windows"),
    ] {
        let lab = Lab::with(InstanceSpec { user_data: Some(data.into_bytes()), ..InstanceSpec::default() });
        let run = run_as_it_is(&lab);
        run.ends(2, &[said, "MIME part of type text/x-ec2fleetd", "--userdata=FILE"]);
        assert!(lab.server.calls().is_empty(), "{run}");
    }
}

#[test]
fn what_is_wrong_in_user_data_is_not_repeated_in_the_log() {
    let lab = Lab::with(InstanceSpec {
        user_data: Some(format!("{{ domains: {{ d: {{ exec: [ \"{USER_DATA_MARK}\" ] }} }} }}").into_bytes()),
        ..InstanceSpec::default()
    });
    run_as_it_is(&lab).ends(2, &["domains.\"d\".exec[0]"]);
}

#[test]
fn few_requests_over_few_connections() {
    for further in [0, 2] {
        let mut nics = vec![nic(0, &["203.0.113.1"], &["2001:db8::1"])];
        nics.extend((1..=further).map(|n| nic(n, &["203.0.113.2"], &[])));
        let lab = with_nics(nics);
        lab.pool_volume("d", "p");
        let text = one(&format!(
            r#""attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p" }}],
                "update-route53": [{}], notify: [{}]"#,
            record("a.example.com", ""),
            to_topic("")
        ));
        let how = How { user_data: true, ..How::default() };
        let running = lab.start(&text, how);
        running.says(&lab, "ready: d started");
        let calls = lab.server.imds_calls(&lab.me);
        running.signal("TERM");
        let run = running.wait(&lab);
        run.ends(0, &[]);
        let paths: Vec<_> = calls.iter().map(|c| format!("{} {}", c.method, c.path)).collect();
        assert!(calls.len() <= 12 + 3 * further as usize, "{} requests: {paths:#?}", calls.len());
        assert!(lab.server.imds_connections(&lab.me) <= 4, "{} connections", lab.server.imds_connections(&lab.me));
        assert_eq!(zone(&lab, "Z1").len(), 2);
    }
}

#[test]
fn an_address_that_never_comes_is_not_asked_for_again_and_again() {
    let lab = with_nics(vec![nic(0, &[], &["2001:db8::1"])]);
    let records: Vec<String> = (0..6).map(|n| record(&format!("n{n}.example.com"), "")).collect();
    let run = lab.run(&one(&format!("\"update-route53\": [{}]", records.join(", "))), once());
    run.ends(0, &[]);
    let asked = lab.server.imds_calls(&lab.me).len();
    assert!(asked <= 15, "{asked} requests\n{run}");
}

#[test]
fn an_ipv6_endpoint() {
    let lab = Lab::new();
    let target = lab.server.imds_url(&lab.me).trim_start_matches("http://").to_owned();
    let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else { return };
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let out = std::net::TcpStream::connect(&target).unwrap();
            let (mut a, mut b) = (socket.try_clone().unwrap(), out.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut a, &mut b));
            let (mut a, mut b) = (out, socket);
            std::thread::spawn(move || std::io::copy(&mut a, &mut b));
        }
    });
    // The first one does not answer.
    let how = from_user_data().arg(&format!("--imds=127.0.0.1:1,[::1]:{port}"));
    lab.run(&one(""), how).ends(0, &["ready: d started"]);
}

#[test]
fn no_answer_of_the_service_makes_a_panic() {
    let junk = ["", "\0\u{1}", "[[[[", "{\"region\": 7}", "999999999999999999999", "../../etc/passwd\n<html>"];
    let paths = [
        "dynamic/instance-identity/document",
        "meta-data/system",
        "meta-data/ami-launch-index",
        "meta-data/network/interfaces/macs/",
        "meta-data/iam/security-credentials/",
        "meta-data/iam/security-credentials/fleet",
        "meta-data/spot/instance-action",
        "meta-data/instance-id",
        "user-data",
    ];
    let try_all = |path: &str| {
        for text in junk {
            let lab = Lab::new();
            lab.server.world().imds(&lab.me).overrides.insert(path.into(), text.into());
            let how = How { user_data: true, ..once() }.rate(400);
            // Its end is waited for, and the lab sees to it that there was no panic.
            let run = lab.run(&one(&format!("notify: [{}]", to_topic(""))), how);
            assert!([0, 1, 2].contains(&run.code), "{path} {text:?} {run}");
        }
    };
    std::thread::scope(|s| {
        for path in paths {
            s.spawn(move || try_all(path));
        }
    });
}

#[test]
fn an_address_that_may_come_late_is_not_asked_for_until_the_end_of_init() {
    let lab = with_nics(vec![nic(0, &[], &["2001:db8::5"])]);
    let records = format!(r#""update-route53": [{}]"#, record("a.example.com", ""));
    let gate = sh("touch $LAB/at; while ! [ -e $LAB/go ]; do sleep 0.01; done");
    let exec = format!("exec: [{}]", crate::kit::on(&["starting"], &[gate]));
    let running = lab.start(&one(&format!("{exec}, {records}")), once().rate(10));
    lab.until("the command", || lab.dir.join("at").exists());
    lab.server.world().imds(&lab.me).unavailable = u32::MAX;
    let begun = std::time::Instant::now();
    lab.file("go", "");
    let run = running.wait(&lab);
    run.ends(0, &["cannot ask again for a public address", "AAAA 2001:db8::5"]);
    assert!(begun.elapsed().as_secs() < 20, "{run}");
}
