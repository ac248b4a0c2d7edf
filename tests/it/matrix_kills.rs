//! The kill matrix: SIGKILL right before and right after each call of a clean run, and in and after each write of the
//! journal; then a plain run gives what a clean run gives, with the journal and without it. The same with two kills in a
//! row.

use std::time::Duration;

use crate::fakeaws::{Fault, FaultKind};
use crate::lab::{How, Lab, once};
use crate::matrix::{Clean, Key, LONG, Likeness, Picture, SCENARIOS, Scenario, all, fast, same};

/// Long enough for the kill.
const HUNG: u64 = 1 << 30;

#[derive(Debug)]
struct Case {
    scenario: usize,
    call: Key,
    after: bool,
    /// The run is one that is rolled back.
    doomed: bool,
}

/// Runs the daemon and kills it at a call: the stand-in has carried it out and not answered (`after`), or neither.
/// Whether the call came.
pub(crate) fn kill_at(lab: &Lab, text: &str, action: &str, nth: u32, after: bool) -> bool {
    kill_how(lab, text, fast(), action, nth, after)
}

/// The same of a run with more in its environment.
pub(crate) fn kill_how(lab: &Lab, text: &str, how: How, action: &str, nth: u32, after: bool) -> bool {
    let kind = if after { FaultKind::HangAfter(HUNG) } else { FaultKind::Hang(HUNG) };
    lab.server.reset_calls();
    lab.fault(Fault::nth(action, nth, kind));
    let mut run = lab.start(text, how);
    let mut came = false;
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while run.child.try_wait().unwrap().is_none() {
        assert!(std::time::Instant::now() < end, "{action} {nth} {after}: it does not end\n{}", run.log());
        // Its end is noted when it is carried out.
        came = lab.server.calls().iter().any(|c| c.fault.is_some() && (c.status != 0 || c.code.is_some()));
        if came {
            run.signal("KILL");
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let code = run.wait(lab).code;
    assert!(code == 137 || (!came && [0, 1].contains(&code)), "{action} {nth} {after}: {code}");
    // What was sent before the kill may still be carried out.
    std::thread::sleep(Duration::from_millis(20));
    lab.server.world().faults.clear();
    came
}

/// Whether the next run finds the journal of the one that was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Journal {
    Kept,
    Lost,
}

const BOTH: [Journal; 2] = [Journal::Kept, Journal::Lost];

/// The kill is over: what the next run finds, and how alike its world must be to a clean run's.
///
/// With the journal in all. Without it, killed after AttachVolume and before the volume is tagged as ours (or, in a
/// roll-back, before DetachVolume, when the tags are off already), nothing on AWS tells that this program attached it:
/// the next run takes it for one that was attached by hand, uses it as it is and writes no tags.
fn aftermath(lab: &Lab, journal: Journal) -> Likeness {
    if journal == Journal::Kept {
        return Likeness::Strict;
    }
    lab.lose_journal();
    let w = lab.server.world();
    let untold = w.volumes.values().any(|v| {
        let mut here = v.attachments.iter().filter(|a| a.instance == lab.me && a.device == "/dev/xvdf");
        here.any(|a| a.state != "detaching") && v.tags.get("user:ec2fd.owner") != Some(&lab.me)
    });
    if untold { Likeness::Loose } else { Likeness::Strict }
}

fn converges(lab: &Lab, what: &str, s: &Scenario, clean: &Clean, how: Likeness) {
    let run = lab.run(&s.config(LONG), fast());
    run.ends(0, &["ready: d started"]);
    same(&Picture::of(lab), &clean.after, how, what, &run);
    lab.server.reset_calls();
    let run = lab.run(&s.config(LONG), fast());
    run.ends(0, &[]);
    let wrote = lab.server.writes().iter().any(|c| !c.service.starts_with('S'));
    assert!(!wrote, "{what}: and then a run that writes {run}");
}

fn cases(clean: &[Clean], doomed: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (scenario, c) in clean.iter().enumerate() {
        let calls = if doomed { doomed_calls(&SCENARIOS[scenario]) } else { c.calls.clone() };
        for call in calls {
            cases.extend([false, true].map(|after| Case { scenario, call: call.clone(), after, doomed }));
        }
    }
    cases
}

fn doomed_calls(s: &Scenario) -> Vec<Key> {
    let lab = s.lab();
    lab.run(&s.doomed(LONG), once()).ends(1, &[]);
    let keys = crate::matrix::keyed(&lab.server.calls());
    let undone = keys.iter().position(|k| k.action == "EC2:DetachVolume").unwrap();
    let written = keys.iter().position(|k| k.action == "Route53:ChangeResourceRecordSets");
    keys.into_iter().skip(written.unwrap_or(undone)).collect()
}

fn text(s: &Scenario, doomed: bool) -> String {
    if doomed { s.doomed(LONG) } else { s.config(LONG) }
}

#[test]
fn a_run_killed_at_any_call_is_settled_by_the_next() {
    let clean: Vec<Clean> = SCENARIOS.iter().map(Scenario::clean).collect();
    let mut cases = cases(&clean, false);
    let plain = cases.len();
    cases.extend(self::cases(&clean, true));
    let ends = all(&cases, |case| {
        let s = &SCENARIOS[case.scenario];
        BOTH.map(|journal| {
            let lab = s.lab();
            let came = kill_at(&lab, &text(s, case.doomed), &case.call.action, case.call.nth, case.after);
            let how = aftermath(&lab, journal);
            converges(&lab, &format!("{case:?} {journal:?}"), s, &clean[case.scenario], how);
            (came, how)
        })
    });
    let ends = ends.as_flattened();
    let came = ends.iter().filter(|e| e.0).count();
    println!(
        "kill matrix: {plain} kills before and after calls, {} more in runs that are rolled back, each with the journal \
         kept and lost: {came} came; {} lost nothing but hints with the journal",
        cases.len() - plain,
        ends.iter().filter(|e| e.1 == Likeness::Loose).count(),
    );
    assert!(came * 10 >= ends.len() * 9, "{came} of {}", ends.len());
}

#[test]
fn a_run_killed_at_any_write_of_the_journal_is_settled_by_the_next() {
    let clean: Vec<Clean> = SCENARIOS.iter().map(Scenario::clean).collect();
    let cases: Vec<_> =
        (0..SCENARIOS.len()).flat_map(|s| [(s, false), (s, true)]).flat_map(|c| BOTH.map(|j| (c, j))).collect();
    let kills = all(&cases, |case| {
        let ((scenario, doomed), journal) = *case;
        let s = &SCENARIOS[scenario];
        for step in 1..200 {
            let lab = s.lab();
            let run = lab.run(&text(s, doomed), fast().env("EC2FLEETD_DIE", &step.to_string()));
            if run.code == i32::from(doomed) {
                return step - 1;
            }
            assert_eq!(run.code, 137, "{case:?} {step} {run}");
            // What was sent before the kill may still be carried out.
            std::thread::sleep(Duration::from_millis(20));
            let how = aftermath(&lab, journal);
            converges(&lab, &format!("{case:?}, step {step}"), s, &clean[scenario], how);
        }
        panic!("{case:?}: it writes and writes");
    });
    println!("kill matrix: {} kills in and after writes of the journal, kept and lost", kills.iter().sum::<u32>());
    assert!(kills.iter().all(|k| *k >= 6), "{kills:?}");
}

#[test]
fn two_kills_in_a_row_are_settled_by_the_next() {
    let clean: Vec<Clean> = SCENARIOS.iter().map(Scenario::clean).collect();
    // The first kill is right after a call: before it is after the one before it.
    let cases: Vec<Case> = cases(&clean, false).into_iter().filter(|c| c.after).collect();
    let kills = all(&cases, |case| {
        let (s, mut kills) = (&SCENARIOS[case.scenario], 0);
        // The second one at each call that the next run makes, whichever that is. The journal is kept or lost in turn.
        for nth in 1.. {
            let (first, second) = (BOTH[nth as usize % 2], BOTH[nth as usize / 2 % 2]);
            let lab = s.lab();
            kill_at(&lab, &s.config(LONG), &case.call.action, case.call.nth, true);
            let how = aftermath(&lab, first);
            let came = kill_at(&lab, &s.config(LONG), "*", nth, nth % 2 == 0);
            if !came {
                break;
            }
            let how = how.max(aftermath(&lab, second));
            let what = format!("{case:?} {first:?} and then at call {nth} {second:?}");
            converges(&lab, &what, s, &clean[case.scenario], how);
            kills += 1;
        }
        kills
    });
    let pairs: usize = kills.iter().sum();
    println!("kill matrix: {pairs} times two kills in a row, with the journal kept or lost after each");
    assert!(pairs > cases.len());
}
