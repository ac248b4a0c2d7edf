//! The kill matrix with another config: a run is killed, the config changes, the next run is killed while it puts back
//! what the first one left; then a plain run gives what a clean run of the new config gives.

use std::fs;

use crate::disks::{config, id, volume};
use crate::fakeaws::VolumeSpec;
use crate::journal::journal;
use crate::kit::zone;
use crate::lab::Lab;
use crate::matrix::{Clean, Key, LONG, Picture, SCENARIOS, Scenario, all, fast};
use crate::matrix_kills::kill_at;

/// What scenarios have at a name before they write over it.
const OLD: &str = "old.example.com. A 300 192.0.2.1";

#[derive(Debug)]
struct Case {
    scenario: usize,
    call: Key,
}

/// A world of the scenario, with one more volume.
fn lab(s: &Scenario) -> Lab {
    let lab = s.lab();
    lab.volume(VolumeSpec::default().id(&id(9)));
    lab
}

/// It has no use for anything of the scenarios.
fn other() -> String {
    config(&volume("x", "/dev/xvdg", &format!(r#""volume-id": "{}""#, id(9))))
}

/// The commit stands: what the run had is not taken away by another config. Afterwards there is no journal, as there is
/// none before the first hold.
fn committed(lab: &Lab) -> bool {
    // What was made says so itself.
    if lab.created().iter().any(|v| !lab.tag(v, "ts-created").is_empty()) {
        return true;
    }
    match fs::read_to_string(journal(lab)) {
        Ok(text) => !text.contains(r#""committed":[]"#),
        Err(_) => !lab.seen().is_empty(),
    }
}

/// What the first run made and used is kept, free, and nobody's; the rest is as after a clean run.
fn without_kept(lab: &Lab, what: &str) -> Vec<String> {
    let (kept, rest): (Vec<String>, Vec<String>) =
        Picture::of(lab).strict.into_iter().partition(|line| line.starts_with("made "));
    for line in &kept {
        let free = line.contains(" available []") && !line.contains("transc-id") && !line.contains("in-transit");
        assert!(free, "{what}: left behind: {line}");
    }
    rest
}

#[test]
fn a_run_of_another_config_killed_while_it_puts_back_is_settled_by_the_next() {
    let clean: Vec<Clean> = SCENARIOS.iter().map(Scenario::clean).collect();
    let wanted: Vec<Vec<String>> = SCENARIOS
        .iter()
        .map(|s| {
            let lab = lab(s);
            lab.run(&other(), fast()).ends(0, &[]);
            Picture::of(&lab).strict
        })
        .collect();
    let calls = clean.iter().enumerate().flat_map(|(scenario, c)| c.calls.iter().map(move |call| (scenario, call)));
    let cases: Vec<Case> = calls.map(|(scenario, call)| Case { scenario, call: call.clone() }).collect();
    let kills = all(&cases, |case| {
        let s = &SCENARIOS[case.scenario];
        let mut kills = 0;
        // Every other call; which ones, differs from case to case.
        for nth in (1 + case.call.nth % 2..).step_by(2) {
            let lab = lab(s);
            kill_at(&lab, &s.config(LONG), &case.call.action, case.call.nth, true);
            if committed(&lab) {
                break;
            }
            let written_over = !zone(&lab, "Z1").contains(&OLD.to_owned());
            let used: Vec<String> = lab.seen().iter().filter_map(|l| l.split(' ').next()).map(str::to_owned).collect();
            let came = kill_at(&lab, &other(), "*", nth, nth % 4 < 2);
            let what = format!("{case:?}, and then at call {nth}");
            // What is half made is left alone for an hour.
            lab.server.world().volumes.values_mut().for_each(|v| v.created -= time::Duration::hours(1));
            let run = lab.run(&other(), fast());
            run.ends(0, &["ready: d started"]);
            let now = without_kept(&lab, &what);
            // What was there before a run that was killed wrote over it is not put back: it may be dead by now.
            let mut wanted = wanted[case.scenario].clone();
            wanted.retain(|line| line != OLD || !written_over);
            assert!(now == wanted, "{what}: {}\nand should be\n{}\n{run}", now.join("\n"), wanted.join("\n"));
            for volume in &used {
                assert_ne!(lab.state(volume), "gone", "{what}: it was used {run}");
            }
            assert!(!journal(&lab).exists(), "{what} {run}");
            kills += usize::from(came);
            if !came {
                break;
            }
        }
        kills
    });
    println!("kill matrix: {} times two kills, with another config after the first", kills.iter().sum::<usize>());
    assert!(kills.iter().sum::<usize>() * 2 > cases.len());
}
