//! From "attached" to a disk that can be used.
//!
//! An accepted AttachVolume is not a disk yet. With serials (Nitro) the serial alone tells, and the API is asked only
//! when the disk is late, to learn why. Without them the requested name counts, once the API says `attached` and the
//! node has appeared after our call (or the volume was attached there before).

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hold::VolumeHold;
use super::{DomainRun, Failure, lock};
use crate::aws::ec2::AttachmentState;
use crate::plan::volumes::{Standing, standing};
use crate::scope::Scope;
use crate::sys::Root;
use crate::sys::block::{self, NameSnapshot, Named, Pace};
use crate::sys::holders::{Alone, Holder, holders};
use crate::sys::mounts::StillHeld;
use crate::waits::{self, News, waiting};

/// How long a disk may take before the API is asked about it; most are there within 2 s.
const LATE: Duration = Duration::from_secs(3);
/// How long a disk may take to answer until it is looked whether a better one is there: this one may be dead.
const SILENT: Duration = Duration::from_secs(60);
/// How often it is asked whether a volume still is attached whose disk does not come.
const ATTACHED: Duration = Duration::from_secs(15);

/// How often it is looked whether who has come to a disk is gone again.
const VACANT: Duration = Duration::from_millis(250);

/// A disk from which everything is unmounted, before it is detached.
#[derive(Debug, Default)]
pub(super) struct Vacated {
    /// `None`: it is not here.
    pub(super) disk: Option<PathBuf>,
    /// We hold it, so that nobody else can mount it. `None`: it lives on unseen (a lazy unmount).
    pub(super) alone: Option<Alone>,
    /// We have let go of it, and look whether somebody has come.
    pub(super) looked_at: bool,
}

impl Vacated {
    /// EC2 waits for this machine to let go of it: we do, and say who else does not.
    pub(super) fn busy(&mut self, root: &Root, scope: &Scope) -> String {
        if let Some(alone) = self.alone.take() {
            alone.let_go(scope);
        }
        let holders = self.disk.as_deref().map_or_else(|| Ok(Vec::new()), |disk| holders(root, disk, scope));
        match holders.as_deref() {
            Err(e) => format!("who holds it cannot be told: {e}"),
            Ok([]) => "something on this machine still holds it".to_owned(),
            Ok(holders) => holders.iter().map(Holder::to_string).collect::<Vec<_>>().join("; "),
        }
    }
}

impl DomainRun {
    /// Waits until nobody has the disk of `id` who has come since it was vacated.
    pub(super) fn until_vacant(&self, id: &str, vacated: &mut Vacated, scope: &Scope) -> Result<(), StillHeld> {
        let mut news = News::default();
        loop {
            let Err(held) = self.is_vacant(vacated, scope) else { return Ok(()) };
            if news.is_due(&held.to_string(), self.shared.clock.now()) {
                log::warn!("{id}: {held}; trying until {}", waits::until(scope));
            }
            if scope.sleep(VACANT).is_err() {
                return Err(held);
            }
        }
    }

    /// Whether nobody has come to use the disk since it was vacated. With serials (NVMe) it is held until it is gone. Xen's
    /// kernel does not let go of a disk that anybody has open: there it is only looked at.
    fn is_vacant(&self, vacated: &mut Vacated, scope: &Scope) -> Result<(), StillHeld> {
        if self.has_serials() {
            return Ok(());
        }
        if let Some(alone) = vacated.alone.take() {
            alone.let_go(scope);
            vacated.looked_at = true;
        }
        let Some(device) = vacated.disk.clone().filter(|_| vacated.looked_at) else { return Ok(()) };
        match holders(&self.shared.root, &device, scope) {
            Ok(holders) if holders.is_empty() => Ok(()),
            Ok(holders) => Err(StillHeld { device, cause: None, holders }),
            Err(e) => {
                let cause = Some(format!("who holds it cannot be told: {e}"));
                Err(StillHeld { device, cause, holders: Vec::new() })
            }
        }
    }

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
        // How often in a row EC2 has not shown an attachment that it had shown.
        let mut gone = 0u32;
        let mut ask_at = if serials { clock.now().after(LATE) } else { clock.now() };
        let mut pause = Duration::from_millis(500);
        let mut missing = "no disk with its serial appeared".to_owned();
        let wait = waiting(scope, format!("the disk of {id}, attached as {device}"));
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
                match block::node_ready(&path, &scope.within(SILENT)) {
                    Ok(()) => {
                        self.saw_disk(id, &path);
                        return Ok(path);
                    }
                    Err(e) => missing = format!("{} cannot be read: {e}", path.display()),
                }
            } else if attached {
                missing = format!("EC2 says attached, but this machine shows no new disk for {device}");
            }
            let late = |h| Failure::halted(format!("{id} is attached as {device}, but {missing}"), h);
            scope.check().map_err(late)?;
            wait.say(format!("the disk of {id}, attached as {device} ({missing})"));
            if clock.now() >= ask_at {
                // The end of the scope may well come while EC2 is asked: what is waited for is the disk all the same.
                let before = std::mem::replace(
                    &mut attached,
                    self.still_attached(id, device, scope).map_err(|f| f.halt.map_or(f, late))?,
                );
                // Twice, since one answer may be older than that before it.
                gone = if before || gone > 0 { (gone + 1) * u32::from(!attached) } else { 0 };
                if gone == 2 {
                    return Err(Failure::new(format!("{id} was attached as {device} and is not any more")));
                }
                ask_at = clock.now().after(if attached { ATTACHED } else { pause });
                pause = (pause * 2).min(Duration::from_secs(8));
            }
            pace.wait(scope).map_err(late)?;
        }
    }

    pub(super) fn has_serials(&self) -> bool {
        match self.shared.facts().hypervisor.as_deref() {
            Some("nitro") => true,
            Some(_) => false,
            None => block::has_ebs_serials(&self.shared.root),
        }
    }

    /// Remembers which disk is the volume's, for where its name alone does not tell that later.
    fn saw_disk(&self, id: &str, path: &Path) {
        if let Some(ident) = block::ident_of(&self.shared.root, path) {
            lock(&self.disks).insert(id.to_owned(), Named { path: path.to_path_buf(), ident });
        }
    }

    /// The disk of a volume, as it is now: names may have gone over to other disks since it was seen. `None`: it is not
    /// here (any more).
    pub(super) fn disk_of(&self, id: &str, scope: &Scope) -> Result<Option<PathBuf>, Failure> {
        let root = &self.shared.root;
        if self.has_serials() {
            return Ok(block::find_by_serial(root, id));
        }
        let seen = lock(&self.disks).get(id).cloned();
        if let Some(seen) = seen.filter(|s| block::ident_of(root, &s.path).as_ref() == Some(&s.ident)) {
            return Ok(Some(seen.path));
        }
        // At its name there is another disk, or none. EC2 knows under which name it is here.
        let here = self.attachment_here(id, scope)?;
        let found = here.and_then(|device| block::find_by_name(root, &device));
        Ok(found.map(|named| {
            let path = named.path.clone();
            lock(&self.disks).insert(id.to_owned(), named);
            path
        }))
    }

    /// The same for a hold, in a roll-back. Where there are no serials, a disk that neither this run nor the one that it
    /// goes on for has seen may be any disk.
    pub(super) fn disk_now(&self, v: &VolumeHold, id: &str, scope: &Scope) -> Result<Option<PathBuf>, Failure> {
        if !self.has_serials() && !v.inherited && !lock(&self.disks).contains_key(id) {
            return Ok(None);
        }
        self.disk_of(id, scope)
    }

    /// The name under which EC2 says that the volume is attached to this instance, and is to stay so.
    pub(super) fn attachment_here(&self, id: &str, scope: &Scope) -> Result<Option<String>, Failure> {
        let facts = self.shared.facts();
        let now = self.describe(scope, id)?;
        Ok(match now.map(|v| standing(&v, &facts.instance_id, &facts.zone)) {
            Some(Standing::Here(device)) => Some(device),
            _ => None,
        })
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
