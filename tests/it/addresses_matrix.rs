//! Faults and kills at each call of runs with an elastic address and with a name that a fleet shares: the next run gives
//! what a clean run gives, and a roll-back leaves the world as it was.

use crate::fakeaws::{Fault, FaultKind, InstanceSpec, RecordSet};
use crate::kit::{add, nic, record, with_nics, zone};
use crate::lab::Lab;
use crate::matrix::{Key, LONG, all, fast, keyed};
use crate::matrix_kills::kill_at;

const SWEPT: &str = "i-0123456789abcdef0";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    /// One of two addresses of a pool, and a record that was there.
    Address,
    /// A simple record of its own that becomes one of several, beside a dead member.
    Fleet,
}

const SCENARIOS: [Scenario; 2] = [Scenario::Address, Scenario::Fleet];

impl Scenario {
    fn lab(self) -> Lab {
        let lab = with_nics(vec![nic(0, &["203.0.113.1"], &[])]);
        match self {
            Scenario::Address => {
                for ip in ["198.51.100.1", "198.51.100.2"] {
                    lab.server.world().add_address(ip, &[("pool", "p")]);
                }
                add(&lab, "a.example.com", "A", 300, &["192.0.2.1"]);
            }
            Scenario::Fleet => {
                add(&lab, "a.example.com", "A", 300, &["203.0.113.1"]);
                let dead = InstanceSpec { id: Some(SWEPT.into()), ..InstanceSpec::default() };
                lab.add_instance(dead);
                lab.server.world().set_instance_state(SWEPT, "terminated");
                let set = RecordSet::new("b.example.com", "A", 60, &["203.0.113.9"]);
                lab.server.world().add_record("Z1", set.routed(SWEPT, "MultiValueAnswer", "true"));
            }
        }
        lab
    }

    fn config(self, doomed: bool) -> String {
        let bad = r#"{ hostedzone: "Z9", name: "bad.example.com", ttl: 60 }"#;
        let bad = if doomed { format!(", {bad}") } else { String::new() };
        let content = match self {
            Scenario::Address => format!(
                r#""associate-address": [{{ pool: {{ tags: {{ pool: "p" }} }} }}], "update-route53": [{}{bad}]"#,
                record("a.example.com", "")
            ),
            Scenario::Fleet => format!(
                r#""update-route53": [{}, {}{bad}]"#,
                record("a.example.com", r#"policy: "multivalue""#),
                record("b.example.com", r#"policy: "multivalue""#)
            ),
        };
        format!("{{ timeout: {LONG}, domains: {{ d: {{ {content} }} }} }}")
    }

    fn calls(self, doomed: bool) -> Vec<Key> {
        let lab = self.lab();
        lab.run(&self.config(doomed), fast()).ends(i32::from(doomed), &[]);
        keyed(&lab.server.calls())
    }
}

/// How many addresses this instance has, and the records; which address of the pool it is does not matter.
fn picture(lab: &Lab) -> (usize, Vec<String>) {
    let w = lab.server.world();
    let mine: Vec<String> = w
        .addresses
        .values()
        .filter(|a| a.association.as_ref().is_some_and(|s| s.instance == lab.me))
        .map(|a| a.ip.clone())
        .collect();
    drop(w);
    let records = zone(lab, "Z1").into_iter().map(|r| mine.iter().fold(r, |r, ip| r.replace(ip, "MINE"))).collect();
    (mine.len(), records)
}

fn clean(s: Scenario) -> (usize, Vec<String>) {
    let lab = s.lab();
    lab.run(&s.config(false), fast()).ends(0, &[]);
    let picture = picture(&lab);
    match s {
        Scenario::Address => assert_eq!(picture, (1, vec!["a.example.com. A 60 MINE".into()])),
        Scenario::Fleet => assert_eq!(picture.1.len(), 2, "{picture:?}"),
    }
    picture
}

#[derive(Debug)]
struct Case<M> {
    scenario: Scenario,
    call: Key,
    doomed: bool,
    more: M,
}

fn cases<M: Clone>(doomed: bool, more: &[M]) -> Vec<Case<M>> {
    let of = |scenario: Scenario| scenario.calls(doomed).into_iter().map(move |call| (scenario, call));
    SCENARIOS
        .into_iter()
        .flat_map(of)
        .flat_map(|(scenario, call)| {
            more.iter().map(move |more| Case { scenario, call: call.clone(), doomed, more: more.clone() })
        })
        .collect()
}

#[test]
fn a_fault_at_each_call_is_ridden_out() {
    let kinds = [
        FaultKind::Status500,
        FaultKind::Status503,
        FaultKind::Throttle,
        FaultKind::ResetBefore,
        FaultKind::ResetAfter,
        FaultKind::ErrorAfter500,
        FaultKind::Hang(20_000),
        FaultKind::HangAfter(20_000),
        FaultKind::Garbage,
    ];
    for doomed in [false, true] {
        let cases = cases(doomed, &kinds);
        assert!(cases.len() >= 90, "{}", cases.len());
        all(&cases, |c| {
            let lab = c.scenario.lab();
            let before = picture(&lab);
            lab.server.world().fault(Fault::nth(&c.call.action, c.call.nth, c.more.clone()));
            let run = lab.run(&c.scenario.config(doomed), fast());
            let wanted = if doomed { before } else { clean(c.scenario) };
            assert_eq!((run.code, picture(&lab)), (i32::from(doomed), wanted), "{c:?}\n{run}");
        });
    }
}

#[test]
fn a_kill_at_each_call_is_made_good_by_the_next_run() {
    for doomed in [false, true] {
        // Killed before the call or after it; and with the journal or without.
        let cases = cases(doomed, &[(false, true), (true, true), (false, false), (true, false)]);
        all(&cases, |c| {
            let lab = c.scenario.lab();
            let (after, journal) = c.more;
            kill_at(&lab, &c.scenario.config(c.doomed), &c.call.action, c.call.nth, after);
            if !journal {
                lab.lose_journal();
            }
            let run = lab.run(&c.scenario.config(false), fast());
            assert_eq!((run.code, picture(&lab)), (0, clean(c.scenario)), "{c:?}\n{run}");
            lab.server.reset_calls();
            let run = lab.run(&c.scenario.config(false), fast());
            assert!(run.code == 0 && lab.server.writes().is_empty(), "{c:?}: and then a run that writes\n{run}");
        });
    }
}

#[test]
fn a_kill_at_each_call_is_put_back_by_a_run_that_fails() {
    let cases = cases(false, &[false, true]);
    all(&cases, |c| {
        let lab = c.scenario.lab();
        let before = picture(&lab);
        // What came after `started` is committed, and stays.
        kill_at(&lab, &c.scenario.config(false), &c.call.action, c.call.nth, c.more);
        let committed = !lab.root(&lab.me).join("run/ec2fleetd").join("domain.d.journal").exists();
        let at_kill = picture(&lab);
        let run = lab.run(&c.scenario.config(true), fast());
        const OLD: &str = "a.example.com. A 300 192.0.2.1";
        let written_over = !at_kill.1.contains(&OLD.to_owned());
        let mut wanted = if committed { at_kill } else { before };
        // What was there before a run that was killed wrote over it is not put back: it may be dead by now.
        wanted.1.retain(|line| line != OLD || !written_over);
        let now = picture(&lab);
        assert_eq!((run.code, now), (1, wanted), "{c:?}\n{run}");
    });
}
