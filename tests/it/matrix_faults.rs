//! The fault matrix: every call of a clean run times every fault.
//!
//! Passing faults are ridden out. Lasting ones end in exit 1 with the world exactly as before; or in exit 0, where the
//! call is only a hint or a message; or in exit 3, where they hit the roll-back itself. A clean run afterwards gives
//! what a clean run gives.

use crate::fakeaws::{Fault, FaultKind, Nth};
use crate::kit::bodies;
use crate::lab::{Lab, once};
use crate::matrix::{Clean, Key, LONG, Likeness, Picture, SCENARIOS, Scenario, all, fast, keyed, same, seen, struck};

/// Longer than the program waits for an answer.
const HUNG: u64 = 1 << 30;
/// The `timeout` of runs that are not to succeed, on a clock of [`RATE`].
const SHORT: u32 = 120;
const RATE: u32 = 30;

const PASSING: [FaultKind; 9] = [
    FaultKind::Status500,
    FaultKind::Status503,
    FaultKind::Throttle,
    FaultKind::ResetBefore,
    FaultKind::ResetAfter,
    FaultKind::ErrorAfter500,
    FaultKind::Hang(HUNG),
    FaultKind::Garbage,
    FaultKind::Truncated,
];
const LASTING: [FaultKind; 7] = [
    FaultKind::Status500,
    FaultKind::Status503,
    FaultKind::Throttle,
    FaultKind::ResetBefore,
    FaultKind::Hang(HUNG),
    FaultKind::Garbage,
    FaultKind::Denied,
];

#[derive(Debug)]
struct Case {
    scenario: usize,
    call: Key,
    kind: FaultKind,
}

fn cases(clean: &[Vec<Key>], kinds: &[FaultKind]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (scenario, calls) in clean.iter().enumerate() {
        for call in calls {
            cases.extend(kinds.iter().map(|kind| Case { scenario, call: call.clone(), kind: kind.clone() }));
        }
    }
    cases
}

fn clean_runs() -> (Vec<Clean>, Vec<Vec<Key>>) {
    let clean: Vec<Clean> = SCENARIOS.iter().map(Scenario::clean).collect();
    let calls = clean.iter().map(|c| c.calls.clone()).collect();
    (clean, calls)
}

fn but_for(tags: bool) -> Likeness {
    if tags { Likeness::Loose } else { Likeness::Strict }
}

/// A plain run when the faults are over.
fn converges(lab: &Lab, case: &Case, clean: &Clean, how: Likeness) {
    lab.server.world().faults.clear();
    let run = lab.run(&SCENARIOS[case.scenario].config(LONG), fast());
    run.ends(0, &[]);
    same(&Picture::of(lab), &clean.after, how, &format!("{case:?}, then a clean run"), &run);
}

#[test]
fn passing_faults_are_ridden_out() {
    let (clean, calls) = clean_runs();
    let cases = cases(&calls, &PASSING);
    let hit = all(&cases, |case| {
        let (s, clean) = (&SCENARIOS[case.scenario], &clean[case.scenario]);
        let lab = s.lab();
        lab.fault(Fault::nth(&case.call.action, case.call.nth, case.kind.clone()));
        let run = lab.run(&s.config(LONG), fast());
        run.ends(0, &["ready: d started"]);
        same(&Picture::of(&lab), &clean.after, Likeness::Strict, &format!("{case:?}"), &run);
        assert_eq!(seen(&lab), clean.seen, "{case:?} {run}");
        let hit = struck(&lab);
        // Each of the two was told; once more where the answer was lost.
        let told = bodies(&lab);
        assert!(told.len() == 2 || (told.len() == 3 && case.call.hint && hit), "{case:?} {told:?} {run}");
        assert!(told.iter().all(|b| b == "d started"), "{case:?} {told:?} {run}");
        converges(&lab, case, clean, Likeness::Strict);
        hit
    });
    count("passing", &calls, PASSING.len(), &cases, &hit);
}

#[test]
fn lasting_faults_end_with_the_world_as_before() {
    let (clean, calls) = clean_runs();
    let cases = cases(&calls, &LASTING);
    let codes = all(&cases, |case| {
        let (s, clean) = (&SCENARIOS[case.scenario], &clean[case.scenario]);
        let lab = s.lab();
        lab.fault(Fault::new(&case.call.action, Nth::From(case.call.nth), case.kind.clone()));
        let run = lab.run(&s.config(SHORT), once().rate(RATE));
        let what = format!("{case:?}");
        let now = Picture::of(&lab);
        let hit = struck(&lab);
        let tags = case.call.action.ends_with("Tags");
        match run.code {
            0 => {
                assert!(case.call.hint || !hit, "{what}: not critical? {run}");
                same(&now.without_transaction(tags), &clean.after, but_for(tags), &what, &run);
            }
            1 => same(&now, &clean.before, Likeness::Strict, &what, &run),
            3 => assert!(undone_by(&lab, &case.call.action), "{what}: its roll-back was not hit {run}"),
            _ => panic!("{what} {run}"),
        }
        assert!(!case.call.hint || run.code == 0, "{what}: only a hint {run}");
        // What a hint's call did not tag then, is not tagged by a run that finds all as it should be.
        converges(&lab, case, clean, but_for(tags && run.code == 0));
        (run.code, hit)
    });
    let hit: Vec<bool> = codes.iter().map(|c| c.1).collect();
    count("lasting", &calls, LASTING.len(), &cases, &hit);
    let of = |code| codes.iter().filter(|c| c.0 == code).count();
    println!("fault matrix, lasting: exit 0 {}, exit 1 {}, exit 3 {}", of(0), of(1), of(3));
}

#[test]
fn faults_in_a_roll_back_are_ridden_out_or_named() {
    let (clean, _) = clean_runs();
    // The calls of a roll-back are those after the first records were written.
    let calls: Vec<Vec<Key>> = SCENARIOS.iter().zip(&clean).map(|(s, c)| roll_back_calls(s, c)).collect();
    assert!(calls.iter().all(|c| c.iter().any(|k| k.action == "EC2:DetachVolume")));
    let kinds: Vec<(bool, FaultKind)> =
        PASSING.iter().map(|k| (false, k.clone())).chain(LASTING.iter().map(|k| (true, k.clone()))).collect();
    let mut cases: Vec<(bool, Case)> = Vec::new();
    for (lasting, kind) in &kinds {
        cases.extend(self::cases(&calls, std::slice::from_ref(kind)).into_iter().map(|c| (*lasting, c)));
    }
    let ends = all(&cases, |(lasting, case)| {
        let (s, clean) = (&SCENARIOS[case.scenario], &clean[case.scenario]);
        let lab = s.lab();
        let nth = if *lasting { Nth::From(case.call.nth) } else { Nth::Only(case.call.nth) };
        lab.fault(Fault::new(&case.call.action, nth, case.kind.clone()));
        let run =
            lab.run(&s.doomed(if *lasting { SHORT } else { LONG }), if *lasting { once().rate(RATE) } else { fast() });
        let what = format!("{case:?}");
        // Without the permission to take tags off they stay; they block nothing.
        let tags = *lasting && case.call.action.ends_with("Tags");
        let now = Picture::of(&lab);
        match run.code {
            1 => same(&now.without_transaction(tags), &clean.before, but_for(tags), &what, &run),
            3 => assert!(*lasting, "{what}: it passed {run}"),
            _ => panic!("{what} {run}"),
        }
        // A volume that could not be detached has its tags back already: the journal tells that it is still ours.
        let kept = run.code == 3 && !lab.attached(&lab.me).is_empty();
        converges(&lab, case, clean, but_for(tags));
        (struck(&lab), run.code == 3, kept)
    });
    let of = |f: fn(&(bool, bool, bool)) -> bool| ends.iter().filter(|e| f(e)).count();
    println!(
        "fault matrix, roll-back: {} calls × {} faults = {} cases, {} hit, exit 3 {}, {} of them with a volume that the next run goes on with",
        calls.iter().map(Vec::len).sum::<usize>(),
        kinds.len(),
        cases.len(),
        of(|e| e.0),
        of(|e| e.1),
        of(|e| e.2)
    );
}

fn roll_back_calls(s: &Scenario, clean: &Clean) -> Vec<Key> {
    let lab = s.lab();
    let run = lab.run(&s.doomed(LONG), fast());
    run.ends(1, &["bad.example.com"]);
    same(&Picture::of(&lab), &clean.before, Likeness::Strict, s.name, &run);
    let keys = keyed(&lab.server.calls());
    let undone = keys.iter().position(|k| k.action == "EC2:DetachVolume").unwrap();
    let written = keys.iter().position(|k| k.action == "Route53:ChangeResourceRecordSets");
    keys.into_iter().skip(written.map_or(undone, |w| w + 1)).filter(|k| !k.action.starts_with('S')).collect()
}

/// Something was made or changed, and calls of this action are what undoing it takes.
fn undone_by(lab: &Lab, action: &str) -> bool {
    let takes = ["EC2:DescribeVolumes", "Route53:ListResourceRecordSets", "Route53:ChangeResourceRecordSets"];
    let made = ["AttachVolume", "CreateVolume", "ChangeResourceRecordSets"];
    takes.contains(&action) && made.iter().any(|a| lab.server.calls_of(a).iter().any(|c| c.status == 200))
}

fn count(what: &str, calls: &[Vec<Key>], kinds: usize, cases: &[Case], hit: &[bool]) {
    let n: usize = calls.iter().map(Vec::len).sum();
    let hit = hit.iter().filter(|h| **h).count();
    println!("fault matrix, {what}: {n} calls × {kinds} faults = {} cases, {hit} hit", cases.len());
    // How often a new volume is looked at is a matter of time.
    assert!(hit * 10 >= cases.len() * 9, "{hit} of {}", cases.len());
}
