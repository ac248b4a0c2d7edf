//! Journals that are not as this version writes them now: of a newer one, torn, with holds of unknown kinds, old pages
//! that could not be replaced, very many holds. What can be told is settled; what cannot is named.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::disks::{HOLD, NOTE, config, directive, id, volume};
use crate::fakeaws::VolumeSpec;
use crate::journal::{journal, killed_at, killed_in_command};
use crate::lab::{Lab, once};

const OTHER: &str = r#"{ domains: { d: { "attach-volume": [] } } }"#;

fn x(script: &str) -> String {
    config(&directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(1)), script))
}

fn write(lab: &Lab, text: &str) {
    fs::create_dir_all(journal(lab).parent().unwrap()).unwrap();
    fs::write(journal(lab), text).unwrap();
    fs::set_permissions(journal(lab), fs::Permissions::from_mode(0o600)).unwrap();
}

fn change(lab: &Lab, from: &str, to: &str) {
    let text = fs::read_to_string(journal(lab)).unwrap();
    assert!(text.contains(from), "{text}");
    write(lab, &text.replacen(from, to, 1));
}

#[test]
fn what_a_journal_named_that_cannot_be_read_is_looked_for_by_tags() {
    for (from, to) in [("\"version\":1", "\"version\":2"), ("\"held\":[", "\"held\":[{")] {
        for (text, code) in [(OTHER, 0), ("{}", 3)] {
            let lab = Lab::new();
            lab.volume(VolumeSpec::default().id(&id(1)));
            killed_in_command(&lab, &x(HOLD));
            change(&lab, from, to);
            let run = lab.run(text, once().rate(5));
            run.ends(
                code,
                &["cannot be used", "vol-00000000000000001 is attached as /dev/xvdf, by a run that did not end"],
            );
            // Nobody knows whether its application runs.
            lab.has(&[(&id(1), "/dev/xvdf")], &run);
            // It is said once; after that it is as with a journal that is lost.
            let reads = lab.count("DescribeVolumes");
            let run = lab.run(text, once().rate(5));
            run.ends(0, &[]);
            assert_eq!(lab.count("DescribeVolumes"), reads, "{run}");

            let lab = Lab::new();
            killed_at(&lab, &config(&volume("c", "/dev/xvdf", "create: { Size: 4 }")), "CreateVolume", 1);
            let made = lab.created();
            change(&lab, from, to);
            let run = lab.run(text, once().rate(5));
            run.ends(0, &["cannot be used", "deleted"]);
            assert_eq!((lab.volumes_of("DeleteVolume"), lab.created().len()), (made, 0), "{run}");
        }
    }
    // What is in use by now is nobody's to name.
    let lab = Lab::new();
    lab.volume(VolumeSpec::default().id(&id(1)));
    killed_in_command(&lab, &x(HOLD));
    change(&lab, "\"version\":1", "\"version\":2");
    let run = lab.run(&x(NOTE), once());
    run.ends(0, &["cannot be used"]);
    assert!(!run.log.contains("did not end"), "{run}");
}

#[test]
fn holds_of_kinds_that_are_not_known_stay_and_the_others_are_put_back() {
    for (text, code) in [(OTHER, 0), ("{}", 3)] {
        let lab = Lab::new();
        lab.volume(VolumeSpec::default().id(&id(1)));
        killed_in_command(&lab, &x(HOLD));
        change(&lab, "\"held\":[", "\"held\":[{\"Gadget\":{\"id\":7}},");
        let run = lab.run(text, once().rate(5));
        run.ends(code, &["(Gadget) is of a kind or form", "vol-00000000000000001 detached"]);
        lab.nothing_left(&run);
        let text = fs::read_to_string(journal(&lab)).unwrap();
        assert!(text.contains("{\"Gadget\":{\"id\":7}}") && !text.contains(&id(1)), "{text}");
    }
}

#[test]
fn an_old_page_takes_nothing_away_that_was_committed_since() {
    for (text, code) in [(OTHER.to_owned(), 0), ("{}".to_owned(), 0), (x("exit 1"), 1)] {
        let lab = Lab::new();
        lab.volume(VolumeSpec::default().id(&id(1)));
        killed_in_command(&lab, &x(HOLD));
        let old = fs::read_to_string(journal(&lab)).unwrap();
        lab.run(&x(NOTE), once()).ends(0, &[]);
        assert!(!journal(&lab).exists());
        write(&lab, &old);
        let run = lab.run(&text, once().rate(5));
        run.ends(code, &[]);
        lab.has(&[(&id(1), "/dev/xvdf")], &run);
        assert!(!journal(&lab).exists(), "{run}");
    }
}

#[test]
fn very_many_holds_end() {
    let lab = Lab::new();
    lab.volume(VolumeSpec::default().id(&id(1)));
    killed_in_command(&lab, &x(HOLD));
    let text = fs::read_to_string(journal(&lab)).unwrap();
    let begin = text.find("\"held\":[").unwrap() + 8;
    let end = text[begin..].find("],\"inherited\"").unwrap() + begin;
    let held = &text[begin..end];
    let many: Vec<String> = (0..1500).map(|n| held.replace(&id(1), &id(1000 + n))).collect();
    write(&lab, &format!("{}{},{}", &text[..begin], many.join(","), &text[begin..]));
    for text in [OTHER, "{}"] {
        let run = lab.run(text, once().rate(30));
        assert!([0, 3].contains(&run.code), "{run}");
    }
}
