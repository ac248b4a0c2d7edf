//! Clocks that are wrong, credentials that end, and the clock that waits go by.

use std::path::Path;

use crate::fakeaws::world::STATIC_KEY;
use crate::kit::{SHORT, bodies, on, one, record, sh, to_queue, to_topic};
use crate::lab::{How, Lab, Run, once};

/// A volume, a record and two messages, and these commands.
fn all_services(lab: &Lab, exec: &str) -> String {
    lab.pool_volume("d", "p");
    one(&format!(
        r#""attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p" }}],
            "update-route53": [{}], notify: [{}, {}], exec: [{exec}]"#,
        record("a.example.com", ""),
        to_topic(SHORT),
        to_queue(SHORT)
    ))
}

/// Until the test says `go`.
fn hold(events: &[&str]) -> String {
    on(events, &[sh("touch $LAB/holds; until [ -e $LAB/go ] || [ ! -d $LAB ]; do sleep 0.02; done")])
}

/// The actions that were refused.
fn refused(lab: &Lab) -> Vec<String> {
    lab.server.calls().into_iter().filter(|c| c.status != 200).map(|c| c.action).collect()
}

/// How often the role's credentials were fetched.
fn fetched(lab: &Lab) -> usize {
    let calls = lab.server.imds_calls(&lab.me);
    calls.iter().filter(|c| c.path.ends_with("security-credentials/fleet") && c.status == 200).count()
}

/// The calls that the daemon begins with are two reads side by side; both may be under way with the wrong time.
#[track_caller]
fn only_the_first_reads(refused: &[String], run: &Run) {
    let reads = ["DescribeVolumes", "ListResourceRecordSets"];
    let each_once = refused.iter().all(|a| refused.iter().filter(|b| a == *b).count() == 1);
    assert!(!refused.is_empty() && each_once && refused.iter().all(|a| reads.contains(&a.as_str())), "{run}");
}

#[test]
fn a_wrong_clock_costs_no_more_than_the_first_calls_whatever_comes_after() {
    for hours in [-3, 3] {
        // A metadata service that is wrong as well: what is right is known from AWS's first answers only.
        let (lab, other) = (Lab::new(), Lab::new());
        other.server.world().knobs.clock_offset_s = hours * 3600;
        let text = all_services(&lab, "");
        // The other world's instance has other disks: it is told of this one's.
        let disks = lab.root(&lab.me);
        let mut world = other.server.world();
        for (path, value) in [("meta-data/instance-id", lab.me.as_str()), ("meta-data/system", "nitro")] {
            world.imds(&other.me).overrides.insert(path.into(), value.into());
        }
        drop(world);
        let how = once()
            .env("AWS_ACCESS_KEY_ID", STATIC_KEY.0)
            .env("AWS_SECRET_ACCESS_KEY", STATIC_KEY.1)
            .env("EC2FLEETD_ROOT", disks.to_str().unwrap())
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &other.server.imds_url(&other.me));
        let run = lab.run(&text, how);
        run.ends(0, &["behind AWS's: corrected for", "ready: d started"]);
        only_the_first_reads(&refused(&lab), &run);
        assert_eq!(bodies(&lab), ["d started", "d started"], "{run}");
    }
}

#[test]
fn a_clock_that_steps_while_the_daemon_waits_is_corrected_by_the_first_refusal() {
    let lab = Lab::new();
    let running = lab.start(&one(&format!("notify: [{}]", to_topic(SHORT))), How::default());
    running.says(&lab, "told arn");
    lab.server.world().knobs.clock_offset_s = 7200;
    running.signal("TERM");
    running.wait(&lab).ends(0, &["behind AWS's: corrected for", "fleet: stopping"]);
    assert_eq!(bodies(&lab), ["d started", "d stopping"]);
    assert_eq!(refused(&lab), ["Publish"]);
}

#[test]
fn a_notice_that_is_past_by_aws_clock_is_not_acted_on() {
    let lab = Lab::new();
    // Three hours behind: by its own clock the notice is still to come.
    let running = lab.start(&one(""), How::default().env("EC2FLEETD_CLOCK", "offset=-10800"));
    running.says(&lab, "watching");
    lab.server.world().notice(&lab.me, "terminate", -600);
    running.says(&lab, "ignoring a notice that is not valid");
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["EC2 is going to terminate"]);
    let budget = run.log.lines().find_map(|l| l.split_once("interrupted: ")?.1.split_once(" s for the way out"));
    let budget: u64 = budget.unwrap().0.parse().unwrap();
    assert!((60..=110).contains(&budget), "two minutes less the margin, by AWS's clock: {run}");
}

#[test]
fn credentials_that_ended_are_renewed_once_for_all_services() {
    let lab = Lab::new();
    let text = all_services(&lab, &hold(&["starting"]));
    let running = lab.start(&text, once());
    // They are fetched ahead, while the first command runs.
    lab.until("credentials and the command", || fetched(&lab) == 1 && lab.dir.join("holds").exists());
    let mut world = lab.server.world();
    world.expire_credentials(&lab.me);
    world.rotate_credentials(&lab.me);
    drop(world);
    lab.file("go", "");
    let run = running.wait(&lab);
    run.ends(0, &["ready: d started"]);
    only_the_first_reads(&refused(&lab), &run);
    assert_eq!(fetched(&lab), 2, "{run}");
    assert_eq!(bodies(&lab).len(), 2, "{run}");
}

#[test]
fn credentials_are_renewed_before_their_end_and_nothing_is_refused() {
    let lab = Lab::new();
    let mut world = lab.server.world();
    // The service has new ones 5 minutes before the end; a command takes 2 of the 6.
    world.instances.get_mut(&lab.me).unwrap().credential_life_ms = 6 * 60 * 1000;
    world.rotate_credentials(&lab.me);
    world.knobs.clock_rate = 100;
    world.knobs.signature_window_s = 3600;
    drop(world);
    let slept = on(&["starting"], &[sh("sleep 1.2")]);
    let text = all_services(&lab, &slept).replacen('{', "{ timeout: 86400,", 1);
    let run = lab.run(&text, once().rate(100));
    run.ends(0, &["ready: d started"]);
    assert!(refused(&lab).is_empty(), "{run}");
    assert!(fetched(&lab) >= 2, "{run}");
}

#[test]
fn credentials_that_the_service_says_are_over_are_used_while_aws_takes_them() {
    let lab = Lab::new();
    let mut world = lab.server.world();
    let key = world.instances[&lab.me].credential.clone();
    let document = format!(
        r#"{{ "Code": "Success", "AccessKeyId": "{}", "SecretAccessKey": "{}", "Token": "{}",
             "Expiration": "2026-01-01T00:00:00Z" }}"#,
        key.access_key,
        key.secret,
        key.token.unwrap()
    );
    let path = "meta-data/iam/security-credentials/fleet";
    world.imds(&lab.me).overrides.insert(path.into(), document);
    drop(world);
    let text = all_services(&lab, "");
    let run = lab.run(&text, once());
    run.ends(0, &["credentials whose time is over; going on with them", "ready: d started"]);
    assert!(refused(&lab).is_empty(), "{run}");
    assert!(fetched(&lab) <= 3, "not once for each call: {run}");
    assert_eq!(bodies(&lab).len(), 2, "{run}");
}

#[test]
fn messages_are_sent_with_old_credentials_while_the_service_has_none() {
    let lab = Lab::new();
    let mut world = lab.server.world();
    // Almost over, by the daemon's rules, from the beginning.
    let instance = world.instances.get_mut(&lab.me).unwrap();
    (instance.credential_life_ms, instance.rotate_before_ms) = (4 * 60 * 1000, 0);
    world.rotate_credentials(&lab.me);
    world.knobs.clock_rate = 10;
    drop(world);
    let running = lab.start(
        &one(&format!("notify: [{}], exec: [{}]", to_topic(SHORT), hold(&["starting"]))),
        How::default().rate(10),
    );
    lab.until("credentials and the command", || fetched(&lab) == 1 && lab.dir.join("holds").exists());
    for path in ["", "fleet"] {
        let path = format!("meta-data/iam/security-credentials/{path}");
        lab.server.world().imds(&lab.me).missing.push(path);
    }
    lab.file("go", "");
    running.says(&lab, "told arn");
    lab.server.world().notice(&lab.me, "terminate", 600);
    running.wait(&lab).ends(0, &["going on with credentials whose time is almost over", "fleet: interrupted"]);
    assert_eq!(bodies(&lab), ["d started", "d interrupted"]);
    assert!(refused(&lab).is_empty());
}

/// The text of a source file without its tests.
fn source(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()
}

/// The source files that have `word` outside of their tests.
fn files_with(word: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut out: Vec<String> = crate::layers::sources()
        .iter()
        .map(|p| p.strip_prefix(&root).unwrap().display().to_string())
        .filter(|f| !f.ends_with("tests.rs") && !f.ends_with("properties.rs") && f != "http/script.rs")
        .filter(|f| source(f).contains(word))
        .collect();
    out.sort();
    out
}

/// A machine cannot be suspended in a test. So: one place reads the clock, which is the one that goes on meanwhile, and
/// every wait of the kernel (which stands still meanwhile) is short or comes back to that place.
#[test]
fn waits_go_by_the_clock_that_goes_on_while_the_machine_sleeps() {
    assert!(source("clock.rs").contains("ClockId::Boottime"));
    // `random.rs` wants a number, not a time.
    assert_eq!(files_with("clock_gettime"), ["clock.rs", "random.rs"]);
    assert_eq!(files_with("now_utc("), ["clock.rs", "log.rs"]);
    assert!(files_with("SystemTime::now").is_empty());
    // What a name server said is remembered for ten seconds, and asked for within seconds; so is a time server. A
    // request ends within 15 s.
    // The guard of a frozen file system is a process of its own: it thaws within seconds of the machine being awake.
    assert_eq!(files_with("Instant::now"), ["http/dns.rs", "http/watch.rs", "sntp.rs", "sys/freeze/guard.rs"]);
    assert_eq!(files_with("thread::sleep("), ["http/dns.rs", "scope.rs", "sys/freeze/guard.rs", "waits.rs"]);
    assert_eq!(files_with("recv_timeout("), ["sys/mod.rs"]);
    // At its end the process waits for its log, for two seconds; a program that is started, in naps.
    assert_eq!(files_with("wait_timeout"), ["apply/zone.rs", "log/queue.rs", "scope.rs", "sys/start.rs"]);
    assert_eq!(
        files_with("event::poll("),
        ["exec/child.rs", "exec/drain.rs", "sys/announced.rs", "sys/freeze.rs", "sys/freeze/guard.rs", "sys/mkfs.rs"]
    );
    // Those that may be long are taken in naps; the queue of a zone looks up every half second, and who reads the output
    // of background programs has no deadline.
    for file in ["scope.rs", "sys/announced.rs", "sys/mod.rs", "exec/child.rs"] {
        assert!(source(file).contains("clock.nap("), "{file}");
    }
    // Only the request to stop, and what happens until then, is waited for without an end.
    assert!(files_with("stop.wait(").is_empty());
    assert_eq!(files_with("stop.wait_or("), ["daemon/watch.rs"]);
}
