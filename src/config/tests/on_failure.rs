//! Tests of `on-failure`.

use super::*;
use crate::config::{Action, OnFailure};

fn steps(value: &str) -> Vec<OnFailure> {
    ok(&format!("{{'on-failure': {value}}}")).on_failure
}

#[test]
fn a_word_is_an_action_with_its_defaults() {
    assert_eq!(ok("{}").on_failure, []);
    assert_eq!(steps("'exit'"), []);
    assert_eq!(steps("{action: 'exit'}"), []);
    for (word, action, min_uptime) in [
        ("retry", Action::Retry, 0),
        ("reboot", Action::Reboot, 0),
        ("poweroff", Action::PowerOff, 300),
        ("terminate", Action::Terminate, 300),
        ("set-unhealthy", Action::SetUnhealthy, 300),
    ] {
        let (backoff, min_uptime) = (Duration::from_secs(10), Duration::from_secs(min_uptime));
        assert_eq!(steps(&format!("'{word}'")), [OnFailure { action, attempts: 5, backoff, limit: 3, min_uptime }]);
        assert_eq!(action.name(), word);
    }
}

#[test]
fn one_comes_after_the_other() {
    let all = steps(
        "{action: 'retry', attempts: 2, backoff: 0.5, then: {action: 'reboot', limit: 1, then: {action: 'terminate', \
         'min-uptime': 0, then: 'poweroff'}}}",
    );
    let got: Vec<_> = all.iter().map(|s| (s.action.name(), s.attempts, s.limit, s.min_uptime.as_secs())).collect();
    assert_eq!(got, [("retry", 2, 3, 0), ("reboot", 5, 1, 0), ("terminate", 5, 3, 0), ("poweroff", 5, 3, 300)]);
    assert_eq!(all[0].backoff, Duration::from_millis(500));
    assert_eq!(steps("{action: 'reboot', then: 'exit'}").len(), 1);
}

#[test]
fn mistakes() {
    let seconds = "a number of seconds is wanted, more than 0 and at most 1000000000";
    for (value, want) in [
        ("true", "on-failure: a word or an object with action is wanted, found a boolean".to_owned()),
        ("'restart'", "on-failure: unknown word \"restart\": valid are exit, retry, ".to_owned()),
        ("'power-off'", "on-failure: unknown word \"power-off\": did you mean poweroff?".to_owned()),
        ("{}", "on-failure.action: is missing".to_owned()),
        ("{action: 'terminat'}", "on-failure.action: unknown word \"terminat\": did you mean terminate?".to_owned()),
        ("{action: 'retry', atempts: 2}", "on-failure.atempts: unknown key: did you mean attempts?".to_owned()),
        ("{action: 'retry', attempts: 1}", "on-failure.attempts: a whole number from 2 to 100 is wanted".to_owned()),
        ("{action: 'retry', attempts: 2.5}", "on-failure.attempts: a whole number is wanted".to_owned()),
        ("{action: 'retry', backoff: 0}", format!("on-failure.backoff: {seconds}")),
        ("{action: 'retry', limit: 2}", "on-failure.limit: is for reboot, not for retry".to_owned()),
        ("{action: 'reboot', limit: 0}", "on-failure.limit: a whole number from 1 to 100 is wanted".to_owned()),
        ("{action: 'reboot', backoff: 5}", "on-failure.backoff: is for retry, not for reboot".to_owned()),
        (
            "{action: 'reboot', 'min-uptime': 5}",
            "on-failure.min-uptime: is for poweroff, terminate and set-unhealthy, not for reboot".to_owned(),
        ),
        ("{action: 'poweroff', 'min-uptime': -1}", format!("on-failure.min-uptime: {seconds}")),
        ("{action: 'exit', then: 'reboot'}", "on-failure.then: nothing comes after exit".to_owned()),
        (
            "{action: 'retry', then: {action: 'retry'}}",
            "on-failure.then.action: \"retry\" is what was tried before".to_owned(),
        ),
        ("{action: 'retry', then: 'off'}", "on-failure.then: unknown word \"off\"".to_owned()),
    ] {
        let got = problem(&format!("{{'on-failure': {value}}}"));
        assert!(got.starts_with(&want), "{value}: {got}");
    }
}
