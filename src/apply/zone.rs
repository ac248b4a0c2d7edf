//! One queue per hosted zone: what waits while a change is under way goes out together in the next batch.
//!
//! Route 53 takes one change of a zone at a time and few calls a second, for all instances of the account together.
//! A batch is all or nothing; a refused one is sent again piece by piece, so that one bad name fails only its own
//! directive. There is no thread for it: of the threads that wait, one sends.
//! <https://docs.aws.amazon.com/Route53/latest/APIReference/API_ChangeResourceRecordSets.html>

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::lock;
use crate::aws::route53::{Change, RecordSet};
use crate::aws::{ApiError, Aws, Class};
use crate::scope::Scope;

/// What belongs together: all of it is written, or nothing.
pub(crate) type Piece = Vec<Change>;

/// Limits of one request; an UPSERT counts twice.
const MAX_RECORDS: usize = 1000;
const MAX_CHARS: usize = 32_000;

/// The queues of all hosted zones.
#[derive(Debug, Default)]
pub(crate) struct Zones(Mutex<BTreeMap<String, Arc<Queue>>>);

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Somebody is sending.
    busy: bool,
    waiting: Vec<Waiting>,
    done: BTreeMap<u64, Result<(), ApiError>>,
}

/// A piece that is to be sent, by whoever sends.
#[derive(Debug)]
struct Waiting {
    ticket: u64,
    piece: Piece,
    /// Of whoever waits for it: when that is over, it is not sent any more.
    scope: Scope,
}

impl Waiting {
    /// Why it is not to be sent any more.
    fn over(&self) -> Option<ApiError> {
        self.scope.check().err().map(|halt| ApiError::halted("ChangeResourceRecordSets", halt, None))
    }
}

impl Zones {
    /// Writes the pieces, together with those of other threads; one result for each.
    pub(crate) fn submit(&self, aws: &Aws, zone: &str, pieces: Vec<Piece>, scope: &Scope) -> Vec<Result<(), ApiError>> {
        let queue = lock(&self.0).entry(zone.to_owned()).or_default().clone();
        queue.submit(pieces, scope, &|batch, scope| aws.change_record_sets(scope, zone, batch))
    }
}

type Send<'a> = &'a (dyn Fn(&[Change], &Scope) -> Result<(), ApiError> + Sync);

impl Queue {
    fn submit(&self, pieces: Vec<Piece>, scope: &Scope, send: Send<'_>) -> Vec<Result<(), ApiError>> {
        let mut state = lock(&self.state);
        let mut results: Vec<Option<Result<(), ApiError>>> = pieces.iter().map(|_| None).collect();
        let mut unsure = vec![false; pieces.len()];
        let mut mine: Vec<(u64, usize)> = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            let ticket = state.next;
            state.next += 1;
            state.waiting.push(Waiting { ticket, piece: piece.clone(), scope: scope.clone() });
            mine.push((ticket, i));
        }
        while !mine.is_empty() {
            let mut again = Vec::new();
            mine.retain(|(ticket, i)| match state.done.remove(ticket) {
                // The thread that sent had to stop; this one need not.
                Some(Err(e)) if matches!(e.class(), Class::Halted(_)) && scope.check().is_ok() => {
                    unsure[*i] |= e.unsure;
                    again.push((*ticket, *i));
                    false
                }
                Some(r) => {
                    // What an earlier try may have done, this answer does not tell.
                    results[*i] = Some(r.map_err(|e| ApiError { unsure: e.unsure || unsure[*i], ..e }));
                    false
                }
                None => true,
            });
            for (ticket, i) in again {
                state.waiting.push(Waiting { ticket, piece: pieces[i].clone(), scope: scope.clone() });
                mine.push((ticket, i));
            }
            if mine.is_empty() {
                break;
            }
            // What its owner has given up must not go out with what others send.
            let State { waiting, done, .. } = &mut *state;
            waiting.retain(|w| match w.over() {
                Some(e) => {
                    done.insert(w.ticket, Err(e));
                    false
                }
                None => true,
            });
            if !state.busy && !state.waiting.is_empty() {
                state.busy = true;
                let batch = take_batch(&mut state.waiting);
                drop(state);
                let outcome = send_batch(&batch, scope, send);
                state = lock(&self.state);
                state.busy = false;
                state.done.extend(outcome);
                self.changed.notify_all();
                continue;
            }
            if mine.iter().any(|(ticket, _)| state.done.contains_key(ticket)) {
                continue;
            }
            // Whoever sends ends with the same deadline, and then this thread takes over.
            state =
                self.changed.wait_timeout(state, Duration::from_millis(500)).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        results.into_iter().flatten().collect()
    }
}

/// As many of the waiting pieces as one request takes, in order; two pieces for one set never share a request.
fn take_batch(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    let mut batch: Vec<Waiting> = Vec::new();
    let (mut records, mut chars) = (0, 0);
    let mut rest = Vec::new();
    let names = |p: &Piece| p.iter().map(|c| c.set.slot()).collect::<Vec<_>>();
    for next in waiting.drain(..) {
        let (r, c) = weight(&next.piece);
        let fits = records + r <= MAX_RECORDS && chars + c <= MAX_CHARS;
        // A batch of UPSERTs alone may be repeated: one DELETE among them would take that from all.
        let alike = batch.first().is_none_or(|b| repeatable(&b.piece) == repeatable(&next.piece));
        let meets = batch.iter().any(|b| names(&b.piece).iter().any(|n| names(&next.piece).contains(n)));
        if batch.is_empty() || (fits && alike && !meets && rest.is_empty()) {
            records += r;
            chars += c;
            batch.push(next);
        } else {
            rest.push(next);
        }
    }
    *waiting = rest;
    batch
}

fn repeatable(piece: &Piece) -> bool {
    piece.iter().all(Change::is_upsert)
}

fn weight(piece: &Piece) -> (usize, usize) {
    piece.iter().fold((0, 0), |(r, c), change| {
        let n = if change.is_upsert() { 2 } else { 1 };
        let set: &RecordSet = &change.set;
        (r + n * set.values.len().max(1), c + n * set.values.iter().map(String::len).sum::<usize>())
    })
}

fn send_batch(batch: &[Waiting], scope: &Scope, send: Send<'_>) -> Vec<(u64, Result<(), ApiError>)> {
    let together: Vec<Change> = batch.iter().flat_map(|w| w.piece.iter().cloned()).collect();
    let all = |r: Result<(), ApiError>| batch.iter().map(|w| (w.ticket, r.clone())).collect();
    // As long as the first of those who wait has time: the others send theirs again.
    let left = batch.iter().map(|w| w.scope.remaining()).min().unwrap_or_default();
    match send(&together, &scope.within(left)) {
        Ok(()) => all(Ok(())),
        // Refused as a whole, for the sake of one: which one?
        Err(e) if batch.len() > 1 && !matches!(e.class(), Class::Halted(_) | Class::Ambiguous) => {
            log::info!("a batch of {} changes was refused; sending them one by one: {e}", batch.len());
            let one = |w: &Waiting| match w.over() {
                Some(over) => Err(ApiError { unsure: e.unsure, ..over }),
                // What the batch may have done, each piece of it may have done.
                None => send(&w.piece, &scope.within(w.scope.remaining()))
                    .map_err(|o| ApiError { unsure: o.unsure || e.unsure, ..o }),
            };
            batch.iter().map(|w| (w.ticket, one(w))).collect()
        }
        Err(e) => all(Err(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::scope::{Stop, StopReason};

    #[test]
    fn what_its_owner_has_given_up_is_not_sent_by_others() {
        let clock = Arc::new(Clock::new(None).unwrap());
        let scope = |stop: &Stop| Scope::new(&clock, Duration::from_secs(60), Some(stop));
        let piece = |name: &str| vec![Change::create(RecordSet::simple(name, "A", 60, &["192.0.2.1".to_owned()]))];
        let (queue, sent, go) = (Queue::default(), Mutex::new(Vec::new()), Mutex::new(()));
        let hold = lock(&go);
        let send = |batch: &[Change], _: &Scope| {
            lock(&sent).extend(batch.iter().map(|c| c.set.name.clone()));
            drop(lock(&go));
            Ok(())
        };
        let until = |done: &dyn Fn() -> bool| {
            while !done() {
                std::thread::sleep(Duration::from_millis(1))
            }
        };
        let (failed, other) = (Stop::new(), Stop::new());
        std::thread::scope(|s| {
            let first = s.spawn(|| queue.submit(vec![piece("first.e")], &scope(&other), &send));
            until(&|| !lock(&sent).is_empty());
            let lost = s.spawn(|| queue.submit(vec![piece("lost.e")], &scope(&failed), &send));
            let third = s.spawn(|| queue.submit(vec![piece("third.e")], &scope(&other), &send));
            until(&|| lock(&queue.state).waiting.len() == 2);
            failed.request(StopReason::Interrupted);
            drop(hold);
            assert_eq!((first.join().unwrap(), third.join().unwrap()), (vec![Ok(())], vec![Ok(())]));
            let ends = lost.join().unwrap();
            assert!(matches!(ends[0].as_ref().unwrap_err().class(), Class::Halted(_)), "{ends:?}");
        });
        let mut sent = sent.into_inner().unwrap();
        sent.sort();
        assert_eq!(sent, ["first.e.", "third.e."]);
    }
}
