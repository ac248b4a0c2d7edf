//! Source `m` and SIGKILL: at each call and in and after each write of the journal, with the journal kept and lost. The
//! next run moves the volume to its end, and nothing is left.

use crate::disks::{config, directive, volume};
use crate::lab::Lab;
use crate::matrix::{all, keyed};
use crate::matrix_kills::kill_how;
use crate::volumes_move::{elsewhere, fast, good, is_moved, lab};

fn bad() -> String {
    config(&directive("pm", "/dev/xvdf", r#""pool-name": "p""#, "exit 7"))
}

fn settled(lab: &Lab, lost: bool, what: &str) {
    if lost {
        lab.lose_journal();
    }
    let run = lab.run(&good(), fast());
    assert_eq!(run.code, 0, "{what} {run}");
    println!("{what}");
    is_moved(lab, &run);
    lab.server.reset_calls();
    let run = lab.run(&good(), fast());
    run.ends(0, &[]);
    assert!(lab.server.writes().is_empty(), "{what}: and then a run that writes {run}");
}

#[test]
fn a_move_that_was_killed_at_any_call_is_finished_by_the_next_run() {
    let mut kills = Vec::new();
    for (text, code) in [(good(), 0), (bad(), 1)] {
        let lab = lab();
        lab.run(&text, fast()).ends(code, &[]);
        for call in keyed(&lab.server.calls()) {
            kills.extend([(false, false), (true, false), (false, true), (true, true)].map(|k| (code, call.clone(), k)));
        }
    }
    let came = all(&kills, |(code, call, (after, lost))| {
        let lab = lab();
        let text = if *code == 0 { good() } else { bad() };
        let came = kill_how(&lab, &text, fast(), &call.action, call.nth, *after);
        settled(&lab, *lost, &format!("{code} {call:?} after={after} lost={lost}"));
        came
    });
    let hit = came.iter().filter(|c| **c).count();
    println!("{hit} of {} kills came", came.len());
    assert!(hit * 10 >= came.len() * 8, "{hit} of {}", came.len());
}

#[test]
fn a_move_that_was_killed_at_any_write_of_the_journal_is_finished_by_the_next_run() {
    let steps =
        all(&[(good(), 0, false), (good(), 0, true), (bad(), 1, false), (bad(), 1, true)], |(text, code, lost)| {
            for step in 1..200 {
                let lab = lab();
                let run = lab.run(text, fast().env("EC2FLEETD_DIE", &step.to_string()));
                if run.code == *code {
                    return step - 1;
                }
                assert_eq!(run.code, 137, "{step} {run}");
                std::thread::sleep(std::time::Duration::from_millis(20));
                settled(&lab, *lost, &format!("step {step} {code} {lost}"));
            }
            panic!("it writes and writes");
        });
    println!("{steps:?} kills at writes of the journal");
    assert!(steps.iter().all(|s| *s >= 10), "{steps:?}");
}

#[test]
fn what_was_begun_is_put_back_where_it_is_not_wanted_any_more() {
    for action in ["CreateTags", "CreateSnapshot", "CreateVolume", "AttachVolume"] {
        let lab = lab();
        assert!(kill_how(&lab, &good(), fast(), action, 1, true), "{action}");
        // The config has no `m` now; and the pool has a volume here.
        let here = lab.pool_volume("d", "p");
        let device = if action == "AttachVolume" { "/dev/xvdg" } else { "/dev/xvdf" };
        let run = lab.run(&config(&volume("p", device, r#""pool-name": "p""#)), fast());
        run.ends(0, &[]);
        lab.until("the end of what is deleted", || lab.created().is_empty() || action == "AttachVolume");
        let old = crate::disks::id(1);
        assert_eq!(lab.tag_keys(&old), ["domain", "pool-name"], "{action} {run}");
        assert!(lab.server.world().snapshots.is_empty(), "{action} {run}");
        assert!(lab.attached(&lab.me).iter().any(|(v, _)| *v == here), "{action} {run}");
    }
    let lab = lab();
    elsewhere(&lab, 2);
    assert!(kill_how(&lab, &good(), fast(), "CreateSnapshot", 1, true));
    lab.pool_volume("d", "p");
    let run = lab.run(&good(), fast());
    run.ends(0, &["is not moved"]);
    assert!(lab.server.world().snapshots.is_empty() && lab.created().is_empty(), "{run}");
}
