//! Journals of domains that the config does not have (any more): renamed, removed, another daemon's. What a run that was
//! killed had is put back, or taken over by the domain that names it now; nothing of a daemon that runs is touched.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::disks::{HOLD, NOTE, config, directive, id, volume};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::journal::{journal, killed_at, killed_in_command, with_record};
use crate::kit::{add, record, zone};
use crate::lab::{How, Lab, once};
use crate::matrix::{Likeness, Picture, same};

const OLD: &str = "old.example.com. A 300 203.0.113.10";

/// The journal of a domain.
fn journal_of(lab: &Lab, domain: &str) -> PathBuf {
    journal(lab).with_file_name(format!("domain.{domain}.journal"))
}

/// A lab in which a run of domain `d` was killed with a volume of its pool and a record.
fn killed() -> (Lab, Picture) {
    let lab = Lab::new();
    lab.pool_of(1);
    add(&lab, "old.example.com", "A", 300, &["203.0.113.10"]);
    let before = Picture::of(&lab);
    killed_at(&lab, &with_record(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)), "ChangeResourceRecordSets", 1);
    assert!(journal(&lab).exists() && lab.attached(&lab.me).len() == 1);
    (lab, before)
}

#[test]
fn what_a_domain_that_is_gone_had_is_put_back() {
    let other = r#"{ domains: { e: { exec: [] } } }"#;
    for (text, how) in [
        (other, once()),
        (r#"{ domains: {} }"#, once()),
        ("{}", once()),
        ("", once()),
        ("", How { user_data: true, ..once() }),
        ("", How { user_data: true, ..How::default() }),
    ] {
        let (lab, before) = killed();
        let run = lab.run(text, how.rate(5));
        run.ends(0, &["vol-00000000000000001 detached", "old.example.com. in hosted zone Z1 put back", "domain 'd'"]);
        same(&Picture::of(&lab), &before, Likeness::Strict, text, &run);
        assert!(!journal(&lab).exists(), "{run}");
        lab.server.reset_calls();
        lab.run(text, once()).ends(0, &[]);
        assert!(lab.server.writes().is_empty());
    }
}

#[test]
fn it_is_done_beside_the_work_of_the_others_and_before_the_end_of_a_run_that_watches() {
    let (lab, _) = killed();
    lab.fault(Fault::nth("DetachVolume", 1, FaultKind::Hang(1 << 30)));
    lab.volume(VolumeSpec::default().id(&id(9)));
    let text = config(&volume("x", "/dev/xvdg", &format!(r#""volume-id": "{}""#, id(9)))).replace("d:", "e:");
    let running = lab.start(&text, How::default());
    running.says(&lab, "ready: e started");
    assert_eq!(lab.attached(&lab.me).len(), 2);
    lab.server.world().faults.clear();
    running.signal("TERM");
    running.wait(&lab).ends(0, &["is put back"]);

    let (lab, _) = killed();
    let running = lab.start("{}", How::default());
    running.says(&lab, "watching for interruptions");
    lab.until("the end of it", || !journal(&lab).exists());
    running.signal("TERM");
    running.wait(&lab).ends(0, &[]);
}

#[test]
fn what_cannot_be_put_back_is_exit_code_3_until_it_can() {
    for text in
        ["{}", "", r#"{ domains: { e: {} } }"#, r#"{ domains: { e: { exec: [{ lines: [{ argv: ["false"] }] }] } } }"#]
    {
        let (lab, before) = killed();
        lab.server.world().deny("EC2:DetachVolume");
        let run = lab.run(text, once().rate(5));
        run.ends(3, &["needs a look", "d: vol-00000000000000001 stays attached"]);
        assert!(journal(&lab).exists());
        assert_eq!(zone(&lab, "Z1"), [OLD], "{run}");
        lab.server.world().permit("EC2:DetachVolume");
        let run = lab.run("{}", once().rate(5));
        run.ends(0, &["detached"]);
        same(&Picture::of(&lab), &before, Likeness::Strict, "later", &run);
        assert!(!journal(&lab).exists(), "{run}");
    }
}

#[test]
fn a_check_and_a_run_without_init_leave_it_alone() {
    let (lab, _) = killed();
    let before = fs::read(journal(&lab)).unwrap();
    lab.server.reset_calls();
    lab.run("{}", How::default().arg("--check")).ends(0, &[]);
    lab.run("{}", once().arg("--enable-init=false")).ends(0, &[]);
    lab.run("", once().arg("--disable-all")).ends(0, &[]);
    assert!(lab.server.writes().is_empty());
    assert_eq!(fs::read(journal(&lab)).unwrap(), before);
}

#[test]
fn what_another_daemon_runs_is_not_touched() {
    let lab = Lab::new();
    lab.pool_of(1);
    let text = config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD));
    let first = lab.start(&text, once());
    lab.until_file("first");
    let before = fs::read(journal(&lab)).unwrap();
    let second = lab.run(r#"{ domains: { e: {} } }"#, once().rate(5));
    second.ends(0, &["ready: e started"]);
    assert!(!second.log.contains("domain 'd'") && !second.log.contains("vol-"), "{second}");
    assert_eq!(fs::read(journal(&lab)).unwrap(), before);
    fs::write(lab.dir.join("go"), "").unwrap();
    let run = first.wait(&lab);
    run.ends(0, &[]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
}

#[test]
fn a_daemon_that_comes_for_the_domain_waits_until_it_is_settled() {
    let (lab, _) = killed();
    lab.fault(Fault::nth("DetachVolume", 1, FaultKind::Slow(1500)));
    let settles = lab.start("{}", once());
    lab.until("the call", || lab.count("DetachVolume") > 0);
    let run = lab.run(&config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)), once());
    run.ends(0, &["waiting for process", "ready: d started"]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
    settles.wait(&lab).ends(0, &[]);
}

#[test]
fn two_daemons_that_start_at_once_settle_it_once() {
    let (lab, before) = killed();
    let both: Vec<_> =
        ["e", "f"].map(|d| lab.start(&format!("{{ domains: {{ {d}: {{}} }} }}"), once().rate(5))).into_iter().collect();
    for run in both {
        let run = run.wait(&lab);
        run.ends(0, &[]);
    }
    assert_eq!(lab.count("DetachVolume"), 1);
    let run = lab.run("{}", once());
    same(&Picture::of(&lab), &before, Likeness::Strict, "both", &run);
}

#[test]
fn a_domain_that_was_renamed_goes_on_with_what_it_names() {
    let x = |script: &str| directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(1)), script);
    let with = |domain: &str, script: &str| {
        let record = record("old.example.com", "");
        format!(
            r#"{{ domains: {{ {domain}: {{ "attach-volume": [{}], "update-route53": [{record}] }} }} }}"#,
            x(script)
        )
    };
    for (script, code) in [(NOTE, 0), ("exit 1", 1)] {
        let lab = Lab::new();
        lab.volume(VolumeSpec::default().id(&id(1)));
        add(&lab, "old.example.com", "A", 300, &["203.0.113.10"]);
        let before = Picture::of(&lab);
        killed_at(&lab, &with("d", NOTE), "ChangeResourceRecordSets", 1);
        let written = zone(&lab, "Z1");
        let run = lab.run(&with("e", script), once().rate(5));
        run.ends(code, &["going on with vol-00000000000000001"]);
        assert!(!journal(&lab).exists() && !journal_of(&lab, "e").exists(), "{run}");
        if code == 0 {
            lab.has(&[(&id(1), "/dev/xvdf")], &run);
            assert_eq!((zone(&lab, "Z1"), lab.count("DetachVolume")), (written, 0), "{run}");
            assert_eq!(lab.tag_keys(&id(1)), ["owner", "ts-used"], "{run}");
        } else {
            same(&Picture::of(&lab), &before, Likeness::Strict, "as before the first run", &run);
        }
    }
}

#[test]
fn a_name_that_it_still_holds_is_waited_for() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.volume(VolumeSpec::default().id(&id(9)));
    killed_in_command(&lab, &config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD)));
    let text = config(&volume("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(9)))).replace("d:", "e:");
    let run = lab.run(&text, once().rate(5));
    run.ends(0, &["ready: e started"]);
    lab.has(&[(&id(9), "/dev/xvdf")], &run);
}

#[test]
fn a_kill_while_it_is_settled_leaves_it_to_the_next_run() {
    for step in 1..=4 {
        let (lab, before) = killed();
        let run = lab.run("{}", once().rate(5).env("EC2FLEETD_DIE", &step.to_string()));
        assert!([0, 137].contains(&run.code), "{run}");
        let run = lab.run("{}", once().rate(5));
        run.ends(0, &[]);
        same(&Picture::of(&lab), &before, Likeness::Strict, "after a second kill", &run);
        assert!(!journal(&lab).exists(), "{run}");
    }
}

#[test]
fn any_number_of_them() {
    let lab = Lab::new();
    lab.pool_of(1);
    killed_in_command(&lab, &config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD)));
    let page = fs::read_to_string(journal(&lab)).unwrap();
    for n in 1..100 {
        let name = format!("\"domain\":\"n{n}\"");
        let page = page.replace("\"domain\":\"d\"", &name).replace(&id(1), &id(1000 + n));
        fs::write(journal_of(&lab, &format!("n{n}")), page).unwrap();
        fs::set_permissions(journal_of(&lab, &format!("n{n}")), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let run = lab.run("{}", once().rate(5));
    run.ends(0, &["domain 'n99'", "vol-00000000000000001 detached"]);
    let left = fs::read_dir(journal(&lab).parent().unwrap()).unwrap();
    let left: Vec<_> =
        left.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "journal")).collect();
    assert!(left.is_empty(), "{left:?} {run}");
    lab.nothing_left(&run);
}

#[test]
fn any_name() {
    let name = "a b/c \u{e9}";
    let lab = Lab::new();
    lab.volume(VolumeSpec::pool(name, "p").id(&id(1)));
    let p = directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD);
    let text = format!(r#"{{ domains: {{ "{name}": {{ "attach-volume": [{p}] }} }} }}"#);
    for old in [false, true] {
        killed_in_command(&lab, &text);
        let file = fs::read_dir(journal(&lab).parent().unwrap()).unwrap();
        let file = file.map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|x| x == "journal")).unwrap();
        if old {
            let page = fs::read_to_string(&file).unwrap();
            fs::write(&file, page.replace(&format!("\"domain\":\"{name}\","), "")).unwrap();
        }
        let run = lab.run("{}", once().rate(5));
        run.ends(0, &[&format!("domain '{name}'"), "detached"]);
        assert!(!file.exists(), "{run}");
    }
}

#[test]
fn one_that_an_older_version_wrote_is_settled_too() {
    let (lab, before) = killed();
    let page = fs::read_to_string(journal(&lab)).unwrap();
    fs::write(journal(&lab), page.replace("\"domain\":\"d\",", "")).unwrap();
    assert!(!fs::read_to_string(journal(&lab)).unwrap().contains("\"domain\""));
    let run = lab.run("{}", once().rate(5));
    run.ends(0, &["domain 'd'"]);
    same(&Picture::of(&lab), &before, Likeness::Strict, "an older version's", &run);
}

#[test]
fn what_was_committed_stays_and_gets_its_tags() {
    let lab = Lab::new();
    lab.pool_of(1);
    killed_at(&lab, &config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)), "CreateTags", 2);
    let run = lab.run("{}", once().rate(5));
    run.ends(0, &[]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "owner", "pool-name", "ts-used"], "{run}");
    assert!(!journal(&lab).exists(), "{run}");
}

#[test]
fn the_journal_of_a_domain_of_ours_at_another_place_is_gone_on_with() {
    let p = |script: &str| config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, script));
    for (script, code) in [(NOTE, 0), ("exit 1", 1)] {
        let lab = Lab::new();
        lab.pool_of(1);
        let before = Picture::of(&lab);
        killed_in_command(&lab, &p(HOLD));
        // By hand, and then by a unit.
        let run = lab.run(&p(script), once().rate(5).env("RUNTIME_DIRECTORY", "/run/unit"));
        run.ends(code, &["going on with vol-00000000000000001"]);
        assert!(!journal(&lab).exists(), "{run}");
        assert_eq!(lab.count("AttachVolume"), 1, "{run}");
        if code == 1 {
            same(&Picture::of(&lab), &before, Likeness::Strict, "as before the first run", &run);
        }
    }
}
