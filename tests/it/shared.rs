//! Volumes that several directives have: of two domains, of one, of two daemons. What has nothing keeps nothing; what is
//! shared goes with the last that really has it.

use crate::disks::{directive, id};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::lab::{How, Lab, once};
use crate::loops::{self, mounts};

/// An entry for volume 1 with a script; released at `stopping`.
fn x(device: &str, more: &str, script: &str) -> String {
    let rest = format!(r#""volume-id": "{}", release: ["stopping"], {more}"#, id(1));
    directive("x", device, rest.trim_end_matches(", "), script)
}

fn domain(name: &str, more: &str, volumes: &[String]) -> String {
    format!(r#"{name}: {{ {more} "attach-volume": [{}] }}"#, volumes.join(", "))
}

fn text(domains: &[String]) -> String {
    format!("{{ domains: {{ {} }} }}", domains.join(", "))
}

fn lab() -> Lab {
    let lab = Lab::new();
    lab.volume(VolumeSpec::default().id(&id(1)));
    lab
}

/// Of two domains the one that names a device attaches the volume: the other one chooses a name more slowly.
fn named_first(lab: &Lab) {
    lab.fault(Fault::nth("DescribeVolumes", 3, FaultKind::Slow(1500)));
}

/// A script that says that it runs, and waits for the test.
fn hold(name: &str, end: &str) -> String {
    format!("touch $LAB/{name}; until [ -e $LAB/{name}-go ] || [ ! -d $LAB ]; do sleep 0.02; done; {end}")
}

fn go(lab: &Lab, name: &str) {
    std::fs::write(lab.dir.join(format!("{name}-go")), "").unwrap();
}

#[test]
fn a_directive_that_failed_keeps_nothing_from_another_domains_release() {
    let lab = lab();
    named_first(&lab);
    let d = domain("d", "", &[x("/dev/xvdf", "critical: false", &hold("d", "exit 1"))]);
    let e = domain("e", "", &[x("", "", &hold("e", "true"))]);
    let running = lab.start(&text(&[d, e]), How::default().rate(4));
    lab.until_file("d");
    lab.until_file("e");
    go(&lab, "e");
    go(&lab, "d");
    running.says(&lab, "watching for interruptions");
    assert_eq!(lab.attached(&lab.me).len(), 1);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["is passed over", "is released"]);
    lab.nothing_left(&run);
}

#[test]
fn a_roll_back_does_not_take_a_disk_from_under_a_domain_that_is_about_to_commit() {
    for (end, code) in [("true", 0), ("exit 1", 1)] {
        let lab = lab();
        named_first(&lab);
        let d = domain("d", "", &[x("/dev/xvdf", "critical: false", &hold("d", "exit 1"))]);
        let e = domain("e", "", &[x("", "", &hold("e", end))]);
        let running = lab.start(&text(&[d, e]), How::default().rate(4));
        lab.until_file("d");
        lab.until_file("e");
        go(&lab, "d");
        running.says(&lab, "is passed over");
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!((lab.attached(&lab.me).len(), lab.count("DetachVolume")), (1, 0));
        go(&lab, "e");
        if code == 1 {
            // With the last one it goes.
            let run = running.wait(&lab);
            run.ends(1, &["failed: e"]);
            lab.nothing_left(&run);
            assert!(lab.tag_keys(&id(1)).is_empty(), "{run}");
            continue;
        }
        running.says(&lab, "watching for interruptions");
        lab.until("the tags", || lab.tag_keys(&id(1)) == ["owner", "ts-used"]);
        running.signal("TERM");
        let run = running.wait(&lab);
        run.ends(0, &["is released"]);
        assert_eq!(lab.count("DetachVolume"), 1, "{run}");
        lab.nothing_left(&run);
    }
}

#[test]
fn two_domains_that_both_fail_leave_nothing() {
    let lab = lab();
    named_first(&lab);
    let d = domain("d", "", &[x("/dev/xvdf", "", &hold("d", "exit 1"))]);
    let e = domain("e", "", &[x("", "", &hold("e", "exit 1"))]);
    let running = lab.start(&text(&[d, e]), How::default().rate(4));
    lab.until_file("d");
    lab.until_file("e");
    go(&lab, "d");
    go(&lab, "e");
    let run = running.wait(&lab);
    run.ends(1, &["failed: d, e"]);
    lab.nothing_left(&run);
    assert!(lab.tag_keys(&id(1)).is_empty(), "{run}");
}

#[test]
fn a_roll_back_does_not_take_a_disk_from_under_another_daemon() {
    let lab = lab();
    let d = lab.start(&text(&[domain("d", "", &[x("/dev/xvdf", "", &hold("d", "exit 1"))])]), once().rate(4));
    lab.until_file("d");
    let e = lab.start(&text(&[domain("e", "", &[x("", "", &hold("e", "true"))])]), How::default().rate(20));
    lab.until_file("e");
    // It has looked at the other one's journal by then, and left it alone.
    std::thread::sleep(std::time::Duration::from_millis(400));
    go(&lab, "d");
    let run = d.wait(&lab);
    run.ends(3, &["vol-00000000000000001 stays attached", "another ec2fleetd of this instance uses it"]);
    assert_eq!((lab.attached(&lab.me).len(), lab.count("DetachVolume")), (1, 0), "{run}");
    go(&lab, "e");
    e.says(&lab, "watching for interruptions");
    lab.until("the tags", || lab.tag_keys(&id(1)) == ["owner", "ts-used"]);
    // By now it is the other one's for good.
    let run = lab.run("{}", once().rate(4));
    run.ends(0, &["stays"]);
    assert_eq!(lab.count("DetachVolume"), 0, "{run}");
    e.signal("TERM");
    let run = e.wait(&lab);
    run.ends(0, &["is released"]);
    lab.nothing_left(&run);
}

#[test]
fn what_another_daemon_could_not_take_goes_when_nobody_has_it() {
    for late in [false, true] {
        let lab = lab();
        let config = text(&[domain("d", "", &[x("/dev/xvdf", "", &hold("d", "exit 1"))])]);
        let d = lab.start(&config, once());
        lab.until_file("d");
        let how = if late { once().rate(20) } else { once() };
        let e = lab.start(&text(&[domain("e", "", &[x("", "", &hold("e", "exit 1"))])]), how);
        lab.until_file("e");
        std::thread::sleep(std::time::Duration::from_millis(if late { 400 } else { 0 }));
        go(&lab, "d");
        d.wait(&lab).ends(3, &[]);
        go(&lab, "e");
        // It settles what the other one left, unless it looked too early.
        let run = e.wait(&lab);
        run.ends(1, &[]);
        let run = if late { lab.run("{}", once().rate(4)) } else { run };
        run.ends(i32::from(!late), &["vol-00000000000000001 detached"]);
        lab.nothing_left(&run);
        assert!(lab.tag_keys(&id(1)).is_empty(), "{run}");
    }
}

#[test]
fn a_release_leaves_what_another_daemon_has() {
    let lab = lab();
    let of = |name: &str, device: &str| text(&[domain(name, "", &[x(device, "", "true")])]);
    let d = lab.start(&of("d", "/dev/xvdf"), How::default());
    d.says(&lab, "watching for interruptions");
    let e = lab.start(&of("e", ""), How::default());
    e.says(&lab, "watching for interruptions");
    d.signal("TERM");
    let run = d.wait(&lab);
    run.ends(0, &["stays: another ec2fleetd of this instance uses it"]);
    assert_eq!(lab.count("DetachVolume"), 0, "{run}");
    e.signal("TERM");
    let run = e.wait(&lab);
    run.ends(0, &["is released"]);
    lab.nothing_left(&run);
}

#[test]
fn one_volume_twice_in_a_domain_goes_with_the_last_directive() {
    let ends = [("true", "exit 1", 0), ("exit 1", "true", 0), ("exit 1", "exit 1", 0), ("true", "true", 0)];
    for (first, second, code) in ends {
        let lab = lab();
        let both = [x("", "critical: false", first), x("", "critical: false", second)];
        let running = lab.start(&text(&[domain("d", "", &both)]), How::default().rate(4));
        running.says(&lab, "watching for interruptions");
        lab.until("the tags", || !lab.tag_keys(&id(1)).contains(&"transc-id".to_owned()));
        let stays = usize::from([first, second].contains(&"true"));
        lab.until("what is to stay", || lab.attached(&lab.me).len() == stays);
        running.signal("TERM");
        let run = running.wait(&lab);
        run.ends(code, &[]);
        lab.nothing_left(&run);
        // Where the first one fails before the second has come to use it, it goes and comes again.
        let attached = lab.server.calls_of("AttachVolume").iter().filter(|c| c.status == 200).count();
        assert_eq!(lab.count("DetachVolume"), attached, "{first} {second} {run}");
        assert!(attached == 1 || first == "exit 1", "{first} {second} {run}");
    }
    // Under two names not both can have it, and nothing of it is left.
    for (critical, code) in [(true, 1), (false, 0)] {
        let lab = lab();
        let more = format!("critical: {critical}");
        let both = [x("/dev/xvdf", &more, "true"), x("/dev/xvdg", &more, "true")];
        let running = lab.start(&text(&[domain("d", "", &both)]), How::default().rate(4));
        if code == 0 {
            running.says(&lab, "watching for interruptions");
            assert_eq!(lab.attached(&lab.me).len(), 1);
            running.signal("TERM");
        }
        let run = running.wait(&lab);
        run.ends(code, &["by somebody else"]);
        lab.nothing_left(&run);
    }
}

#[test]
fn what_a_directive_mounted_goes_with_it_though_the_volume_stays() {
    let Some((lab, _loops)) = loops::lab(1) else { return };
    let leaves = "touch $LAB/d; sleep 600 < $LAB/root0/data & until [ -e $LAB/d-go ]; do sleep 0.02; done; exit 1";
    let mount = r#"mount: { path: "/data" }, critical: false"#;
    named_first(&lab);
    let d = domain("d", "", &[x("/dev/xvdf", mount, leaves)]);
    let e = domain("e", "", &[x("", "", &hold("e", "true"))]);
    let running = lab.start(&text(&[d, e]), How::default());
    lab.until_file("d");
    lab.until_file("e");
    assert_eq!(mounts(&lab.dir).len(), 1, "{}", running.log());
    go(&lab, "d");
    running.says(&lab, "stays for now: domain e is about to use it");
    lab.until("the mount of the one that failed to go", || mounts(&lab.dir).is_empty());
    go(&lab, "e");
    running.says(&lab, "watching for interruptions");
    assert_eq!(lab.attached(&lab.me).len(), 1, "{}", running.log());
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["is released"]);
    lab.nothing_left(&run);
    crate::mounts::unmount(&lab);
}

#[test]
fn a_name_that_another_domain_asks_for_is_not_chosen() {
    let lab = Lab::new();
    for n in [1, 2] {
        lab.volume(VolumeSpec::default().id(&id(n)));
    }
    let second = directive("x", "/dev/xvdba", &format!(r#""volume-id": "{}""#, id(2)), "true");
    let first = directive("x", "", &format!(r#""volume-id": "{}""#, id(1)), "true");
    // It comes when the first has chosen.
    lab.fault(Fault::nth("AttachVolume", 1, FaultKind::Slow(200)));
    let run = lab.run(&text(&[domain("d", "", &[first]), domain("e", "", &[second])]), once());
    run.ends(0, &[]);
    assert_eq!(lab.attached(&lab.me)[1], (id(2), "/dev/xvdba".to_owned()), "{run}");
}
