//! The kill matrix: SIGKILL right before and right after each call of a clean run; then a plain run gives what a clean
//! run gives. The same with two kills in a row.

use std::time::Duration;

use crate::fakeaws::{Fault, FaultKind};
use crate::lab::{Lab, once};
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
fn kill_at(lab: &Lab, text: &str, action: &str, nth: u32, after: bool) -> bool {
    let kind = if after { FaultKind::HangAfter(HUNG) } else { FaultKind::Hang(HUNG) };
    lab.server.reset_calls();
    lab.fault(Fault::nth(action, nth, kind));
    let mut run = lab.start(text, once());
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

/// How alike the next run's world can be to a clean run's, without a journal.
///
/// - Killed after AttachVolume and before the volume is tagged as ours (or, in a roll-back, before DetachVolume, when the
///   tags are off already): on AWS nothing tells that this program attached it, so that the next run takes it for one
///   that was attached by hand. It uses it as it is and writes no tags. Only the tags of owner and time are missing then.
/// - Killed after the DetachVolume of a roll-back: the next run meets its volume while it is being detached, and takes
///   the next free one of the pool. It is as good as the first, but a clean run would have got that one.
fn likeness(lab: &Lab) -> Likeness {
    let w = lab.server.world();
    let mut how = Likeness::Strict;
    for v in w.volumes.values() {
        for a in v.attachments.iter().filter(|a| a.instance == lab.me && a.device == "/dev/xvdf") {
            let untold = v.tags.get("user:ec2fd.owner") != Some(&lab.me);
            how = how.max(match a.state.as_str() {
                "detaching" => Likeness::Alike,
                _ if untold => Likeness::Loose,
                _ => Likeness::Strict,
            });
        }
    }
    how
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

#[test]
fn a_run_killed_at_any_call_is_settled_by_the_next() {
    let clean: Vec<Clean> = SCENARIOS.iter().map(Scenario::clean).collect();
    let mut cases = cases(&clean, false);
    let plain = cases.len();
    cases.extend(self::cases(&clean, true));
    let ends = all(&cases, |case| {
        let s = &SCENARIOS[case.scenario];
        let lab = s.lab();
        let text = if case.doomed { s.doomed(LONG) } else { s.config(LONG) };
        let came = kill_at(&lab, &text, &case.call.action, case.call.nth, case.after);
        let how = likeness(&lab);
        converges(&lab, &format!("{case:?}"), s, &clean[case.scenario], how);
        (came, how)
    });
    let came = ends.iter().filter(|e| e.0).count();
    println!(
        "kill matrix: {} kills before and after calls, {} more in runs that are rolled back, {came} came; the journal is wanted by {} (untold) and {} (another of the pool)",
        plain,
        cases.len() - plain,
        ends.iter().filter(|e| e.1 == Likeness::Loose).count(),
        ends.iter().filter(|e| e.1 == Likeness::Alike).count()
    );
    assert!(came * 10 >= cases.len() * 9, "{came} of {}", cases.len());
}

#[test]
fn two_kills_in_a_row_are_settled_by_the_next() {
    let clean: Vec<Clean> = SCENARIOS.iter().map(Scenario::clean).collect();
    // The first kill is right after a call: before it is after the one before it.
    let cases: Vec<Case> = cases(&clean, false).into_iter().filter(|c| c.after).collect();
    let kills = all(&cases, |case| {
        let (s, mut kills, mut journal) = (&SCENARIOS[case.scenario], 0, 0);
        // The second one at each call that the next run makes, whichever that is.
        for nth in 1.. {
            let lab = s.lab();
            kill_at(&lab, &s.config(LONG), &case.call.action, case.call.nth, true);
            let mut how = likeness(&lab);
            let came = kill_at(&lab, &s.config(LONG), "*", nth, nth % 2 == 0);
            if !came {
                break;
            }
            how = how.max(likeness(&lab));
            converges(&lab, &format!("{case:?} and then at call {nth}"), s, &clean[case.scenario], how);
            kills += 1;
            journal += usize::from(how != Likeness::Strict);
        }
        (kills, journal)
    });
    let pairs: usize = kills.iter().map(|k| k.0).sum();
    let journal: usize = kills.iter().map(|k| k.1).sum();
    println!("kill matrix: {pairs} times two kills in a row, {journal} want the journal");
    assert!(pairs > cases.len());
}
