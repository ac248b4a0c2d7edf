//! The suite of volumes that the original documents, written anew.

use crate::disks::{config, directive, id, volume};
use crate::fakeaws::VolumeSpec;
use crate::lab::{Lab, once};

/// One volume by id, twice: the second time it is there already.
#[test]
fn a_volume_by_id_twice() {
    let lab = Lab::new();
    let vol = lab.volume(VolumeSpec::default().id(&id(1)));
    let text = config(&volume("x", "/dev/sdf", &format!(r#""volume-id": "{vol}""#)));
    for op in ["true", "false"] {
        let run = lab.run(&text, once());
        run.ends(0, &[]);
        lab.has(&[(&vol, "/dev/sdf")], &run);
        assert_eq!(lab.seen().pop(), Some(format!("{vol} {op} x")));
    }
    assert_eq!(lab.count("AttachVolume"), 1);
}

/// Three volumes, from the pool or new: the first fails and is not critical, the second stands, the last fails and is.
#[test]
fn a_failing_one_that_is_not_critical_then_a_good_one_then_a_failing_critical_one() {
    for in_pool in [0, 3] {
        let lab = Lab::new();
        let pool = lab.pool_of(in_pool);
        let rest = r#""pool-name": "p", create: { Size: 1 }"#;
        let text = config(&format!(
            "{}, {}, {}",
            directive("pc", "/dev/xvdf", &format!("{rest}, critical: false"), "echo $1 >> $LAB/one; exit 1"),
            directive("pc", "/dev/xvdg", rest, "echo $1 >> $LAB/two"),
            directive("pc", "/dev/xvdh", rest, "echo $1 >> $LAB/three; exit 2"),
        ));
        let run = lab.run(&text, once());
        run.ends(1, &["attach-volume[0] failed and is passed over", "attach-volume[2]: ", "exit code 2"]);
        assert_eq!(["one", "two", "three"].map(|f| lab.lines(f).len()), [1, 1, 1], "{run}");
        lab.nothing_left(&run);
        let deleted = lab.count("DeleteVolume");
        assert_eq!(deleted, if in_pool == 0 { 3 } else { 0 }, "{run}");
        assert!(lab.count("DetachVolume") == 3, "{run}");
        for v in &pool {
            assert_eq!(lab.tag_keys(v), ["domain", "pool-name"], "{run}");
        }
    }
}

/// Three volumes, from the pool or new, twice: the second run changes nothing.
#[test]
fn three_volumes_from_the_pool_or_new_twice() {
    for in_pool in [0, 1, 3] {
        let lab = Lab::new();
        lab.pool_of(in_pool);
        let of = |d: &str| volume("pc", d, r#""pool-name": "p", create: { Size: 1 }"#);
        let text = config(&["/dev/xvdf", "/dev/xvdg", "/dev/xvdh"].map(of).join(", "));
        let run = lab.run(&text, once().rate(3));
        run.ends(0, &[]);
        let attached = lab.attached(&lab.me);
        assert_eq!(attached.len(), 3, "{run}");
        assert_eq!(lab.created().len(), 3 - in_pool as usize, "{run}");
        lab.server.reset_calls();
        let run = lab.run(&text, once());
        run.ends(0, &[]);
        assert!(lab.server.writes().is_empty(), "{run}");
        assert_eq!(lab.attached(&lab.me), attached);
        assert_eq!(lab.seen().iter().filter(|l| l.contains(" false ")).count(), 3);
    }
}

#[test]
fn what_is_not_critical_leaves_time_for_what_is() {
    let record = crate::kit::record("a.example.com", "");
    let exec = crate::kit::on(&["started"], &[crate::kit::sh("echo {domain} >> $LAB/seen")]);
    let disk = r#"source: "p", device: "/dev/xvdf", "pool-name": "p""#;
    // Of one directive, and of a domain.
    let one = format!(
        r#"d: {{ "attach-volume": [{{ {disk}, critical: false }}], "update-route53": [{record}], exec: [{exec}] }}"#
    );
    let two = format!(
        r#"d: {{ "update-route53": [{record}], exec: [{exec}] }},
           e: {{ critical: false, "attach-volume": [{{ {disk} }}], exec: [{exec}] }}"#
    );
    for (domains, name) in [(one, "d"), (two, "e")] {
        let lab = Lab::new();
        lab.pool_volume(name, "p");
        lab.knobs(|k| k.device_never = true);
        let run = lab.run(&format!("{{ timeout: 8, domains: {{ {domains} }} }}"), once());
        run.ends(0, &["is attached as /dev/xvdf, but", "a.example.com. is now A", "ready: d started"]);
        assert_eq!(crate::kit::seen(&lab), ["d"], "{run}");
        lab.nothing_left(&run);
    }
}
