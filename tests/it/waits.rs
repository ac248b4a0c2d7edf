//! `wait`: volumes that others hold are waited for and taken the moment they are free.

use crate::disks::{config, directive, id, timed, volume};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::lab::{How, Lab, Running, once};

/// A directive for volume 1 as /dev/xvdf.
fn x(source: &str, rest: &str) -> String {
    let rest = format!(r#""volume-id": "{}", "pool-name": "p", create: {{ Size: 4 }}, {rest}"#, id(1));
    volume(source, "/dev/xvdf", &rest)
}

/// A directive of pool `p`.
fn p(source: &str, device: &str, rest: &str) -> String {
    volume(source, device, &format!(r#""pool-name": "p", create: {{ Size: 4 }}, {rest}"#))
}

/// A lab where volume 1 of pool `p` is a neighbour's.
fn held() -> (Lab, String) {
    let lab = Lab::new();
    let other = lab.neighbour();
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)).attached(&other, "/dev/xvdf"));
    (lab, other)
}

/// What EC2 says of an instance.
fn state(lab: &Lab, instance: &str, state: &str) {
    lab.server.world().set_instance_state(instance, state);
}

/// Waits until it has looked so many times more.
fn looks(lab: &Lab, n: usize) {
    let before = lab.count("DescribeVolumes");
    lab.until("more looks", || lab.count("DescribeVolumes") >= before + n);
}

/// The end of a run that got volume 1.
fn gets(lab: &Lab, run: Running, source: &str) {
    let run = run.wait(lab);
    run.ends(0, &[&format!("{} attached as /dev/xvdf", id(1))]);
    assert_eq!(lab.seen(), [format!("{} true {source} p", id(1))], "{run}");
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

#[test]
fn a_volume_is_taken_when_its_holder_lets_go() {
    for (source, config) in [("x", config(&x("xc", "wait: 300"))), ("p", config(&p("pc", "/dev/xvdf", "wait: 300")))] {
        let (lab, other) = held();
        let run = lab.start(&config, once().rate(20));
        run.says(&lab, &format!("held by {other}, which is running"));
        run.says(&lab, "; waiting up to 300 s");
        looks(&lab, 3);
        assert_eq!(lab.count("AttachVolume"), 0);
        lab.set_attachment(&id(1), "detaching", 60);
        gets(&lab, run, source);
        assert_eq!(lab.count("AttachVolume"), 1);
    }
}

#[test]
fn the_log_and_the_manager_are_told_who_holds_it_and_what_becomes_of_that() {
    let (lab, other) = held();
    let run = lab.start(&config(&x("x", "wait: 300")), once().rate(100));
    let holds = format!("{} is held by {other}, which is", id(1));
    run.says(&lab, &format!("{holds} running"));
    state(&lab, &other, "shutting-down");
    run.says(&lab, &format!("{holds} shutting-down"));
    // A minute later, though nothing has changed.
    run.says(&lab, " s of 300 s");
    lab.set_attachment(&id(1), "detaching", 200);
    run.says(&lab, &format!("{} is being detached from {other}", id(1)));
    let text = run.log();
    gets(&lab, run, "x");
    assert_eq!(text.matches(&format!("{holds} running; waiting up to")).count(), 1, "{text}");
    let told = lab.manager.told();
    assert!(told.contains(&format!("STATUS=domains.\"d\".attach-volume[0]: {holds} shutting-down")), "{told}");
}

#[test]
fn a_holder_that_is_terminated_meanwhile() {
    let (lab, other) = held();
    let run = lab.start(&config(&x("x", "wait: 300")), once().rate(20));
    run.says(&lab, "which is running");
    // Without `fence`, EC2 itself must free it.
    state(&lab, &other, "terminated");
    run.says(&lab, "which is terminated");
    assert_eq!(lab.count("DetachVolume"), 0);
    lab.server.world().terminate(&other);
    gets(&lab, run, "x");
    assert_eq!(lab.count("DetachVolume"), 0);
}

#[test]
fn a_volume_that_comes_into_an_empty_pool_is_taken() {
    let lab = Lab::new();
    let run = lab.start(&config(&p("pc", "/dev/xvdf", "wait: 300")), once().rate(20));
    run.says(&lab, "pool 'p' has no volume in eu-west-1a; waiting up to 300 s");
    looks(&lab, 2);
    // Another zone's is of no use.
    lab.volume(VolumeSpec::pool("d", "p").id(&id(2)).zone("eu-west-1b"));
    looks(&lab, 2);
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    gets(&lab, run, "p");
    assert_eq!(lab.count("DescribeInstances"), 0);
}

#[test]
fn the_next_source_comes_only_when_the_wait_is_over() {
    for directive in [x("xc", "wait: 60"), p("pc", "/dev/xvdf", "wait: 60")] {
        let (lab, other) = held();
        let run = lab.start(&config(&directive), once().rate(20));
        run.says(&lab, "waiting up to 60 s");
        looks(&lab, 5);
        assert_eq!(lab.count("CreateVolume"), 0);
        let run = run.wait(&lab);
        run.ends(0, &[&format!("held by {other}, which is running"), "; waited 60 s"]);
        assert_eq!(lab.attached(&lab.me), [(lab.created()[0].clone(), "/dev/xvdf".into())], "{run}");
    }
}

#[test]
fn when_the_wait_is_over_the_failure_names_holder_and_state() {
    let (lab, other) = held();
    state(&lab, &other, "stopping");
    let run = lab.run(&config(&x("x", "wait: 20")), once().rate(20));
    let why = format!("no volume to be had (x: {} is held by {other}, which is stopping; waited 20 s)", id(1));
    run.ends(1, &[&why]);
    lab.nothing_left(&run);

    let (lab, other) = held();
    let run = lab.run(&config(&p("p", "/dev/xvdf", "wait: 0.5")), once().rate(20));
    let why = format!("taken ({} held by {other}, which is running); waited 0.5 s)", id(1));
    run.ends(1, &["no volume to be had (p: all 1 volumes of pool 'p' in eu-west-1a are ", &why]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn init_is_over_before_the_wait() {
    let (lab, other) = held();
    let run = lab.run(&timed(10, &x("xc", "wait: 60")), once().rate(20));
    run.ends(1, &[&format!("{} is held by {other}, which is running: the time for it is over", id(1))]);
    // Never a new one in place of the data.
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

#[test]
fn what_waiting_does_not_mend_is_not_waited_for() {
    let lab = Lab::new();
    lab.volume(VolumeSpec::default().id(&id(1)).zone("eu-west-1b"));
    let run = lab.run(&config(&x("x", "wait: 60")), once());
    run.ends(1, &["it is in eu-west-1b"]);
    let none = directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}", wait: 60"#, id(9)), "true");
    lab.run(&config(&none), once()).ends(1, &["does not exist"]);
    assert_eq!(lab.count("DescribeInstances"), 0);
}

#[test]
fn a_look_that_misses_the_volume_proves_nothing() {
    let (lab, _) = held();
    let run = lab.start(&config(&x("xc", "wait: 300")), once().rate(20));
    run.says(&lab, "waiting up to 300 s");
    let hide = |until: u64| lab.server.world().volumes.get_mut(&id(1)).unwrap().visible_at_ms = until;
    hide(1 << 40);
    looks(&lab, 1);
    hide(0);
    looks(&lab, 4);
    assert_eq!(lab.count("CreateVolume"), 0);
    lab.set_attachment(&id(1), "detaching", 20);
    gets(&lab, run, "x");

    // Gone for good, it is.
    let (lab, _) = held();
    let run = lab.start(&config(&x("xc", "wait: 300")), once().rate(20));
    run.says(&lab, "waiting up to 300 s");
    lab.server.world().volumes.remove(&id(1));
    let run = run.wait(&lab);
    run.ends(0, &[&format!("{} does not exist", id(1))]);
    assert_eq!(lab.created().len(), 1, "{run}");
}

#[test]
fn a_wait_ends_with_the_run() {
    for (interrupted, text) in [(false, "stopped by a signal"), (true, "stopped by an interruption notice")] {
        for directive in [x("xc", "wait: 500"), p("pc", "/dev/xvdf", "wait: 500")] {
            let (lab, _) = held();
            let run = lab.start(&config(&directive), How::default().rate(20));
            run.says(&lab, "waiting up to 500 s");
            if interrupted {
                lab.server.world().notice(&lab.me, "terminate", 120);
            } else {
                run.signal("TERM");
            }
            let run = run.wait(&lab);
            run.ends(0, &[text]);
            assert!(lab.server.writes().is_empty(), "{run}");
            lab.nothing_left(&run);
        }
    }
}

#[test]
fn a_long_quiet_wait_makes_few_calls() {
    let (lab, other) = held();
    lab.volume(VolumeSpec::default().id(&id(2)).attached(&other, "/dev/xvdg"));
    let two = format!(
        "{}, {}",
        x("x", "wait: 400"),
        volume("x", "/dev/xvdg", &format!(r#""volume-id": "{}", wait: 400"#, id(2)))
    );
    let run = lab.run(&config(&two), once().rate(100));
    run.ends(1, &["waited 400 s"]);
    // A look each five seconds, for both of them together; a word on the holder each half minute, for each.
    let (looks, asked) = (lab.count("DescribeVolumes"), lab.count("DescribeInstances"));
    assert!((60..=130).contains(&looks) && (4..=32).contains(&asked), "{looks} {asked}");
    let both =
        lab.server.calls_of("DescribeVolumes").iter().filter(|c| c.params.contains_key("Filter.1.Value.2")).count();
    assert!(both > looks / 2, "{both} of {looks}");
    // Six reminders and the first word, of each.
    assert!(run.log.matches("held by").count() <= 20, "{run}");
}

#[test]
fn a_volume_on_its_way_is_looked_at_often_and_not_for_ever() {
    let (lab, _) = held();
    lab.set_attachment(&id(1), "detaching", 2000);
    let run = lab.start(&config(&x("x", "wait: 500")), once().rate(100));
    gets(&lab, run, "x");
    // 200 s on its clock: a minute of looks each 0.2 s, then each second and a half.
    let looks = lab.count("DescribeVolumes");
    assert!((20..=420).contains(&looks), "{looks}");
    assert_eq!(lab.count("DescribeInstances"), 0);
}

#[test]
fn without_the_permission_it_waits_all_the_same() {
    let (lab, other) = held();
    lab.server.world().deny("EC2:DescribeInstances");
    let run = lab.start(&config(&x("x", "wait: 300")), once().rate(50));
    run.says(&lab, "allow ec2:DescribeInstances for this instance's role); waiting without knowing it");
    run.says(&lab, &format!("{} is held by {other}; waiting up to 300 s", id(1)));
    looks(&lab, 12);
    assert_eq!(lab.count("DescribeInstances"), 1);
    lab.set_attachment(&id(1), "detaching", 20);
    gets(&lab, run, "x");
}

#[test]
fn trouble_with_the_states_ends_no_wait() {
    for kind in [FaultKind::Throttle, FaultKind::Hang(1 << 20), FaultKind::Garbage, FaultKind::Status503] {
        let (lab, _) = held();
        lab.fault(Fault::every("DescribeInstances", kind));
        let run = lab.start(&config(&x("x", "wait: 300")), once().rate(20));
        run.says(&lab, "waiting up to 300 s");
        lab.set_attachment(&id(1), "detaching", 20);
        gets(&lab, run, "x");
    }
}

#[test]
fn trouble_with_the_looks_is_ridden_out_or_fails() {
    let (lab, _) = held();
    let run = lab.start(&config(&x("x", "wait: 300")), once().rate(20));
    run.says(&lab, "waiting up to 300 s");
    lab.fault(Fault::first("DescribeVolumes", 2, FaultKind::Throttle));
    lab.fault(Fault::first("DescribeVolumes", 2, FaultKind::ResetBefore));
    looks(&lab, 5);
    lab.set_attachment(&id(1), "detaching", 20);
    gets(&lab, run, "x");

    let (lab, _) = held();
    let run = lab.start(&config(&x("xc", "wait: 300")), once().rate(20));
    run.says(&lab, "waiting up to 300 s");
    lab.server.world().deny("EC2:DescribeVolumes");
    let run = run.wait(&lab);
    // Nobody knows whose it is: no new one.
    run.ends(1, &["allow ec2:DescribeVolumes"]);
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

#[test]
fn of_two_that_wait_one_gets_it_and_the_other_waits_on() {
    let (lab, other) = held();
    let rival = lab.neighbour();
    let text = config(&x("x", "wait: 300"));
    let runs = [lab.start(&text, once().rate(20)), lab.start(&text, once().rate(20).on(&rival))];
    for run in &runs {
        run.says(&lab, &format!("held by {other}"));
    }
    lab.set_attachment(&id(1), "detaching", 40);
    lab.until("a winner", || lab.lines("seen").len() == 1);
    let winner = lab.server.world().volume(&id(1)).unwrap().attachments[0].instance.clone();
    let loser = usize::from(winner == lab.me);
    runs[loser].says(&lab, &format!("{} is held by {winner}, which is running", id(1)));
    // The winner hands it on.
    lab.set_attachment(&id(1), "detaching", 20);
    for run in runs {
        run.wait(&lab).ends(0, &[&format!("{} attached as", id(1))]);
    }
    assert_eq!(lab.lines("seen").len(), 2);
    assert!(lab.count("AttachVolume") <= 6);
}

#[test]
fn one_daemon_hands_its_volume_to_another_that_waits() {
    for source in ["x", "p"] {
        let lab = Lab::new();
        let heir = lab.neighbour();
        lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
        let rest = r#"wait: 300, release: ["interrupted"]"#;
        let text = config(&if source == "x" { x("xc", rest) } else { p("pc", "/dev/xvdf", rest) });
        let first = lab.start(&text, How::default());
        first.says(&lab, "watching for interruptions");
        let second = lab.start(&text, once().rate(10).on(&heir));
        second.says(&lab, &format!("held by {}, which is running", lab.me));
        lab.server.world().notice(&lab.me, "terminate", 120);
        first.wait(&lab).ends(0, &["is released"]);
        second.wait(&lab).ends(0, &[&format!("{} attached as /dev/xvdf", id(1))]);
        assert_eq!(lab.seen(), [format!("{} true {source} p", id(1)), format!("{} true {source} p", id(1))]);
        assert_eq!((lab.count("CreateVolume"), lab.tag(&id(1), "owner")), (0, heir));
    }
}

#[test]
fn a_crowd_that_waits_for_few_volumes_gets_one_each() {
    let lab = Lab::new();
    let other = lab.neighbour();
    let pool: Vec<String> = (1..=5).map(id).collect();
    for (n, v) in (0..).zip(&pool) {
        lab.volume(VolumeSpec::pool("d", "p").id(v).attached(&other, &format!("/dev/xvd{}", char::from(b'f' + n))));
    }
    let crowd: Vec<String> = (0..8).map(|_| lab.neighbour()).collect();
    let text = config(&p("p", "/dev/xvdf", "wait: 60"));
    let runs: Vec<_> = crowd.iter().map(|i| lab.start(&text, once().rate(10).on(i))).collect();
    for run in &runs {
        run.says(&lab, "waiting up to 60 s");
    }
    for v in &pool {
        lab.set_attachment(v, "detaching", 100);
    }
    let mut won = 0;
    for (run, instance) in runs.into_iter().zip(&crowd) {
        let run = run.wait(&lab);
        run.ends(if lab.attached(instance).len() == 1 { 0 } else { 1 }, &[]);
        won += usize::from(run.code == 0);
        assert!(run.code == 0 || run.log.contains("all 5 volumes of pool 'p' in eu-west-1a are taken"), "{run}");
    }
    let claims = lab.count("AttachVolume");
    println!("{claims} AttachVolume calls of 8 for 5 volumes, {} looks", lab.count("DescribeVolumes"));
    assert_eq!(won, 5);
    assert!(claims <= 40, "{claims}");
}

#[test]
fn directives_that_wait_for_one_pool_get_one_each() {
    let lab = Lab::new();
    let other = lab.neighbour();
    for n in [1, 2] {
        lab.volume(
            VolumeSpec::pool("d", "p")
                .id(&id(n))
                .attached(&other, &format!("/dev/xvd{}", if n == 1 { "f" } else { "g" })),
        );
    }
    let both = format!("{}, {}", p("p", "/dev/xvdf", "wait: 300"), p("p", "/dev/xvdg", "wait: 300"));
    let run = lab.start(&config(&both), once().rate(20));
    run.says(&lab, "all 2 volumes of pool 'p' in eu-west-1a are taken");
    for (n, commands) in [(2, 1), (1, 2)] {
        lab.set_attachment(&id(n), "detaching", 20);
        lab.until("an attachment", || lab.attached(&lab.me).len() == commands);
    }
    let run = run.wait(&lab);
    run.ends(0, &[]);
    assert_eq!(lab.attached(&lab.me).len(), 2, "{run}");
}

#[test]
fn killed_while_it_waits_nothing_is_left_and_the_next_run_waits_again() {
    let (lab, _) = held();
    let text = config(&x("x", "wait: 300"));
    let run = lab.start(&text, once().rate(20));
    run.says(&lab, "waiting up to 300 s");
    looks(&lab, 2);
    run.signal("KILL");
    run.wait(&lab);
    assert!(lab.server.writes().is_empty());
    let run = lab.start(&text, once().rate(20));
    run.says(&lab, "waiting up to 300 s");
    lab.set_attachment(&id(1), "detaching", 20);
    gets(&lab, run, "x");
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "owner", "pool-name", "ts-used"]);
}

#[test]
fn a_record_is_read_again_after_a_long_wait() {
    let (lab, _) = held();
    crate::kit::add(&lab, "a.example.com", "A", 60, &["192.0.2.1"]);
    let record = crate::kit::record("a.example.com", "");
    let text = crate::kit::one(&format!(r#""attach-volume": [{}], "update-route53": [{record}]"#, x("x", "wait: 300")));
    let run = lab.start(&text, once().rate(20));
    run.says(&lab, "waiting up to 300 s");
    looks(&lab, 8);
    let me = lab.server.world().instances[&lab.me].nics[0].public_ipv4s[0].clone();
    lab.set_attachment(&id(1), "detaching", 20);
    let run = run.wait(&lab);
    run.ends(0, &[]);
    assert_eq!(lab.count("ListResourceRecordSets"), 2, "{run}");
    assert!(crate::kit::zone(&lab, "Z1")[0].contains(&me), "{run}");
}

/// An empty pool is looked at twice before something new is made, and waited for once.
#[test]
fn a_second_look_at_an_empty_pool_is_not_waited_for_again() {
    let lab = Lab::new();
    let create = r#""pool-name": "p", wait: 9, create: { Size: 1 }"#;
    let run = lab.run(&timed(20, &volume("pc", "/dev/xvdf", create)), once().rate(4));
    run.ends(0, &["looking again in 3 s", "started"]);
    assert_eq!(lab.created().len(), 1, "{run}");
}
