//! The crash journal: a domain's ledger on disk, for the run after one that was cut off.
//!
//! It is evidence, not a lock: whoever has the domain's lock reads it once, and everything that follows from it is
//! looked up in AWS before it is done. It may be lost at any time (a power cut, an initramfs, a new root); then tags,
//! attachments and client tokens tell what can be told.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hold::{Committed, Hold, Ledger, Origin};
use crate::sys::journal::JournalFile;
use crate::sys::{Root, run_dir};

/// Of the format. Another one is not read, but set aside.
const VERSION: u32 = 1;

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
struct Page<H, C> {
    version: u32,
    /// Whose it is: an image made of a running instance may carry its files along.
    instance: String,
    /// The domain; not in every file's name, and not in what older versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    /// The run's.
    transaction: String,
    held: H,
    inherited: H,
    left: H,
    committed: C,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    consents: Vec<String>,
}

/// A hold in the file.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Known(&'a Hold),
    /// Of a kind or a form that another version wrote: it stays for that one.
    Unknown(&'a Value),
}

/// Why a journal cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unusable {
    /// It is another instance's: nothing of ours is lost.
    Foreign(String),
    Lost(String),
}

/// Where the ledger is written. The default one is nowhere.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    file: Option<JournalFile>,
    instance: String,
    domain: String,
    /// What is there now; empty if there is no file, `None` if nobody knows.
    written: Option<Vec<u8>>,
    /// It was said that it cannot be written.
    said: bool,
    /// What there was of this instance could not be read.
    lost: bool,
}

impl Ledger {
    /// The ledger of a domain, with what a run that was cut off left in its journal. What cannot be read is reported and
    /// set aside: the run goes on without it. `same_run`: it is this run's own, whose place this process took.
    pub(crate) fn open(root: &Root, domain: &str, instance: &str, same_run: bool) -> Ledger {
        Ledger::open_file(JournalFile::of(root, domain), domain, instance, same_run)
    }

    /// The same, of a file that may be elsewhere.
    pub(super) fn open_file(file: JournalFile, domain: &str, instance: &str, same_run: bool) -> Ledger {
        let read = file.read();
        let written = read.as_ref().ok().map(|read| read.clone().unwrap_or_default());
        let page = match read {
            Ok(None) => None,
            Ok(Some(bytes)) => Some(parse(&bytes, instance)),
            Err(e) => Some(Err(Unusable::Lost(e.to_string()))),
        };
        let (instance, domain) = (instance.to_owned(), domain.to_owned());
        let journal = Journal { file: Some(file), instance, domain, written, said: false, lost: false };
        let mut ledger = Ledger { journal, ..Ledger::default() };
        match page {
            None => {}
            Some(Ok(page)) if same_run => ledger.go_on(page),
            Some(Ok(page)) => ledger.take_over(page),
            Some(Err(why)) => ledger.journal.set_aside(&why),
        }
        ledger
    }

    /// Everything is as it was, but for the memory of what was mounted before.
    fn go_on(&mut self, (page, unknown): Read) {
        self.unknown = unknown;
        (self.held, self.inherited, self.left) = (page.held, page.inherited, page.left);
        (self.committed, self.consents) = (page.committed, page.consents);
        for hold in self.held.iter_mut().chain(&mut self.inherited) {
            if let Hold::Volume(v) = hold {
                v.inherited = true;
            }
        }
    }

    fn take_over(&mut self, (page, unknown): Read) {
        self.unknown = unknown;
        for hold in &self.unknown {
            let kind = hold.as_object().and_then(|o| o.keys().next()).map_or("?", String::as_str);
            log::error!(
                "a hold of an earlier run ({kind}) is of a kind or form that this version of ec2fleetd does not know: it \
                 stays as it is, and in the journal, for the version that wrote it"
            );
        }
        self.inherited = page.inherited.into_iter().chain(page.left).chain(page.held).collect();
        for hold in &mut self.inherited {
            if let Hold::Record(r) = hold {
                // Whoever had the name before may be gone since.
                r.earlier.append(&mut r.before);
            }
            let Hold::Volume(v) = hold else { continue };
            v.inherited = true;
            // The directives may be others by now.
            v.key.clear();
            if v.origin == Origin::Claimed {
                // Its tags have the transaction of the run that wrote them.
                v.transc_id.get_or_insert(page.transaction.clone());
            }
        }
        (self.to_tidy, self.consents) = (page.committed, page.consents);
    }

    /// Brings the journal up to date. A run does not fail for it: AWS knows enough to go on from.
    pub(super) fn write(&mut self, transaction: &str) {
        let Some(file) = &self.journal.file else { return };
        let committed: Vec<&Committed> = self.committed.iter().chain(&self.to_tidy).collect();
        let left: Vec<Entry<'_>> =
            self.left.iter().map(Entry::Known).chain(self.unknown.iter().map(Entry::Unknown)).collect();
        let empty = self.held.is_empty() && self.inherited.is_empty() && left.is_empty() && committed.is_empty();
        let empty = empty && self.consents.is_empty();
        let page = Page {
            version: VERSION,
            instance: self.journal.instance.clone(),
            domain: Some(self.journal.domain.clone()),
            transaction: transaction.to_owned(),
            held: self.held.iter().map(Entry::Known).collect(),
            inherited: self.inherited.iter().map(Entry::Known).collect(),
            left,
            committed,
            consents: self.consents.clone(),
        };
        let bytes = if empty { Ok(Vec::new()) } else { serde_json::to_vec(&page) };
        let outcome = match bytes {
            Ok(bytes) if self.journal.written.as_ref() == Some(&bytes) => return,
            Ok(bytes) => {
                let end = if bytes.is_empty() { file.remove() } else { file.write(&bytes) };
                self.journal.written = Some(bytes);
                end
            }
            Err(e) => Err(e.into()),
        };
        if let Err(e) = outcome {
            // An old page would tell of what is no more.
            let stale = file.remove().err().map(|e| format!("; nor remove it: {e}"));
            self.journal.written = stale.is_none().then(Vec::new);
            if !std::mem::replace(&mut self.journal.said, true) {
                let (path, advice) = (file.path().display(), run_dir::advice(&e));
                log::warn!(
                    "cannot write the journal {path} (going on without it: what a kill leaves is then found by tags \
                     only): {e}{}{advice}",
                    stale.unwrap_or_default()
                );
            }
        }
    }
}

impl Ledger {
    /// Whether there was a journal that could not be read; it is only said once.
    pub(super) fn was_lost(&mut self) -> bool {
        std::mem::take(&mut self.journal.lost)
    }
}

impl Journal {
    fn set_aside(&mut self, why: &Unusable) {
        let Some(file) = &self.file else { return };
        let (why, known) = match why {
            Unusable::Foreign(why) => (why, "Nothing of this instance is in it"),
            Unusable::Lost(why) => {
                self.lost = true;
                (why, "What it named is looked for by its tags")
            }
        };
        let aside = match file.set_aside() {
            Ok(path) => format!("it is {} now", path.display()),
            Err(e) => format!("it could not be set aside: {e}"),
        };
        log::warn!("the journal {} of an earlier run cannot be used: {why}; {aside}. {known}", file.path().display());
        self.written = Some(Vec::new());
    }
}

/// What a journal is about, as far as it can be read: its domain, and what it holds.
pub(super) fn peek(file: &JournalFile, instance: &str) -> (Option<String>, Vec<Hold>) {
    let page = file.read().ok().flatten().and_then(|bytes| parse(&bytes, instance).ok());
    let Some((page, _)) = page else { return (file.domain().map(str::to_owned), Vec::new()) };
    let holds: Vec<Hold> = page.held.into_iter().chain(page.inherited).chain(page.left).collect();
    // A directive's path begins with the domain, in quotes.
    let of_key = |h: &Hold| {
        let rest = h.key().strip_prefix("domains.")?;
        serde_json::Deserializer::from_str(rest).into_iter::<String>().next()?.ok()
    };
    let named = page.domain.into_iter().chain(file.domain().map(str::to_owned)).chain(holds.iter().filter_map(of_key));
    let domain = named.into_iter().find(|name| file.is_of(name));
    (domain, holds)
}

/// A page, and the holds of it that are not known here.
type Read = (Page<Vec<Hold>, Vec<Committed>>, Vec<Value>);

fn parse(bytes: &[u8], instance: &str) -> Result<Read, Unusable> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
        instance: String,
    }
    let torn = |e: serde_json::Error| Unusable::Lost(format!("it is torn, or no journal ({e})"));
    let head: Head = serde_json::from_slice(bytes).map_err(torn)?;
    if head.instance != instance {
        return Err(Unusable::Foreign(format!("it is of {}, this instance is {instance}", head.instance)));
    }
    if head.version != VERSION {
        return Err(Unusable::Lost(format!("its version is {}, this program's is {VERSION}", head.version)));
    }
    let page: Page<Vec<Value>, Vec<Committed>> = serde_json::from_slice(bytes).map_err(torn)?;
    let mut unknown = Vec::new();
    let mut known = |values: Vec<Value>| {
        // By way of its text: another reader of all holds would be 50 KB of code.
        let read = |v: &Value| serde_json::from_slice::<Hold>(&serde_json::to_vec(v)?);
        let of = |v: Value| read(&v).map_err(|_| unknown.push(v)).ok();
        values.into_iter().filter_map(of).collect()
    };
    let Page { version, instance, domain, transaction, committed, consents, .. } = page;
    let (held, inherited, left) = (known(page.held), known(page.inherited), known(page.left));
    Ok((Page { version, instance, domain, transaction, held, inherited, left, committed, consents }, unknown))
}

#[cfg(test)]
mod properties;
