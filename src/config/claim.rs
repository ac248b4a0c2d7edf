//! `wait`, `fence` and `max-per-instance` of an `attach-volume` directive: what it does where a volume is another's.

use std::collections::BTreeMap;
use std::time::Duration;

use super::json5::Value;
use super::problem::quoted;
use super::reader::{Object, Reader};
use super::{Source, VolumeDirective};

/// What a directive does where what it wants is held by others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Claiming {
    /// `wait`: how long that is waited for, for each of the sources `x`, `p` and `s`.
    pub(crate) wait: Option<Duration>,
    /// `fence`: a holder that is terminated or stopped may be detached from.
    pub(crate) fence: bool,
    /// `max-per-instance`: how many volumes of the pool this instance may have.
    pub(crate) most: Option<usize>,
}

/// Reads them. `init`: how long the whole init may take.
pub(super) fn claiming(r: &mut Reader, o: &Object<'_>, sources: &[Source], init: Duration) -> Claiming {
    let wait = wait(r, o, init);
    let fence = r.word(o, "fence", &[("never", false), ("terminated", true)], &[]).unwrap_or(false);
    let most = most(r, o);
    let (existing, pool) = (sources.contains(&Source::Existing), sources.contains(&Source::Pool));
    for (key, effective, letters) in [
        ("wait", existing || pool || sources.contains(&Source::Snapshot), "no x, no p and no s"),
        ("fence", existing || pool, "no x and no p"),
        ("max-per-instance", pool, "no p"),
    ] {
        if let Some(node) = o.get(key).filter(|_| !effective && !sources.is_empty()) {
            r.warn(&o.path_of(key), node.at, format!("has no effect: source has {letters}"));
        }
    }
    Claiming { wait, fence, most }
}

/// Reads `o.wait`, which should end within init.
pub(super) fn wait(r: &mut Reader, o: &Object<'_>, init: Duration) -> Option<Duration> {
    let wait = r.seconds(o, "wait");
    if let (Some(wait), Some(node)) = (wait, o.get("wait"))
        && wait >= init
    {
        let text = format!("is not shorter than timeout ({} s): init is over before it is", init.as_secs_f64());
        r.warn(&o.path_of("wait"), node.at, text);
    }
    wait
}

fn most(r: &mut Reader, o: &Object<'_>) -> Option<usize> {
    let node = o.get("max-per-instance")?;
    let path = o.path_of("max-per-instance");
    let Value::Integer(n) = node.value else {
        r.wrong_type(&path, node, "a whole number");
        return None;
    };
    let n = usize::try_from(n).ok().filter(|n| *n > 0);
    if n.is_none() {
        r.problem(&path, node.at, "is less than 1");
    }
    n
}

/// What the directives of a domain say of its pools: pool to how many, and who says so.
#[derive(Debug, Default)]
pub(super) struct Agreed(BTreeMap<String, Said>);

/// What was said of a pool first.
#[derive(Debug)]
struct Said {
    most: usize,
    path: String,
    at: usize,
}

impl Agreed {
    /// Those that name one pool must say the same of it.
    pub(super) fn check(&mut self, r: &mut Reader, o: &Object<'_>, d: &VolumeDirective) {
        let (Some(pool), Some(most), Some(node)) = (&d.pool_name, d.claiming.most, o.get("max-per-instance")) else {
            return;
        };
        match self.0.get(pool) {
            Some(said) if said.most != most => {
                let text = format!("is not what {} says of pool {}: {}", said.path, quoted(pool), said.most);
                r.problem(&o.path_of("max-per-instance"), node.at, text);
            }
            Some(_) => {}
            None => drop(self.0.insert(pool.clone(), Said { most, path: o.path.clone(), at: node.at })),
        }
    }

    /// Says where the directives want more than they may have.
    pub(super) fn finish(self, r: &mut Reader, all: &[VolumeDirective]) {
        for (pool, said) in self.0 {
            let wanted = all.iter().filter(|d| d.pool_name.as_ref() == Some(&pool)).count();
            if wanted > said.most {
                let text =
                    format!("is less than the {wanted} directives of pool {}: not all can succeed", quoted(&pool));
                r.warn(&format!("{}.max-per-instance", said.path), said.at, text);
            }
        }
    }
}
