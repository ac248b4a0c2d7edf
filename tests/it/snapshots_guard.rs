//! A freeze whose guard is killed while it freezes, and one whose guard and daemon are killed: whatever happens, nothing
//! stays frozen, and the log says what happened.

use std::fs;
use std::process::Command;

use crate::disks::id;
use crate::lab::{How, Lab, once};
use crate::loops::run;
use crate::snapshots::{text, x};
use crate::snapshots_frozen::{MOUNT, clean_up, data, guard_of, running, stands_still, until_it_has_written, writer};

/// Snapshots at a stop; nothing is unmounted.
const ON: &str = r#"snapshot: { on: ["stopping"] }"#;

/// An `fsfreeze` that says that it is about to freeze, and does so when the test lets it. The PATH that has it.
fn slow_fsfreeze(lab: &Lab) -> Option<String> {
    let real = run("sh", &["-c", "command -v fsfreeze"])?;
    let bin = lab.dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --freeze ]; then touch $LAB/freezing\n\
         until [ -e $LAB/go ] || [ ! -d $LAB ]; do sleep 0.02; done; fi\n{real} \"$@\"\nend=$?\n\
         case \"$1\" in --freeze) touch $LAB/frozen;; *) touch $LAB/unfreeze;; esac\nexit $end\n"
    );
    fs::write(bin.join("fsfreeze"), script).unwrap();
    assert!(Command::new("chmod").arg("755").arg(bin.join("fsfreeze")).status().unwrap().success());
    Some(format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
}

fn kill(pids: &[u32]) {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    assert!(Command::new("kill").arg("-KILL").args(&pids).status().unwrap().success());
}

#[test]
fn a_guard_that_is_killed_while_it_freezes_leaves_nothing_frozen() {
    for late in [false, true] {
        let Some((lab, _loops)) = crate::loops::lab(1) else { return };
        let Some(path) = slow_fsfreeze(&lab) else { return };
        let running = crate::snapshots_frozen::running_in(&lab, ON, How::default().env("PATH", &path));
        running.signal("TERM");
        lab.until_file("freezing");
        kill(&[guard_of(running.child.id()).expect("a guard")]);
        if late {
            // What it has started goes on without it, and freezes when we have seen its end.
            lab.until_file("unfreeze");
        }
        lab.file("go", "");
        lab.until_file("frozen");
        let end = running.wait(&lab);
        until_it_has_written(&lab, writer(&data(&lab)));
        end.ends(0, &["the process that guards frozen file systems has ended", "is begun (stopping)"]);
        assert!(!end.log.contains("it did not come about in time"), "{end}");
        clean_up(&lab);
    }
}

#[test]
fn a_freeze_that_comes_about_after_both_were_killed_is_thawed_by_the_next_run() {
    let Some((lab, _loops)) = crate::loops::lab(1) else { return };
    let Some(path) = slow_fsfreeze(&lab) else { return };
    let running = crate::snapshots_frozen::running_in(&lab, ON, How::default().env("PATH", &path));
    running.signal("TERM");
    lab.until_file("freezing");
    kill(&[guard_of(running.child.id()).expect("a guard"), running.child.id()]);
    drop(running);
    let config = text(&x(1, &format!("{MOUNT}, {ON}"))).replace("printf last |", "true ||");
    let next = lab.start(&config, once());
    next.says(&lab, "a run that was killed had it frozen");
    lab.file("go", "");
    lab.until_file("frozen");
    until_it_has_written(&lab, writer(&data(&lab)));
    next.wait(&lab).ends(0, &["started"]);
    clean_up(&lab);
}

#[test]
fn the_next_run_thaws_whatever_its_config_and_wherever_the_note_is() {
    let own = r#"{ domains: { other: {} } }"#;
    let same = text(&x(1, MOUNT)).replace("printf last |", "true ||");
    for (config, env) in [(own, ""), (same.as_str(), ""), ("{}", ""), ("", ""), (own, "/run/elsewhere")] {
        let how = if env.is_empty() { How::default() } else { How::default().env("RUNTIME_DIRECTORY", env) };
        let Some((lab, _loops, running)) = running(ON, how) else { return };
        let slow = crate::fakeaws::Fault::first("EC2:CreateSnapshot", 1, crate::fakeaws::FaultKind::Hang(60_000));
        lab.fault(slow);
        running.signal("TERM");
        lab.until("it is asked for", || lab.count("CreateSnapshot") == 1);
        let child = writer(&data(&lab));
        lab.until("the write waits", || stands_still(&child));
        kill(&[guard_of(running.child.id()).expect("a guard"), running.child.id()]);
        drop(running);
        assert!(stands_still(&child));
        let end = lab.run(config, once());
        until_it_has_written(&lab, child);
        end.ends(0, &["a run that was killed had it frozen"]);
        assert_eq!(lab.attached(&lab.me), [(id(1), "/dev/xvdf".to_owned())], "{end}");
        // Once is enough.
        let end = lab.run(config, once());
        assert!(!end.log.contains("had it frozen"), "{end}");
        clean_up(&lab);
    }
}

/// What another daemon has frozen right now is its own.
#[test]
fn what_a_daemon_that_lives_has_frozen_stays_so() {
    let Some((lab, _loops, running)) = running(ON, How::default()) else { return };
    lab.knobs(|k| k.action_latency_ms = [("EC2:CreateSnapshot".to_owned(), 3000)].into());
    running.signal("TERM");
    lab.until("it is asked for", || lab.count("CreateSnapshot") == 1);
    let child = writer(&data(&lab));
    lab.until("the write waits", || stands_still(&child));
    let end = lab.run(r#"{ domains: { other: {} } }"#, once());
    assert!(stands_still(&child) && !end.log.contains("had it frozen"), "{end}");
    end.ends(0, &[]);
    until_it_has_written(&lab, child);
    running.wait(&lab).ends(0, &["is begun (stopping)"]);
    clean_up(&lab);
}
