//! What two directives have together: a volume, a record. That is allowed, and rarely what its writer means.

use std::collections::HashMap;

use super::problem::quoted;
use super::reader::Reader;
use super::{RecordDirective, Source, VolumeDirective};
use crate::macros::Values;

/// What was seen so far in all domains.
#[derive(Debug, Default)]
pub(super) struct Shared {
    volumes: HashMap<String, VolumeUse>,
    /// By hosted zone and name.
    records: HashMap<(String, String), RecordUse>,
}

#[derive(Debug)]
struct VolumeUse {
    path: String,
    device: Option<String>,
    mounts: bool,
}

#[derive(Debug)]
struct RecordUse {
    path: String,
    ttl: i64,
}

impl Shared {
    /// Notes the volume that a directive at `at` names, and warns of a second one.
    pub(super) fn volume(&mut self, r: &mut Reader, d: &VolumeDirective, at: usize) {
        let Some(id) = d.volume_id.as_ref().filter(|_| d.sources.contains(&Source::Existing)) else { return };
        let used = VolumeUse { path: d.path.clone(), device: d.device.clone(), mounts: d.mount.is_some() };
        let Some(first) = self.volumes.get(id) else {
            self.volumes.insert(id.clone(), used);
            return;
        };
        let what = match (&first.device, &used.device) {
            (Some(_), Some(_)) => "under another device name: only one of them can have it",
            _ if first.mounts && used.mounts => "and both mount it: only one of them can",
            _ => "whichever comes first attaches it, and it is released with the last",
        };
        let text = format!("{} is what {} asks for too: {what}", quoted(id), first.path);
        r.warn(&format!("{}.volume-id", d.path), at, text);
    }

    /// Notes the record that a directive of `domain` at `at` writes, and warns of a second one.
    pub(super) fn record(&mut self, r: &mut Reader, domain: &str, d: &RecordDirective, at: usize) {
        let name = d.name.expand(&Values { domain: domain.to_owned(), ..Values::default() }).to_ascii_lowercase();
        let key = (d.hosted_zone.clone(), name.trim_end_matches('.').to_owned());
        if let Some(first) = self.records.get(&key) {
            let what = if first.ttl == d.ttl {
                "it goes with the last of them".to_owned()
            } else {
                format!("with ttl {}: one of the two is lost", first.ttl)
            };
            let text = format!("{} is what {} writes too: {what}", quoted(&key.1), first.path);
            r.warn(&format!("{}.name", d.path), at, text);
        } else {
            self.records.insert(key, RecordUse { path: d.path.clone(), ttl: d.ttl });
        }
    }
}
