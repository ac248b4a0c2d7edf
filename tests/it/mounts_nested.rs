//! Mounts that stand on each other: parents first and children away first, across domains, in whatever order the config
//! has them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::disks::{HOLD, directive, id};
use crate::fakeaws::{Fault, FaultKind};
use crate::lab::{How, Lab, Run, once};
use crate::loops::{lab, mounts};

/// A directive of volume `n` that is mounted at `path`; its command writes the volume's number there.
fn x(n: u32, path: &str, more: &str, script: &str) -> String {
    let device = format!("/dev/xvd{}", char::from(b'e' + u8::try_from(n).unwrap()));
    let more = if more.is_empty() { "critical: true" } else { more };
    let rest = format!(r#""volume-id": "{}", mount: {{ path: "{path}" }}, {more}"#, id(n));
    directive("x", &device, &rest, &format!("echo {n} > $LAB/root0{path}/is && {script}"))
}

fn domain(name: &str, more: &str, volumes: &[String]) -> String {
    format!(r#"{name}: {{ {more} "attach-volume": [{}] }}"#, volumes.join(", "))
}

fn text(domains: &[String]) -> String {
    let poll = r#""interrupt-detection": { detect: "poll", options: { interval: 0.02 } }"#;
    format!("{{ {poll}, domains: {{ {} }} }}", domains.join(", "))
}

fn below(lab: &Lab, path: &str) -> PathBuf {
    lab.root(&lab.me).join(path.trim_start_matches('/'))
}

/// What is mounted, in order, by its path in the instance.
fn mounted(lab: &Lab) -> Vec<String> {
    let root = lab.root(&lab.me);
    let points = mounts(&lab.dir);
    points.iter().map(|p| format!("/{}", p.strip_prefix(&root).unwrap().display())).collect()
}

/// Takes away what is mounted and gives the points back to the test, which must be able to remove them.
fn clean_up(lab: &Lab) {
    for point in mounts(&lab.dir).iter().rev() {
        let _ = Command::new("umount").arg(point).status();
    }
    let _ = Command::new("chattr").args(["-R", "-f", "-i"]).arg(lab.root(&lab.me)).status();
}

/// Each file is on the volume that it says, and what was mounted where is right.
#[track_caller]
fn is_nested(lab: &Lab, paths: &[(u32, &str)], run: &dyn std::fmt::Display) {
    let mut points: Vec<&str> = paths.iter().map(|(_, path)| *path).collect();
    let mut there = mounted(lab);
    points.sort_unstable();
    there.sort_unstable();
    assert_eq!(there, points, "{run}");
    for (n, path) in paths {
        assert_eq!(fs::read_to_string(below(lab, path).join("is")).unwrap(), format!("{n}\n"), "{path} {run}");
    }
}

#[test]
fn a_parent_that_comes_later_in_the_config_is_mounted_first() {
    let Some((lab, _loops)) = lab(3) else { return };
    let volumes =
        [x(1, "/srv/a/b/c", "critical: true", "true"), x(2, "/srv/a", "", "true"), x(3, "/srv/a/b", "", "true")];
    let run = lab.run(&text(&[domain("d", "", &volumes)]), once());
    run.ends(0, &["started"]);
    is_nested(&lab, &[(2, "/srv/a"), (3, "/srv/a/b"), (1, "/srv/a/b/c")], &run);
    // A second run finds it as it is.
    lab.server.reset_calls();
    let run = lab.run(&text(&[domain("d", "", &volumes)]), once());
    run.ends(0, &["is mounted at /srv/a already", "is mounted at /srv/a/b/c already"]);
    assert!(lab.server.writes().is_empty() && mounted(&lab).len() == 3, "{run}");
    clean_up(&lab);
}

#[test]
fn a_parent_in_another_domain_is_mounted_first_and_unmounted_last() {
    for slow in [false, true] {
        let Some((lab, _loops)) = lab(3) else { return };
        let release = r#"release: ["stopping"]"#;
        let wait = if slow { "sleep 0.7" } else { "true" };
        let all = [
            domain("a", "", &[x(1, "/srv/a/b", release, "true"), x(3, "/own", release, wait)]),
            domain("z", "", &[x(2, "/srv/a", release, wait)]),
        ];
        let running = lab.start(&text(&all), How::default());
        running.says(&lab, "watching for interruptions");
        is_nested(&lab, &[(3, "/own"), (2, "/srv/a"), (1, "/srv/a/b")], &running.log());
        running.signal("TERM");
        let run = running.wait(&lab);
        clean_up(&lab);
        run.ends(0, &[&format!("{} is released", id(1)), &format!("{} is released", id(2))]);
        lab.nothing_left(&run);
        let at = |path: &str| run.log.find(&format!("unmounted {}\n", below(&lab, path).display())).unwrap();
        assert!(at("/srv/a/b") < at("/srv/a"), "{run}");
        assert!(!run.log.contains("still in use"), "{run}");
    }
}

#[test]
fn paths_are_compared_by_where_they_lead() {
    let Some((lab, _loops)) = lab(2) else { return };
    fs::create_dir_all(below(&lab, "/srv")).unwrap();
    std::os::unix::fs::symlink("srv", below(&lab, "/link")).unwrap();
    let all = [domain("a", "", &[x(1, "/link/a/b", "", "true")]), domain("z", "", &[x(2, "/srv/a", "", "sleep 0.3")])];
    let run = lab.run(&text(&all), once());
    run.ends(0, &["started"]);
    is_nested(&lab, &[(2, "/srv/a"), (1, "/srv/a/b")], &run);
    clean_up(&lab);
    // What would stay on it when it is released is found then, before anything is touched.
    lab.server.reset_calls();
    let all = [
        domain("a", "", &[x(1, "/link/a/b", "", "true")]),
        domain("z", "", &[x(2, "/srv/a", r#"release: ["stopping"]"#, "true")]),
    ];
    let run = lab.run(&text(&all), once());
    run.ends(2, &["which is released on stopping: release must name that here too"]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

/// Both volumes are away, the child's first.
#[track_caller]
fn rolled_back(lab: &Lab, run: &Run) {
    assert!(mounted(lab).is_empty(), "{run}");
    lab.nothing_left(run);
    let at = |path: &str| run.log.find(&format!("unmounted {}\n", below(lab, path).display())).unwrap();
    assert!(at("/srv/a/b") < at("/srv/a"), "{run}");
    assert!(!run.log.contains("still in use"), "{run}");
}

#[test]
fn a_child_that_fails_takes_its_parent_along_and_goes_first() {
    let Some((lab, _loops)) = lab(2) else { return };
    // What the failed command leaves running ends only at SIGKILL.
    let script = "{ trap '' TERM; cd $LAB/root0/srv/a/b; while :; do sleep 1; done & } ; exit 5";
    let all = [domain("a", "", &[x(2, "/srv/a", "", "true")]), domain("z", "", &[x(1, "/srv/a/b", "", script)])];
    let run = lab.run(&text(&all), once().rate(10));
    clean_up(&lab);
    run.ends(1, &["exit code 5", "domain 'z' failed, and its mounts and ours are nested", "failed: a, z"]);
    rolled_back(&lab, &run);
}

#[test]
fn a_parent_whose_domain_fails_takes_its_child_along_which_goes_first() {
    let Some((lab, _loops)) = lab(2) else { return };
    // After its volume stands.
    let record = r#""update-route53": [{ hostedzone: "Z1", name: "a.example.com", ttl: 60 }],"#;
    lab.fault(Fault::every("ChangeResourceRecordSets", FaultKind::Denied));
    lab.knobs(|k| k.action_latency_ms = [("Route53:ChangeResourceRecordSets".to_owned(), 2000)].into());
    for critical in ["", "critical: false,"] {
        let all = [
            domain("a", record, &[x(2, "/srv/a", "", "true")]),
            domain("z", critical, &[x(1, "/srv/a/b", "", "true")]),
        ];
        let run = lab.run(&text(&all), once());
        clean_up(&lab);
        run.ends(1, &["domain 'a' failed, and its mounts and ours are nested"]);
        rolled_back(&lab, &run);
    }
}

#[test]
fn what_a_run_that_was_killed_left_is_put_back_in_order() {
    // Who claims first is chance, and with it the order in the journal.
    for round in 0..3 {
        let Some((lab, _loops)) = lab(2) else { return };
        let volumes = [x(1, "/srv/a/b", "", &format!("{{ {HOLD}; }}")), x(2, "/srv/a", "", "true")];
        let running = lab.start(&text(&[domain("d", "", &volumes)]), once());
        lab.until_file("first");
        running.signal("KILL");
        drop(running);
        let run = lab.run(&text(&[domain("d", "", &[])]), once());
        clean_up(&lab);
        run.ends(0, &[&format!("{} detached", id(1)), &format!("{} detached", id(2))]);
        assert!(!run.log.contains("cannot be put back"), "{round}: {run}");
        rolled_back(&lab, &run);
    }
}

#[test]
fn who_waits_for_a_parent_that_fails_says_who_failed() {
    let Some((lab, _loops)) = lab(4) else { return };
    // Each has a mount that stands on one of the other: neither may fail alone. Whichever of the two comes first.
    let mut all = [
        domain("z", "", &[x(4, "/srv/c/d", "", "true"), x(2, "/srv/a", "", "sleep 1; exit 5")]),
        domain("a", "", &[x(1, "/srv/a/b", "", "true"), x(3, "/srv/c", "", "true")]),
    ];
    for _ in 0..2 {
        all.reverse();
        let run = lab.run(&text(&all), once());
        clean_up(&lab);
        run.ends(1, &["exit code 5"]);
        // Or it has seen first that the mount will not come.
        let tells = ["domain 'z' failed, and its mounts and ours are nested", "which is not mounted"];
        let told = tells.iter().any(|text| run.log.contains(text));
        assert!(told && !run.log.contains("the time for it is over"), "{run}");
        lab.nothing_left(&run);
    }
}

#[test]
fn a_child_that_is_not_critical_fails_alone() {
    let Some((lab, _loops)) = lab(2) else { return };
    let all = [
        domain("a", "", &[x(2, "/srv/a", "", "true")]),
        domain("z", "critical: false,", &[x(1, "/srv/a/b", "", "exit 5")]),
    ];
    let run = lab.run(&text(&all), once());
    run.ends(0, &["exit code 5", "ready: a started"]);
    is_nested(&lab, &[(2, "/srv/a")], &run);
    lab.has(&[(&id(2), "/dev/xvdg")], &run);
    clean_up(&lab);
}

#[test]
fn a_child_whose_parent_never_comes_is_not_mounted_below_it() {
    let Some((lab, _loops)) = lab(2) else { return };
    // Passed over in a domain that goes on, and a domain that failed before anything was attached.
    let over = domain("a", "", &[x(2, "/srv/a", "critical: false", "exit 5")]);
    let before = r#"critical: false, exec: [{ on: ["starting"], lines: [{ argv: ["/bin/false"] }] }],"#;
    let before = domain("a", before, &[x(2, "/srv/a", "", "true")]);
    for (parent, why) in [(over, "which is not mounted"), (before, "domain 'a' failed")] {
        let run = lab.run(&text(&[parent, domain("z", "", &[x(1, "/srv/a/b", "", "true")])]), once());
        clean_up(&lab);
        run.ends(1, &[why]);
        assert!(mounted(&lab).is_empty() && !below(&lab, "/srv/a/b").exists(), "{run}");
        lab.nothing_left(&run);
    }
}

#[test]
fn a_mount_over_one_of_ours_is_an_error() {
    let Some((lab, loops)) = lab(2) else { return };
    let point = below(&lab, "/srv/a/b");
    fs::create_dir_all(&point).unwrap();
    assert!(Command::new("mount").arg(&loops[0].device).arg(&point).status().unwrap().success());
    let parent = domain("a", "", &[x(2, "/srv/a", "", "true")]);
    let child = domain("z", "", &[x(1, "/srv/a/b", "", "true")]);
    // Where the config says that one is mounted there, and where that is another daemon's volume.
    lab.take(&id(1), &lab.me, "/dev/xvdf");
    lab.until("the disk", || below(&lab, "/dev/nvme1n1").exists());
    for all in [vec![parent.clone(), child], vec![parent]] {
        let run = lab.run(&text(&all), once().rate(10));
        run.ends(1, &["cannot mount", "it would hide what is mounted at", &point.display().to_string()]);
        assert_eq!(mounted(&lab), ["/srv/a/b"], "{run}");
        lab.has(&[(&id(1), "/dev/xvdf")], &run);
    }
    // What is nobody's volume is only hidden.
    assert!(Command::new("umount").arg(&point).status().unwrap().success());
    assert!(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&point).status().unwrap().success());
    let run = lab.run(&text(&[domain("a", "", &[x(2, "/srv/a", "", "true")])]), once());
    run.ends(0, &["hides what is mounted at", "is mounted at /srv/a"]);
    clean_up(&lab);
    clean_up(&lab);
}

#[test]
fn a_child_that_stays_when_its_parent_is_released_is_a_mistake_in_the_config() {
    let lab = Lab::new();
    let parent = x(2, "/srv/a/", r#"release: ["stopping", "interrupted"]"#, "true");
    for (release, code) in [
        ("critical: true", 2),
        (r#"release: ["interrupted"]"#, 2),
        (r#"release: ["interrupted", "stopping", "failed"]"#, 0),
    ] {
        let all =
            [domain("a", "", &[x(1, "/srv/a/b", release, "true")]), domain("z", "", std::slice::from_ref(&parent))];
        let file = lab.file("config", &text(&all));
        let mut check = Command::new(env!("CARGO_BIN_EXE_ec2fleetd"));
        let out = check.arg("--check").arg(format!("--userdata={}", file.display())).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
        assert_eq!(out.status.code(), Some(code), "{said}");
        let wanted = r#""/srv/a/b" stands on "/srv/a" (domains.z.attach-volume[0]), which is released on stopping"#;
        assert_eq!(code == 2, said.replace("domains.\"z\"", "domains.z").contains(wanted), "{said}");
        // The parent need not follow the child.
        assert!(!said.contains("is released on failed"), "{said}");
    }
}
