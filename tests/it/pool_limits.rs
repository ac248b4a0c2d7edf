//! `max-per-instance`: an instance never hoards a pool.

use crate::disks::{config, directive, id, pool, volume};
use crate::fakeaws::VolumeSpec;
use crate::lab::{Lab, once};

fn p(source: &str, device: &str, rest: &str) -> String {
    volume(source, device, &format!(r#""pool-name": "p", create: {{ Size: 4 }}, {rest}"#))
}

/// A lab with a pool of which this instance has volume 9 already, for a directive that leaves the device out.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.pool_of(3);
    lab.volume(VolumeSpec::pool("d", "p").id(&id(8)).attached(&lab.me, "/dev/xvdba"));
    lab.volume(VolumeSpec::pool("d", "p").id(&id(9)).attached(&lab.me, "/dev/xvdbb"));
    lab
}

#[test]
fn by_default_an_instance_has_as_many_as_directives_name_the_pool() {
    // Two directives, two volumes here already, of which they use one.
    let lab = lab();
    let run = lab.run(&config(&format!("{}, {}", pool("pc", "/dev/xvdf"), pool("p", ""))), once());
    let text = format!("this instance has 2 of its volumes already ({}, {}), and max-per-instance is 2", id(8), id(9));
    run.ends(1, &["cannot take a volume of pool 'p': ", &text]);
    // Not "absent": no new one either.
    assert_eq!((lab.count("AttachVolume"), lab.count("CreateVolume")), (0, 0), "{run}");
}

#[test]
fn a_higher_limit_lets_it_take_more() {
    let lab = lab();
    let rest = r#""max-per-instance": 3"#;
    let run = lab.run(&config(&format!("{}, {}", p("pc", "/dev/xvdf", rest), p("p", "", rest))), once());
    run.ends(0, &[]);
    assert_eq!((lab.attached(&lab.me).len(), lab.count("AttachVolume")), (3, 1), "{run}");
}

#[test]
fn directives_beside_each_other_keep_to_the_limit() {
    let lab = Lab::new();
    lab.pool_of(5);
    lab.knobs(|k| k.latency_ms = 20);
    let rest = r#""max-per-instance": 2, critical: false"#;
    let four: Vec<String> = ["f", "g", "h", "i"].map(|l| p("pc", &format!("/dev/xvd{l}"), rest)).into();
    let run = lab.run(&config(&four.join(", ")), once());
    run.ends(0, &["max-per-instance is 2"]);
    assert_eq!((lab.attached(&lab.me).len(), lab.count("CreateVolume")), (2, 0), "{run}");
}

#[test]
fn no_wait_for_what_could_not_be_taken() {
    let lab = lab();
    for v in 1..=3 {
        lab.take(&id(v), &lab.neighbour(), "/dev/xvdf");
    }
    let rest = r#"wait: 300"#;
    let run = lab.run(&config(&format!("{}, {}", p("pc", "/dev/xvdf", rest), p("p", "", rest))), once());
    run.ends(1, &["max-per-instance is 2"]);
    assert!(!run.log.contains("waiting up to"), "{run}");
}

#[test]
fn what_is_on_its_way_from_here_and_what_others_name_does_not_count() {
    let lab = Lab::new();
    lab.pool_of(2);
    lab.volume(VolumeSpec::pool("d", "p").id(&id(7)).attached(&lab.me, "/dev/xvdh"));
    let named = directive("x", "/dev/xvdh", &format!(r#""volume-id": "{}""#, id(7)), "true");
    let run = lab.run(&config(&format!("{}, {named}", p("pc", "/dev/xvdf", "critical: true"))), once());
    run.ends(0, &[]);
    assert_eq!(lab.attached(&lab.me).len(), 2, "{run}");

    let lab = Lab::new();
    lab.pool_of(2);
    lab.volume(VolumeSpec::pool("d", "p").id(&id(7)).attached(&lab.me, "/dev/xvdh"));
    lab.set_attachment(&id(7), "detaching", 1 << 20);
    let run = lab.run(&config(&p("pc", "/dev/xvdf", "critical: true")), once());
    run.ends(0, &[]);
}
