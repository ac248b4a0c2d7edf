//! Re-entrance: a second run writes nothing, and what a killed run left is settled.

use crate::disks::{HOLD, NOTE, config, directive, id, pool, volume};
use crate::fakeaws::VolumeSpec;
use crate::lab::{Lab, once};

fn sources() -> [(&'static str, String); 5] {
    let rest = format!(r#""volume-id": "{}", "pool-name": "p", create: {{ Size: 1 }}"#, id(1));
    ["x", "p", "c", "xpc", "pc"].map(|s| (s, rest.clone()))
}

#[test]
fn a_second_run_writes_nothing_whatever_the_source() {
    for (source, rest) in sources() {
        let lab = Lab::new();
        lab.pool_of(2);
        let text = config(&volume(source, "/dev/xvdf", &rest));
        lab.run(&text, once()).ends(0, &[]);
        let attached = lab.attached(&lab.me);
        lab.server.reset_calls();
        for _ in 0..2 {
            let run = lab.run(&text, once());
            run.ends(0, &["is attached already"]);
            assert!(lab.server.writes().is_empty(), "{source}\n{run}");
            assert_eq!(lab.attached(&lab.me), attached);
        }
        let ops: Vec<String> = lab.seen().iter().map(|l| l.split(' ').nth(1).unwrap().to_owned()).collect();
        assert_eq!(ops, ["true", "false", "false"], "{source}");
    }
}

#[test]
fn a_second_run_reads_as_little_as_the_first() {
    let lab = Lab::new();
    lab.pool_of(1);
    let text = config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#));
    lab.run(&text, once()).ends(0, &[]);
    lab.server.reset_calls();
    let run = lab.run(&text, once());
    run.ends(0, &[]);
    assert_eq!(lab.count("DescribeVolumes"), 1, "{run}");
}

#[test]
fn what_a_killed_run_left_is_tidied_by_the_next() {
    for (source, rest) in sources() {
        let lab = Lab::new();
        lab.pool_of(2);
        let text = config(&directive(source, "/dev/xvdf", &rest, HOLD));
        let run = lab.start(&text, once());
        lab.until_file("first");
        let vol = lab.attached(&lab.me)[0].0.clone();
        lab.until("the tag", || !lab.tag(&vol, "transc-id").is_empty());
        run.signal("KILL");
        assert_eq!(run.wait(&lab).code, 137);
        std::fs::write(lab.dir.join("go"), "").unwrap();
        let run = lab.run(&text, once());
        run.ends(0, &[]);
        lab.has(&[(&vol, "/dev/xvdf")], &run);
        assert_eq!(lab.tag(&vol, "transc-id"), "", "{source}\n{run}");
        assert_eq!(lab.tag(&vol, "in-transit"), "", "{source}\n{run}");
        assert_eq!(lab.tag(&vol, "owner"), lab.me, "{source}\n{run}");
        lab.server.reset_calls();
        let run = lab.run(&text, once());
        run.ends(0, &[]);
        assert!(lab.server.writes().is_empty(), "{source}\n{run}");
    }
}

#[test]
fn the_transaction_of_another_instance_is_not_tidied() {
    let lab = Lab::new();
    let spec = VolumeSpec::pool("d", "p").tag("user:ec2fd.transc-id", "theirs").tag("user:ec2fd.owner", "i-0123");
    let vol = lab.volume(spec.attached(&lab.me, "/dev/xvdf"));
    let run = lab.run(&config(&pool("p", "/dev/xvdf").replace(", create: { Size: 4 }", "")), once());
    run.ends(0, &[]);
    assert_eq!(lab.tag(&vol, "transc-id"), "theirs", "{run}");
}

#[test]
fn a_run_that_failed_is_repeated_with_another_outcome() {
    for (source, rest) in sources() {
        let lab = Lab::new();
        lab.pool_of(2);
        let run = lab.run(&config(&directive(source, "/dev/xvdf", &rest, "exit 3")), once());
        run.ends(1, &["exit code 3"]);
        lab.nothing_left(&run);
        let run = lab.run(&config(&directive(source, "/dev/xvdf", &rest, NOTE)), once().rate(4));
        run.ends(0, &[]);
        assert_eq!(lab.attached(&lab.me).len(), 1, "{source}\n{run}");
        assert!(lab.created().len() <= 1, "{source}\n{run}");
    }
}

#[test]
fn the_transaction_id_of_the_command_line_is_the_tag() {
    let lab = Lab::new();
    let vol = lab.pool_of(1).remove(0);
    let text = config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, HOLD));
    let run = lab.start(&text, once().arg("--transc_id=boot-7"));
    lab.until("the tag", || lab.tag(&vol, "transc-id") == "boot-7");
    std::fs::write(lab.dir.join("go"), "").unwrap();
    run.wait(&lab).ends(0, &[]);
    assert_eq!(lab.tag_keys(&vol), ["domain", "owner", "pool-name", "ts-used"]);
}

#[test]
fn a_volume_whose_detachment_is_only_held_up_is_not_used() {
    for source in ["x", "p"] {
        let lab = Lab::new();
        let vol = lab.volume(VolumeSpec::pool("d", "p").id(&id(1)).attached(&lab.me, "/dev/xvdf"));
        // Somebody has asked for the detachment, and something on the machine still has the disk open.
        lab.server.world().hold(&vol);
        lab.set_attachment(&vol, "busy", 1 << 40);
        let rest = format!(r#""volume-id": "{vol}", "pool-name": "p""#);
        let run = lab.start(&config(&volume(source, "/dev/xvdf", &rest)), once().rate(5));
        run.says(&lab, "waiting for");
        assert!(lab.seen().is_empty(), "{}", run.log());
        lab.server.world().release(&vol);
        let run = run.wait(&lab);
        run.ends(0, &[]);
        let seen = lab.seen();
        assert_eq!(seen.len(), 1, "{run}");
        assert!(seen[0].starts_with(&format!("{vol} true ")), "{run}");
        lab.has(&[(&vol, "/dev/xvdf")], &run);
    }
}

#[test]
fn a_run_killed_before_its_last_tags_converges_to_what_a_clean_run_gives() {
    for (source, keys) in [("x", 4), ("c", 5)] {
        let lab = Lab::new();
        lab.pool_of(1);
        let rest = format!(r#""volume-id": "{}", "pool-name": "p", create: {{ Size: 1 }}"#, id(1));
        let text = config(&directive(source, "/dev/xvdf", &rest, HOLD));
        let run = lab.start(&text, once());
        lab.until_file("first");
        let vol = lab.attached(&lab.me)[0].0.clone();
        lab.until("the tag", || !lab.tag(&vol, "transc-id").is_empty());
        run.signal("KILL");
        run.wait(&lab);
        std::fs::write(lab.dir.join("go"), "").unwrap();
        let run = lab.run(&text, once());
        run.ends(0, &[]);
        let wanted = ["domain", "owner", "pool-name", "ts-created", "ts-used"];
        let wanted: Vec<_> = wanted.into_iter().filter(|k| keys == 5 || *k != "ts-created").collect();
        assert_eq!(lab.tag_keys(&vol), wanted, "{source}\n{run}");
    }
}
