//! A `/run` that is full or cannot be written to: what can go on goes on and says what it does without, what cannot says
//! what could not be written, where, why, and what to do. They need root, for a mount namespace of their own.

use std::fs;
use std::process::Command;

use crate::disks::{directive, id, volume};
use crate::fakeaws::VolumeSpec;
use crate::lab::{How, Lab, Run, once};

/// Runs the daemon with a `/run` that `script` prepares as `$R`; `None`: it cannot be had here.
fn run_on(lab: &Lab, script: &str, config: &str, how: How) -> Option<Run> {
    let can = Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|s| s.success());
    if !can {
        println!("skipped: no mount namespace can be had here (root is needed)");
        return None;
    }
    // A copy of what other tests have mounted would hold their disks for as long as this namespace is there.
    let apart = r#"awk '$5 ~ /ec2fleetd-it-/ { print $5 }' /proc/self/mountinfo | while read -r m; do umount -l "$m" || :; done"#;
    let script = format!("{apart}; R=$EC2FLEETD_ROOT/run; {script}; exec \"$@\"");
    Some(lab.start_wrapped(config, how, &["unshare", "-m", "/bin/sh", "-ec", &script, "sh"]).wait(lab))
}

const FULL: &str = "mount -t tmpfs -o size=16k none $R; head -c 1000000 /dev/zero > $R/fill || :";

fn lab() -> Lab {
    let lab = Lab::new();
    lab.pool_of(2);
    lab
}

/// A config of domain `d` with a volume under a name of our choice.
fn text(script: &str) -> String {
    let p = directive("p", "", r#""pool-name": "p""#, script);
    format!(r#"{{ domains: {{ d: {{ "attach-volume": [{p}] }} }} }}"#)
}

#[test]
fn a_full_one_is_warned_of_and_the_work_goes_on() {
    for (script, code) in [("true", 0), ("exit 1", 1)] {
        let lab = lab();
        let Some(run) = run_on(&lab, FULL, &text(script), once()) else { return };
        let journal = lab.root(&lab.me).join("run/ec2fleetd/domain.d.journal");
        run.ends(
            code,
            &[
                &format!("cannot write the journal {}", journal.display()),
                "going on without it",
                "No space left on device",
                "df -i",
            ],
        );
        assert_eq!(lab.attached(&lab.me).len(), usize::from(code == 0), "{run}");
    }
}

#[test]
fn where_no_lock_can_be_made_nothing_is_begun_and_it_says_what_to_do() {
    let locked = "mount -t tmpfs none $R; mkdir -m 0700 $R/ec2fleetd; mount -o remount,ro $R";
    for (script, why, advice) in [
        ("mount -t tmpfs -o nr_inodes=1 none $R", "No space left on device", "df -i"),
        ("mount -t tmpfs -o nr_inodes=2 none $R; mkdir -m 0700 $R/ec2fleetd", "No space left on device", "df -i"),
        ("mount -t tmpfs -o ro none $R", "Read-only file system", "must be writable"),
        (locked, "Read-only file system", "must be writable"),
    ] {
        let lab = lab();
        let Some(run) = run_on(&lab, script, &text("true"), once()) else { return };
        let file = lab.root(&lab.me).join("run/ec2fleetd/domain.d.lock");
        let what = format!("cannot make the lock {}", file.display());
        run.ends(1, &[&what, "two daemons", why, advice]);
        assert!(lab.server.writes().is_empty(), "{run}");
    }
}

#[test]
fn locks_that_are_there_are_enough() {
    let lab = lab();
    let files = "touch $R/ec2fleetd/domain.d.lock; chmod 0600 $R/ec2fleetd/*";
    let script = format!("mount -t tmpfs none $R; mkdir -m 0700 $R/ec2fleetd; {files}; mount -o remount,ro $R");
    let Some(run) = run_on(&lab, &script, &text("true"), once()) else { return };
    run.ends(
        0,
        &[
            "cannot write the journal",
            "Read-only file system",
            "cannot lock the choice of device names",
            "which volumes are used",
            "ready: d started",
        ],
    );
    assert_eq!(lab.attached(&lab.me).len(), 1, "{run}");
}

#[test]
fn a_journal_of_another_domain_that_cannot_be_locked_is_left_and_named() {
    let lab = lab();
    lab.volume(VolumeSpec::default().id(&id(9)));
    let x = volume("x", "/dev/xvdg", &format!(r#""volume-id": "{}""#, id(9)));
    let text = format!(r#"{{ domains: {{ e: {{ "attach-volume": [{x}] }} }} }}"#);
    let files =
        "touch $R/ec2fleetd/domain.e.lock; echo '{}' > $R/ec2fleetd/domain.d.journal; chmod 0600 $R/ec2fleetd/*";
    let script = format!("mount -t tmpfs none $R; mkdir -m 0700 $R/ec2fleetd; {files}; mount -o remount,ro $R");
    let Some(run) = run_on(&lab, &script, &text, once().rate(5)) else { return };
    run.ends(3, &["ready: e started", "domain.d.journal cannot be settled", "Read-only file system"]);
    assert!(fs::exists(&lab.dir).unwrap());
}
