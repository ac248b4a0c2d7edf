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
    waiting: Vec<(u64, Piece)>,
    done: BTreeMap<u64, Result<(), ApiError>>,
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
        let mut mine: Vec<(u64, usize)> = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            let ticket = state.next;
            state.next += 1;
            state.waiting.push((ticket, piece.clone()));
            mine.push((ticket, i));
        }
        while !mine.is_empty() {
            let mut again = Vec::new();
            mine.retain(|(ticket, i)| match state.done.remove(ticket) {
                // The thread that sent had to stop; this one need not.
                Some(Err(e)) if matches!(e.class(), Class::Halted(_)) && scope.check().is_ok() => {
                    again.push((*ticket, *i));
                    false
                }
                Some(r) => {
                    results[*i] = Some(r);
                    false
                }
                None => true,
            });
            for (ticket, i) in again {
                state.waiting.push((ticket, pieces[i].clone()));
                mine.push((ticket, i));
            }
            if mine.is_empty() {
                break;
            }
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
            // Whoever sends ends with the same deadline, and then this thread takes over.
            state =
                self.changed.wait_timeout(state, Duration::from_millis(500)).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        results.into_iter().flatten().collect()
    }
}

/// As many of the waiting pieces as one request takes, in order; two pieces for one set never share a request.
fn take_batch(waiting: &mut Vec<(u64, Piece)>) -> Vec<(u64, Piece)> {
    let mut batch: Vec<(u64, Piece)> = Vec::new();
    let (mut records, mut chars) = (0, 0);
    let mut rest = Vec::new();
    let names = |p: &Piece| p.iter().map(|c| c.set.slot()).collect::<Vec<_>>();
    for (ticket, piece) in waiting.drain(..) {
        let (r, c) = weight(&piece);
        let fits = records + r <= MAX_RECORDS && chars + c <= MAX_CHARS;
        // A batch of UPSERTs alone may be repeated: one DELETE among them would take that from all.
        let alike = batch.first().is_none_or(|(_, b)| repeatable(b) == repeatable(&piece));
        let meets = batch.iter().any(|(_, b)| names(b).iter().any(|n| names(&piece).contains(n)));
        if batch.is_empty() || (fits && alike && !meets && rest.is_empty()) {
            records += r;
            chars += c;
            batch.push((ticket, piece));
        } else {
            rest.push((ticket, piece));
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

fn send_batch(batch: &[(u64, Piece)], scope: &Scope, send: Send<'_>) -> Vec<(u64, Result<(), ApiError>)> {
    let together: Vec<Change> = batch.iter().flat_map(|(_, p)| p.iter().cloned()).collect();
    let all = |r: Result<(), ApiError>| batch.iter().map(|(t, _)| (*t, r.clone())).collect();
    match send(&together, scope) {
        Ok(()) => all(Ok(())),
        // Refused as a whole, for the sake of one: which one?
        Err(e) if batch.len() > 1 && !matches!(e.class(), Class::Halted(_) | Class::Ambiguous) => {
            log::info!("a batch of {} changes was refused; sending them one by one: {e}", batch.len());
            // What the batch may have done, each piece of it may have done.
            let one = |p: &Piece| send(p, scope).map_err(|o| ApiError { unsure: o.unsure || e.unsure, ..o });
            batch.iter().map(|(t, p)| (*t, one(p))).collect()
        }
        Err(e) => all(Err(e)),
    }
}
