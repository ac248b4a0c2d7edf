//! Multi-Attach: volumes that several instances can have at the same time. No file system of ours stands that.

use crate::disks::{config, directive, id};
use crate::fakeaws::VolumeSpec;
use crate::lab::{Lab, once};

const MOUNT: &str = r#", mount: { path: "/data" }"#;

fn x(rest: &str) -> String {
    config(&directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}"{rest}"#, id(1)), "true"))
}

fn spec() -> VolumeSpec {
    VolumeSpec { multi_attach: true, kind: "io2".into(), ..VolumeSpec::default().id(&id(1)) }
}

#[test]
fn with_a_mount_nothing_is_attached_whoever_has_it() {
    for held in ["nobody", "another", "this one"] {
        let lab = Lab::new();
        let other = lab.neighbour();
        lab.volume(match held {
            "nobody" => spec(),
            "another" => spec().attached(&other, "/dev/xvdf"),
            _ => spec().attached(&lab.me, "/dev/xvdf"),
        });
        let before = lab.attached(&lab.me);
        let run = lab.run(&x(MOUNT), once());
        run.ends(1, &[&format!("cannot use {}: with Multi-Attach several instances may have the volume", id(1))]);
        assert!(lab.server.writes().is_empty() && lab.attached(&lab.me) == before, "{held}: {run}");
    }
}

#[test]
fn none_is_made_to_be_mounted() {
    let lab = Lab::new();
    for value in ["true", "\"true\""] {
        let create = format!(r#"create: {{ Size: 4, VolumeType: "io2", Iops: 100, MultiAttachEnabled: {value} }}"#);
        let run = lab.run(&config(&directive("c", "/dev/xvdf", &format!("{create}{MOUNT}"), "true")), once());
        run.ends(1, &["create.MultiAttachEnabled is set for source c", "leave mount out"]);
        assert!(lab.server.writes().is_empty(), "{run}");
    }
    let create = r#"create: { Size: 4, VolumeType: "io2", Iops: 100, MultiAttachEnabled: true }"#;
    lab.run(&config(&directive("c", "/dev/xvdf", create, "true")), once()).ends(0, &["started"]);
}

#[test]
fn without_a_mount_two_instances_can_have_it() {
    let lab = Lab::new();
    lab.volume(spec());
    let other = lab.neighbour();
    // Both see it free.
    lab.list_late();
    let second = lab.start(&x(""), once().on(&other));
    lab.listed();
    lab.run(&x(""), once()).ends(0, &["attached as /dev/xvdf"]);
    let run = second.wait(&lab);
    run.ends(0, &["attached as /dev/xvdf"]);
    assert_eq!((lab.attached(&lab.me).len(), lab.attached(&other).len()), (1, 1), "{run}");
}
