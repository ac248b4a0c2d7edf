//! The environment as the SDKs read it: a snapshot of the `AWS_*` variables, so that tests and threads see one state.

use std::collections::BTreeMap;
use std::fmt;

/// The variables. `Debug` shows their names only: some are secrets.
#[derive(Clone, Default)]
pub(crate) struct Env(BTreeMap<String, String>);

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Env {
    /// This process's.
    pub(crate) fn of_process() -> Env {
        let wanted = |name: &str| name.starts_with("AWS_") || name == "HOME";
        let all = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Env(all.filter(|(k, _)| wanted(k)).collect())
    }

    /// These, for tests.
    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Env {
        Env(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    /// A variable that is set to more than nothing.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// Whether a switch is on.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown_and_empty_is_unset() {
        let env = Env::of(&[("AWS_SECRET_ACCESS_KEY", "hidden"), ("AWS_REGION", ""), ("AWS_X", "True")]);
        assert!(!format!("{env:?}").contains("hidden"));
        assert_eq!(env.get("AWS_REGION"), None);
        assert!(env.is_true("AWS_X") && !env.is_true("AWS_Y"));
    }
}
