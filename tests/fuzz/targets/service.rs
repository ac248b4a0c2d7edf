//! A metadata service whose answers are the input, in the place of the client in ../../../src/imds.rs.

use std::cell::Cell;
use std::sync::atomic::AtomicBool;

use crate::scope::Scope;

#[path = "../../../src/imds/facts.rs"]
mod facts;
#[path = "../../../src/imds/notice.rs"]
mod notice;

#[derive(Debug)]
pub(crate) enum ImdsError {
    Unexpected { path: String, what: String },
}

pub(crate) struct Imds {
    answers: Vec<String>,
    asked: Cell<usize>,
    notice_warned: AtomicBool,
}

impl Imds {
    pub(crate) fn new(data: &[u8]) -> Imds {
        let answers = data.split(|b| *b == 0xff).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        Imds { answers, asked: Cell::new(0), notice_warned: AtomicBool::new(false) }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.get()
    }

    fn text(&self, _: &Scope, path: &str) -> Result<Option<String>, ImdsError> {
        assert!(path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()), "{path}");
        let n = self.asked.replace(self.asked.get() + 1);
        // Those that are left without an answer get the last one again: most services repeat themselves.
        let answer = self.answers.get(n).or(self.answers.last());
        Ok(answer.filter(|a| !a.is_empty()).cloned())
    }

    fn get(&self, scope: &Scope, leaf: &str) -> Result<Option<String>, ImdsError> {
        self.text(scope, &format!("/latest/meta-data/{leaf}"))
    }
}
