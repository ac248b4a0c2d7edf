//! From "attached" to a disk that can be used.
//!
//! An accepted AttachVolume is not a disk yet. With serials (Nitro) the serial alone tells, and the API is asked only
//! when the disk is late, to learn why. Without them the requested name counts, once the API says `attached` and the
//! node has appeared after our call (or the volume was attached there before).

use std::path::PathBuf;
use std::time::Duration;

use super::hold::VolumeHold;
use super::{DomainRun, Failure};
use crate::aws::ec2::AttachmentState;
use crate::plan::volumes::{Standing, standing};
use crate::scope::Scope;
use crate::sys::block::{self, NameSnapshot, Pace};

/// How long a disk may take before the API is asked about it; most are there within 2 s.
const LATE: Duration = Duration::from_secs(3);

impl DomainRun {
    /// Waits until the disk of `id`, attached as `device`, can be read. `before` is what had names before our claim;
    /// `None`: it was attached before this run.
    pub(crate) fn wait_for_disk(
        &self,
        id: &str,
        device: &str,
        before: Option<&NameSnapshot>,
        scope: &Scope,
    ) -> Result<PathBuf, Failure> {
        let root = &self.shared.root;
        let clock = &self.shared.clock;
        let serials = self.has_serials();
        let mut pace = Pace::start(root, scope);
        let mut attached = false;
        let mut ask_at = if serials { clock.now().after(LATE) } else { clock.now() };
        let mut pause = Duration::from_millis(500);
        let mut missing = "no disk with its serial appeared".to_owned();
        loop {
            let found = match block::find_by_serial(root, id) {
                Some(path) => Some(path),
                None if serials || !attached => None,
                None => match before {
                    Some(b) => b.appeared(root, device).map(|n| n.path),
                    None => block::find_by_name(root, device).map(|n| n.path),
                },
            };
            if let Some(path) = found {
                match block::node_ready(&path, scope) {
                    Ok(()) => return Ok(path),
                    Err(e) => missing = format!("{} cannot be read: {e}", path.display()),
                }
            } else if attached {
                missing = format!("EC2 says attached, but this machine shows no new disk for {device}");
            }
            let late = |h| Failure::halted(format!("{id} is attached as {device}, but {missing}"), h);
            scope.check().map_err(late)?;
            if clock.now() >= ask_at && !attached {
                // The end of the scope may well come while EC2 is asked: what is waited for is the disk all the same.
                attached = self.still_attached(id, device, scope).map_err(|f| f.halt.map_or(f, late))?;
                ask_at = clock.now().after(pause);
                pause = (pause * 2).min(Duration::from_secs(8));
            }
            pace.wait(scope).map_err(late)?;
        }
    }

    fn has_serials(&self) -> bool {
        match self.shared.facts().hypervisor.as_deref() {
            Some("nitro") => true,
            Some(_) => false,
            None => block::has_ebs_serials(&self.shared.root),
        }
    }

    /// The disk of a volume that is attached here. What an earlier run saw may be another's by now, and what it did not
    /// see may be there.
    pub(super) fn disk_now(&self, v: &VolumeHold, id: &str) -> Option<PathBuf> {
        let root = &self.shared.root;
        let seen = v.disk.clone().filter(|_| !v.inherited);
        match self.has_serials() {
            true => block::find_by_serial(root, id).or(seen),
            false => seen.or_else(|| block::find_by_name(root, &v.device).filter(|_| v.inherited).map(|n| n.path)),
        }
    }

    /// Whether EC2 says `attached`; a failure if it took the volume away again.
    fn still_attached(&self, id: &str, device: &str, scope: &Scope) -> Result<bool, Failure> {
        let facts = self.shared.facts();
        let Some(v) = self.describe(scope, id)? else {
            return Err(Failure::new(format!("{id} vanished while it was being attached")));
        };
        match standing(&v, &facts.instance_id, &facts.zone) {
            Standing::Here(_) => Ok(v
                .attachments
                .iter()
                .any(|a| a.instance_id == facts.instance_id && a.state == AttachmentState::Attached)),
            // The picture may be older than our call.
            Standing::Free | Standing::Changing(_) => {
                log::debug!("{id}: EC2 does not show the attachment as {device} (yet): {}", v.state.name());
                Ok(false)
            }
            Standing::Absent(why) | Standing::Broken(why) => Err(Failure::new(format!(
                "{id} was attached as {device} and is not any more: {why} (if it is encrypted: may this instance's role \
                 use its KMS key?)"
            ))),
        }
    }
}
