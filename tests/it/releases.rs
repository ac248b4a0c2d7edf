//! `release`: volumes handed over on the way out, after the commands, and only as the config says.

use std::fs;
use std::process::Command;

use crate::disks::{directive, id};
use crate::fakeaws::VolumeSpec;
use crate::kit::{SHORT, bodies, on, sh, to_topic};
use crate::lab::{How, Lab, Running};
use crate::loops::{lab, mounts};

/// A domain with these volumes that polls often and notes its events.
fn text(volumes: &str) -> String {
    with_exec(volumes, "{ on: [], lines: [] }")
}

/// The same with one more `exec` block.
fn with_exec(volumes: &str, block: &str) -> String {
    let note =
        on(&["stopping", "failed", "interrupted"], &[sh("echo {daemon_state} `ls $LAB/root0/dev` >> $LAB/seen")]);
    format!(
        r#"{{ "interrupt-detection": {{ detect: "poll", options: {{ interval: 0.02 }} }}, domains: {{ d: {{
            "attach-volume": [{volumes}], exec: [{block}, {note}], notify: [{}] }} }} }}"#,
        to_topic(SHORT)
    )
}

fn x(n: u32, rest: &str) -> String {
    let device = format!("/dev/xvd{}", char::from(b'e' + u8::try_from(n).unwrap()));
    directive("x", &device, &format!(r#""volume-id": "{}", {rest}"#, id(n)), "true")
}

fn plain_lab() -> Lab {
    let lab = Lab::new();
    for n in [1, 2] {
        lab.volume(VolumeSpec::default().id(&id(n)));
    }
    lab
}

fn started(lab: &Lab, text: &str, how: How) -> Running {
    let running = lab.start(text, how);
    running.says(lab, "watching for interruptions");
    running
}

#[test]
fn the_volumes_of_an_event_go_after_its_commands_in_reverse_order() {
    for (event, code) in [("interrupted", 0), ("stopping", 0)] {
        let lab = plain_lab();
        let release = format!(r#"release: ["{event}"]"#);
        let running = started(&lab, &text(&format!("{}, {}", x(1, &release), x(2, &release))), How::default());
        match event {
            "stopping" => running.signal("TERM"),
            _ => lab.server.world().notice(&lab.me, "terminate", 120),
        }
        let run = running.wait(&lab);
        run.ends(code, &[&format!("{} is released", id(1)), &format!("{} is released", id(2))]);
        lab.nothing_left(&run);
        assert_eq!(lab.volumes_of("DetachVolume"), [id(2), id(1)], "{run}");
        assert_eq!((lab.state(&id(1)), lab.state(&id(2))), ("available".into(), "available".into()), "{run}");
        // The commands still saw both disks, beside the root disk's.
        assert!(lab.lines("seen")[0].matches("nvme").count() >= 2, "{:?} {run}", lab.lines("seen"));
        // The time of use is written while the volume is ours.
        let calls = lab.server.calls();
        let tags = |c: &&crate::fakeaws::Call| {
            c.action == "CreateTags" && c.params["ResourceId.1"] == id(1) && c.params.len() == 5
        };
        let detach = calls.iter().position(|c| c.action == "DetachVolume" && c.params["VolumeId"] == id(1));
        assert!(calls.iter().rposition(|c| tags(&c)) < detach, "{run}");
        assert_eq!(lab.tag_keys(&id(1)), ["owner", "ts-used"], "{run}");
    }
}

#[test]
fn other_events_release_nothing() {
    let lab = plain_lab();
    let running = started(&lab, &text(&x(1, r#"release: ["interrupted", "failed"]"#)), How::default());
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &[]);
    assert_eq!((lab.attached(&lab.me).len(), lab.count("DetachVolume")), (1, 0), "{run}");
}

#[test]
fn an_instance_that_will_resume_keeps_its_volumes() {
    for action in ["stop", "hibernate"] {
        let lab = plain_lab();
        let running = started(&lab, &text(&x(1, r#"release: ["interrupted"]"#)), How::default());
        lab.server.world().notice(&lab.me, action, 120);
        if action == "hibernate" {
            running.says(&lab, "init runs again when the instance is back");
            running.signal("TERM");
        }
        let run = running.wait(&lab);
        run.ends(0, &[]);
        assert_eq!((lab.attached(&lab.me).len(), lab.count("DetachVolume")), (1, 0), "{run}");
    }
}

#[test]
fn a_started_command_that_fails_releases_on_failed() {
    let lab = plain_lab();
    let text = with_exec(&x(1, r#"release: ["failed"]"#), &on(&["started"], &[sh("exit 3")]));
    let run = lab.run(&text, How::default());
    run.ends(1, &["exit code 3", &format!("{} is released", id(1))]);
    lab.nothing_left(&run);
    assert_eq!(lab.lines("seen").len(), 1, "{run}");
}

#[test]
fn what_is_mounted_is_written_out_and_unmounted_first() {
    let Some((lab, loops)) = lab(1) else { return };
    let mount = r#"mount: { path: "/data" }, release: ["interrupted"]"#;
    let running = started(&lab, &text(&x(1, mount)), How::default());
    fs::write(lab.root(&lab.me).join("data/file"), "last words").unwrap();
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["unmounted ", "is released"]);
    assert!(mounts(&lab.dir).is_empty(), "{run}");
    lab.nothing_left(&run);
    let point = lab.dir.join("mnt");
    assert!(Command::new("mount").arg(&loops[0].device).arg(&point).status().unwrap().success());
    assert_eq!(fs::read_to_string(point.join("file")).unwrap(), "last words");
    let _ = Command::new("chattr").arg("-i").arg(lab.root(&lab.me).join("data")).status();
}

#[test]
fn a_disk_that_is_held_stays_and_its_holder_is_named_unless_lazy() {
    for lazy in [false, true] {
        let Some((lab, _loops)) = lab(1) else { return };
        let mount =
            format!(r#"mount: {{ path: "/data" }}, release: {{ on: ["stopping", "interrupted"], lazy: {lazy} }}"#);
        let running = started(&lab, &text(&x(1, &mount)), How::default().rate(10));
        let file = fs::File::create(lab.root(&lab.me).join("data/file")).unwrap();
        if lazy {
            running.signal("TERM");
        } else {
            lab.server.world().notice(&lab.me, "terminate", 120);
        }
        let run = running.wait(&lab);
        let who = format!("process {} (", std::process::id());
        if lazy {
            run.ends(0, &[&who, "unmounting lazily, as the config says", "is released"]);
            lab.nothing_left(&run);
        } else {
            run.ends(3, &["not released: ", "stays attached", &who]);
            assert_eq!((lab.attached(&lab.me).len(), lab.count("DetachVolume")), (1, 0), "{run}");
            // A second message says so.
            let told = bodies(&lab);
            assert!(told.len() == 3 && told[2].contains("not released"), "{told:?} {run}");
        }
        drop(file);
        for point in mounts(&lab.dir) {
            let _ = Command::new("umount").arg(point).status();
        }
        let _ = Command::new("chattr").arg("-i").arg(lab.root(&lab.me).join("data")).status();
    }
}

#[test]
fn what_cannot_be_released_at_a_stop_is_exit_code_3() {
    let lab = plain_lab();
    lab.server.world().deny("EC2:DetachVolume");
    let running = started(&lab, &text(&x(1, r#"release: ["stopping"]"#)), How::default());
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(3, &["not released: ", "allow ec2:DetachVolume", "something could not be released and needs a look:"]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
}

#[test]
fn a_program_that_a_command_left_running_is_ended_first() {
    let Some((lab, _loops)) = lab(1) else { return };
    let mount = r#"mount: { path: "/data" }, release: ["stopping"]"#;
    let server = on(&["started"], &[sh("cd $LAB/root0/data; sleep 600 >/dev/null 2>&1 &")]);
    let text = with_exec(&x(1, mount), &server);
    let running = started(&lab, &text, How::default().rate(4));
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["is released"]);
    lab.nothing_left(&run);
    let _ = Command::new("chattr").arg("-i").arg(lab.root(&lab.me).join("data")).status();
}

#[test]
fn mistakes_in_the_config_are_named() {
    let lab = plain_lab();
    let cases = [
        (r#"["started"]"#, "nothing is released on started"),
        (r#"["interupted"]"#, "did you mean interrupted?"),
        (r#"{ lazy: true }"#, "release.on: "),
        (r#"{ on: [], lasy: true }"#, "did you mean lazy?"),
    ];
    for (release, text) in cases {
        let config = self::text(&x(1, &format!("release: {release}")));
        lab.run(&config, How::default()).ends(2, &[text]);
    }
}

#[test]
fn a_volume_of_two_domains_goes_with_the_last_one() {
    for (second, released) in [(r#"release: ["stopping"]"#, true), ("critical: true", false)] {
        let lab = plain_lab();
        let slow = on(&["stopping"], &[sh("sleep 0.5; ls $LAB/root0/dev >> $LAB/slow")]);
        let domain = |name: &str, more: &str, exec: &str| {
            let volume = format!(r#"{{ "volume-id": "{}", source: "x", {more} }}"#, id(1));
            format!(r#"{name}: {{ "attach-volume": [{volume}], exec: [{exec}] }}"#)
        };
        let first = domain("d", r#"release: ["stopping"]"#, "{ on: [], lines: [] }");
        let text = crate::kit::config(&[&first, &domain("e", second, &slow)]);
        let poll = r#"{ "interrupt-detection": { detect: "poll", options: { interval: 0.02 } },"#;
        let running = started(&lab, &text.replacen('{', poll, 1), How::default());
        running.signal("TERM");
        let run = running.wait(&lab);
        run.ends(0, &["stays: domain e has it too"]);
        // Its commands had the disk still.
        assert!(lab.lines("slow").iter().filter(|l| l.contains("nvme")).count() >= 2, "{run}");
        assert_eq!(lab.count("DetachVolume"), usize::from(released), "{run}");
    }
}
