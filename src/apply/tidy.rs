//! The tags of committed volumes, brought up to date off the path to `started`.

use super::hold::Committed;
use super::{DomainRun, Shared, lock};
use crate::aws::{ApiError, Class, Still};
use crate::clock::Tick;
use crate::plan::tags;
use crate::plan::unfinished::Own;
use crate::scope::Scope;

/// A volume whose tags are to be brought up to date, with the transaction that it is of.
struct Task<'a> {
    run: &'a DomainRun,
    volume: Committed,
}

/// Writes when the volumes were used and takes the transaction's tags off; then puts back what earlier runs left and
/// nobody wants. A tag that cannot be written is a warning: tags are hints.
pub(crate) fn tidy(shared: &Shared, runs: &[&DomainRun], scope: &Scope) {
    let mut all: Vec<Task<'_>> = Vec::new();
    // Since when nobody has looked whether the volumes are here.
    let mut known: Option<Tick> = None;
    for run in runs {
        for (_, t) in std::mem::take(&mut *lock(&run.tagging)) {
            let _ = t.join();
        }
        run.left_to_others();
        all.extend(run.to_be_tidied(scope).into_iter().map(|volume| Task { run, volume }));
        known = [known, *lock(&run.committed_at)].into_iter().flatten().min();
    }
    let now = shared.time_tag();
    let me = shared.facts().instance_id.clone();

    // One call for all that get the same tags.
    let open = || all.iter().filter(|t| !t.volume.marked);
    let kind = |t: &Task<'_>| (t.volume.created, t.volume.member.clone());
    let mut kinds: Vec<(bool, Option<String>)> = open().map(kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for (created, member) in kinds {
        let of: Vec<&Task<'_>> = open().filter(|t| kind(t) == (created, member.clone())).collect();
        // The owner too: a run that was cut off may not have come to it.
        let mut pairs = vec![(tags::TS_USED, now.as_str()), (tags::OWNER, me.as_str())];
        if created {
            pairs.push((tags::TS_CREATED, now.as_str()));
        }
        pairs.extend(member.as_deref().map(|m| (tags::MEMBER, m)));
        note(&of, &|run, ids| run.note_tags(ids, &pairs));
        let write = |ids: &[&str]| {
            let watch = shared.watch(ids, Own::Attached, known);
            shared.aws.create_tags(scope, ids, &pairs, &Still::while_(&|s| watch.ask(s)))
        };
        for (ids, e) in together_or_alone(&ids_of(&of), &write) {
            match e.class() {
                Class::Lapsed => log::info!("{ids}: leaving the time of use alone: {e}"),
                _ => log::warn!("cannot write the time of use of {ids}: {e}"),
            }
        }
    }
    // By value: what another transaction wrote meanwhile stays. What carries the same value shares a call.
    let mut values: Vec<&str> = all.iter().map(|t| t.volume.transc_id.as_str()).collect();
    values.sort_unstable();
    values.dedup();
    for value in values {
        let of: Vec<&Task<'_>> = all.iter().filter(|t| t.volume.transc_id == value).collect();
        let pairs = [(tags::TRANSC_ID, Some(value))];
        note(&of, &|run, ids| run.note_untag(ids, &pairs));
        let ids = ids_of(&of);
        if let Err(e) = shared.aws.delete_tags(scope, &ids, &pairs, &Still::always()) {
            log::warn!("cannot take off the transaction tag of {}: {e}", ids.join(", "));
        }
    }
    for run in runs {
        // Before the ledger forgets what was moved.
        let unfinished = run.finish_moves(scope);
        run.tidied(unfinished);
        run.settle_marks(scope);
        run.settle_by_tags(scope);
        // What nobody has taken up by now is wanted by nobody. That it could not be put back was said.
        run.settle_rest(scope);
    }
}

fn ids_of<'a>(tasks: &[&'a Task<'_>]) -> Vec<&'a str> {
    tasks.iter().map(|t| t.volume.volume_id.as_str()).collect()
}

/// Notes a call for each transaction that has a part in it.
fn note(tasks: &[&Task<'_>], write: &dyn Fn(&DomainRun, &[&str])) {
    let mut rest = tasks.to_vec();
    while let Some(first) = rest.first().map(|t| t.run) {
        let of: Vec<&Task<'_>> = rest.extract_if(.., |t| std::ptr::eq(t.run, first)).collect();
        write(first, &ids_of(&of));
    }
}

/// Makes a call for all; where one of them has gone to somebody else, for each by itself. What failed, with its ids.
fn together_or_alone(ids: &[&str], call: &dyn Fn(&[&str]) -> Result<(), ApiError>) -> Vec<(String, ApiError)> {
    match call(ids) {
        Ok(()) => Vec::new(),
        Err(e) if e.class() == Class::Lapsed && ids.len() > 1 => {
            ids.iter().filter_map(|id| Some(((*id).to_owned(), call(&[id]).err()?))).collect()
        }
        Err(e) => vec![(ids.join(", "), e)],
    }
}
