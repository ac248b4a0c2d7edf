//! The crash journal, and what the run after one that was cut off makes of what it left: with the journal, with a torn or
//! foreign one, and without.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::disks::{HOLD, NOTE, config, directive, id, volume};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::kit::{add, record, zone};
use crate::lab::{Lab, once};
use crate::matrix::{Likeness, Picture, same};

const CREATE: &str = "create: { Size: 4 }";

pub(crate) fn journal(lab: &Lab) -> PathBuf {
    lab.root(&lab.me).join("run/ec2fleetd/domain.d.journal")
}

/// A config of a volume and the record `old.example.com`.
pub(crate) fn with_record(volume: &str) -> String {
    let record = record("old.example.com", "");
    format!(r#"{{ domains: {{ d: {{ "attach-volume": [{volume}], "update-route53": [{record}] }} }} }}"#)
}

/// Kills a run in the first command of its volume.
pub(crate) fn killed_in_command(lab: &Lab, text: &str) {
    let run = lab.start(text, once());
    lab.until_file("first");
    // What is written beside the command has its time too.
    lab.until("the tags", || lab.count("CreateTags") + lab.count("CreateVolume") > 0);
    std::thread::sleep(std::time::Duration::from_millis(20));
    run.signal("KILL");
    assert_eq!(run.wait(lab).code, 137);
    let _ = fs::remove_file(lab.dir.join("first"));
}

/// Kills a run when it made its nth call of an action and has no answer yet.
pub(crate) fn killed_at(lab: &Lab, text: &str, action: &str, nth: u32) {
    lab.fault(Fault::nth(action, nth, FaultKind::HangAfter(1 << 30)));
    let run = lab.start(text, once());
    lab.until("the call", || lab.server.calls().iter().any(|c| c.fault.is_some() && c.status != 0));
    run.signal("KILL");
    assert_eq!(run.wait(lab).code, 137);
    lab.server.world().faults.clear();
}

#[test]
fn it_is_there_during_init_for_us_alone_and_gone_afterwards() {
    let lab = Lab::new();
    lab.pool_of(1);
    let run = lab.start(&config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD)), once());
    lab.until_file("first");
    let mode = |p: &std::path::Path| p.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&journal(&lab)), mode(journal(&lab).parent().unwrap())), (0o600, 0o700));
    let text = fs::read_to_string(journal(&lab)).unwrap();
    assert!(text.contains(&id(1)) && text.contains(&lab.me), "{text}");
    fs::write(lab.dir.join("go"), "").unwrap();
    run.wait(&lab).ends(0, &[]);
    assert!(!journal(&lab).exists());

    let run = lab.run(&config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, "exit 1")), once());
    run.ends(1, &[]);
    assert!(!journal(&lab).exists(), "{run}");
}

#[test]
fn the_first_runtime_directory_has_it() {
    let lab = Lab::new();
    lab.pool_of(1);
    let text = config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD));
    let run = lab.start(&text, once().env("RUNTIME_DIRECTORY", "/run/unit-a:/run/unit-b"));
    lab.until_file("first");
    let there = |dir: &str| lab.root(&lab.me).join(dir).join("domain.d.journal").exists();
    assert!(there("run/unit-a") && !there("run/unit-b") && !there("run/ec2fleetd"));
    fs::write(lab.dir.join("go"), "").unwrap();
    run.wait(&lab).ends(0, &[]);
}

#[test]
fn what_cannot_be_used_is_reported_and_survived() {
    let whole = {
        let lab = Lab::new();
        lab.pool_of(1);
        killed_in_command(&lab, &config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD)));
        fs::read_to_string(journal(&lab)).unwrap().replace(&lab.me, "ME")
    };
    let half = whole[..whole.len() / 2].to_owned();
    let cases = [
        ("torn", half),
        ("torn", String::new()),
        ("torn", "[1, 2".to_owned()),
        ("torn", format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
        ("its version is 2", whole.replacen("\"version\":1", "\"version\":2", 1)),
        ("it is of i-elsewhere", whole.replace("ME", "i-elsewhere")),
    ];
    for (why, content) in cases {
        let lab = Lab::new();
        lab.pool_of(1);
        let text = config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#));
        fs::create_dir_all(journal(&lab).parent().unwrap()).unwrap();
        fs::write(journal(&lab), content.replace("ME", &lab.me)).unwrap();
        let run = lab.run(&text, once());
        run.ends(0, &["cannot be used", why, "domain.d.journal.bad"]);
        lab.has(&[(&id(1), "/dev/xvdf")], &run);
        assert!(!journal(&lab).exists() && journal(&lab).with_extension("journal.bad").exists(), "{run}");
    }
    // One that others may write is not believed, however good it looks.
    let lab = Lab::new();
    lab.pool_of(2);
    let text = config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD));
    killed_in_command(&lab, &text);
    fs::set_permissions(journal(&lab), fs::Permissions::from_mode(0o666)).unwrap();
    fs::write(lab.dir.join("go"), "").unwrap();
    lab.run(&text, once()).ends(0, &["only we can write"]);
}

#[test]
fn a_run_goes_on_without_it_where_it_cannot_be_written() {
    let lab = Lab::new();
    lab.pool_of(1);
    let dir = lab.root(&lab.me).join("run/unit");
    fs::write(&dir, "not a directory").unwrap();
    let text = config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#));
    let run = lab.run(&text, once().env("RUNTIME_DIRECTORY", "/run/unit"));
    run.ends(0, &["the journal"]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
}

#[test]
fn the_transaction_of_a_live_process_is_not_touched() {
    let lab = Lab::new();
    lab.pool_of(1);
    let text = config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD));
    let first = lab.start(&text, once());
    lab.until_file("first");
    let before = fs::read(journal(&lab)).unwrap();
    let second = lab.run(&text, once());
    second.ends(1, &["domain 'd' is being run by process"]);
    assert_eq!(fs::read(journal(&lab)).unwrap(), before);
    fs::write(lab.dir.join("go"), "").unwrap();
    let run = first.wait(&lab);
    run.ends(0, &[]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
}

#[test]
fn a_run_that_goes_on_and_fails_puts_the_world_back_as_the_first_one_found_it() {
    let lab = Lab::new();
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)).tag("user:ec2fd.owner", "i-0before"));
    add(&lab, "old.example.com", "A", 300, &["192.0.2.1"]);
    let before = Picture::of(&lab).without_records();
    killed_at(&lab, &with_record(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)), "ChangeResourceRecordSets", 1);
    assert_ne!(zone(&lab, "Z1"), ["old.example.com. A 300 192.0.2.1"]);
    let run = lab.run(&with_record(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, "exit 1")), once().rate(20));
    run.ends(1, &["may be dead by now: A 192.0.2.1 (ttl 300)"]);
    same(&Picture::of(&lab).without_records(), &before, Likeness::Strict, "after the failure", &run);
    assert!(zone(&lab, "Z1").is_empty(), "whose address it was may be gone since\n{run}");
    assert!(!journal(&lab).exists(), "{run}");
}

#[test]
fn the_command_of_a_volume_that_is_taken_up_sees_an_operation() {
    let lab = Lab::new();
    lab.pool_of(1);
    killed_in_command(&lab, &config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD)));
    let run = lab.run(&config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)), once());
    run.ends(0, &["going on with vol-"]);
    assert_eq!(lab.seen(), [format!("{} true p p", id(1))], "{run}");
    assert_eq!((lab.count("AttachVolume"), lab.count("DetachVolume")), (1, 0), "{run}");
}

#[test]
fn what_another_config_does_not_want_is_put_back() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.volume(VolumeSpec::default().id(&id(9)));
    add(&lab, "old.example.com", "A", 300, &["192.0.2.1"]);
    let before = Picture::of(&lab);
    killed_at(&lab, &with_record(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)), "ChangeResourceRecordSets", 1);
    let text = config(&volume("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(9))));
    let run = lab.run(&text, once().rate(5));
    run.ends(0, &["vol-00000000000000001 detached", "old.example.com. in hosted zone Z1 removed"]);
    lab.has(&[(&id(9), "/dev/xvdf")], &run);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
    let now = Picture::of(&lab);
    assert_eq!(now.strict[0], before.strict[0], "{run}");
    assert!(!journal(&lab).exists(), "{run}");
}

#[test]
fn what_cannot_be_put_back_stays_in_it_until_it_can() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.server.world().deny("EC2:DetachVolume");
    let p = |script: &str| config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, script));
    lab.run(&p("exit 1"), once()).ends(3, &["stays attached"]);
    assert!(journal(&lab).exists());
    // Not wanted any more, and still not to be had off: that is said, and the new config goes its way.
    let other = format!("{{ domains: {{ d: {{ {} }} }} }}", r#""attach-volume": []"#);
    lab.run(&other, once()).ends(0, &["what an earlier run left cannot be put back", "stays attached"]);
    assert!(journal(&lab).exists());
    lab.server.world().permit("EC2:DetachVolume");
    let run = lab.run(&other, once());
    run.ends(0, &["detached"]);
    lab.nothing_left(&run);
    assert!(!journal(&lab).exists(), "{run}");
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "pool-name"], "{run}");
}

#[test]
fn a_run_that_failed_in_part_is_finished_by_the_next_with_all_its_tags() {
    let lab = Lab::new();
    lab.pool_of(1);
    lab.server.world().deny("EC2:DetachVolume");
    let p = |script: &str| config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, script));
    lab.run(&p("exit 1"), once()).ends(3, &["stays attached"]);
    let run = lab.run(&p(NOTE), once());
    run.ends(0, &["going on with"]);
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "owner", "pool-name", "ts-used"], "{run}");
}

#[test]
fn a_new_volume_that_was_never_attached_is_deleted_when_the_config_wants_another() {
    for lost in [false, true] {
        let lab = Lab::new();
        let c = |size: u32| config(&volume("c", "/dev/xvdf", &format!("create: {{ Size: {size} }}")));
        killed_at(&lab, &c(4), "CreateVolume", 1);
        let made = lab.created();
        if lost {
            lab.lose_journal();
        }
        let run = lab.run(&c(8), once());
        run.ends(0, &["deleted"]);
        assert_eq!(lab.volumes_of("DeleteVolume"), made, "{run}");
        assert_eq!(lab.created().len(), 1, "{run}");
        assert_eq!(lab.attached(&lab.me).len(), 1, "{run}");
        assert!(!journal(&lab).exists(), "{run}");
    }
}

#[test]
fn a_new_volume_whose_pool_has_another_one_by_now_is_nobodys() {
    for lost in [false, true] {
        let lab = Lab::new();
        let text = config(&volume("xc", "/dev/xvdf", &format!(r#""volume-id": "{}", {CREATE}"#, id(1))));
        killed_at(&lab, &text, "CreateVolume", 1);
        let made = lab.created();
        lab.volume(VolumeSpec::default().id(&id(1)));
        if lost {
            lab.lose_journal();
        }
        let run = lab.run(&text, once());
        run.ends(0, &[]);
        lab.has(&[(&id(1), "/dev/xvdf")], &run);
        // Without the journal it is found by its tags, where the domain's volumes are read.
        assert_eq!(lab.volumes_of("DeleteVolume"), made, "{run}");
        assert!(lab.created().is_empty(), "{run}");
    }
}

#[test]
fn a_volume_that_was_attached_is_never_deleted_but_finished() {
    for (lost, pool) in [(false, true), (false, false), (true, true), (true, false)] {
        let lab = Lab::new();
        let pool_name = if pool { r#""pool-name": "p","# } else { "" };
        let c = |size: u32, script: &str| {
            config(&directive("c", "/dev/xvdf", &format!("{pool_name} create: {{ Size: {size} }}"), script))
        };
        killed_in_command(&lab, &c(4, HOLD));
        let made = lab.created().remove(0);
        // Somebody, or the roll-back that was cut off, detached it.
        lab.server.world().volumes.get_mut(&made).unwrap().attachments.clear();
        lab.server.world().volumes.get_mut(&made).unwrap().state = "available".into();
        if lost {
            lab.lose_journal();
        }
        // Others leave it alone for an hour, and so does this.
        let run = lab.run(&c(8, NOTE), once());
        run.ends(0, &["is left as it is: others leave it alone, too"]);
        assert_ne!(lab.tag(&made, "transc-id"), "", "{run}");
        lab.server.world().volumes.values_mut().for_each(|v| v.created -= time::Duration::hours(1));
        let run = lab.run(&c(8, NOTE), once());
        let says = if pool { "belongs to pool 'p' now" } else { "is kept, and no directive uses it" };
        run.ends(0, &[says]);
        assert_eq!(lab.count("DeleteVolume"), 0, "{lost} {pool} {run}");
        assert_eq!(
            (lab.tag(&made, "transc-id"), lab.tag(&made, "in-transit")),
            (String::new(), String::new()),
            "{run}"
        );
        assert_eq!(lab.state(&made), "available", "{run}");
    }
}

#[test]
fn what_was_committed_is_not_taken_away_by_another_config() {
    let lab = Lab::new();
    lab.pool_of(1);
    // Killed while the last tags were being written: the application has started.
    killed_at(&lab, &config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)), "CreateTags", 2);
    assert!(journal(&lab).exists());
    let run = lab.run(r#"{ domains: { d: { "attach-volume": [] } } }"#, once());
    run.ends(0, &[]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "owner", "pool-name", "ts-used"], "{run}");
    assert!(!journal(&lab).exists(), "{run}");
}

#[test]
fn a_run_that_fails_before_init_puts_back_what_was_left_to_it() {
    let lab = Lab::new();
    lab.pool_of(1);
    let directive = directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD);
    killed_in_command(&lab, &config(&directive));
    let failing = r#"exec: [{ on: ["starting"], lines: [{ argv: ["false"] }] }]"#;
    let text = format!(r#"{{ domains: {{ d: {{ "attach-volume": [{directive}], {failing} }} }} }}"#);
    let run = lab.run(&text, once());
    run.ends(1, &["'starting' commands"]);
    lab.nothing_left(&run);
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "pool-name"], "{run}");
    assert!(!journal(&lab).exists(), "{run}");
}

#[test]
fn a_run_without_init_leaves_it_alone() {
    let lab = Lab::new();
    lab.pool_of(1);
    let text = config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD));
    killed_in_command(&lab, &text);
    let before = fs::read(journal(&lab)).unwrap();
    lab.run(&text, once().arg("--enable-init=false")).ends(0, &[]);
    assert_eq!(fs::read(journal(&lab)).unwrap(), before);
}

#[test]
fn a_volume_that_another_instance_has_by_now_is_left_alone() {
    let lab = Lab::new();
    lab.pool_of(1);
    let other = lab.neighbour();
    killed_in_command(&lab, &config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD)));
    {
        let mut w = lab.server.world();
        let v = w.volumes.get_mut(&id(1)).unwrap();
        v.attachments.clear();
        v.state = "available".into();
    }
    lab.take(&id(1), &other, "/dev/xvdf");
    lab.server.reset_calls();
    let run = lab.run(r#"{ domains: { d: { "attach-volume": [] } } }"#, once());
    run.ends(0, &[]);
    assert!(lab.server.writes().is_empty(), "{run}");
    assert_eq!(lab.attached(&other).len(), 1, "{run}");
}
