//! What the tests of volumes share: configs in few words, and changes to the world while a daemon runs.

use std::path::PathBuf;

use crate::fakeaws::volumes::Attachment;
use crate::fakeaws::{Call, Fault, FaultKind, InstanceSpec, Knobs, VolumeSpec};
use crate::lab::{Lab, Run};

/// A volume id that sorts by its number.
pub(crate) fn id(n: u32) -> String {
    format!("vol-{n:017x}")
}

/// A config with one domain `d` that has these `attach-volume` directives.
pub(crate) fn config(directives: &str) -> String {
    format!(r#"{{ domains: {{ d: {{ "attach-volume": [{directives}] }} }} }}"#)
}

/// The same with a `timeout` in seconds.
pub(crate) fn timed(seconds: u32, directives: &str) -> String {
    format!(r#"{{ timeout: {seconds}, domains: {{ d: {{ "attach-volume": [{directives}] }} }} }}"#)
}

/// A directive: its sources, its device, and the other keys. It notes what its command sees.
pub(crate) fn volume(source: &str, device: &str, rest: &str) -> String {
    directive(source, device, rest, NOTE)
}

/// A directive of pool `p` that can create.
pub(crate) fn pool(source: &str, device: &str) -> String {
    volume(source, device, r#""pool-name": "p", create: { Size: 4 }"#)
}

/// A directive with a command.
pub(crate) fn directive(source: &str, device: &str, rest: &str, script: &str) -> String {
    let device = if device.is_empty() { String::new() } else { format!("device: {device:?},") };
    let rest = if rest.is_empty() { String::new() } else { format!("{rest},") };
    format!(r#"{{ {device} source: "{source}", {rest} {} }}"#, sh(script))
}

/// `exec` with a shell script; `$1` to `$5` are volume, attach_op, source, disk and pool.
pub(crate) fn sh(script: &str) -> String {
    let script = script.replace('{', "{{").replace('}', "}}");
    let argv = format!(
        r#""/bin/sh", "-c", {script:?}, "sh", "{{volume_id}}", "{{attach_op}}", "{{attach_source}}", "{{attached_device}}", "{{volume_pool}}""#
    );
    format!("exec: [{{ lines: [{{ argv: [{argv}] }}] }}]")
}

/// Notes what a volume's command sees.
pub(crate) const NOTE: &str = r#"[ -r "$4" ] && echo $1 $2 $3 $5 >> $LAB/seen"#;
/// Says that it runs, and waits until the test lets it go on.
pub(crate) const HOLD: &str = "touch $LAB/first; until [ -e $LAB/go ] || [ ! -d $LAB ]; do sleep 0.02; done";

/// `exec` of a domain that notes each event.
pub(crate) const EVENTS: &str =
    r#"exec: [{ lines: [{ argv: ["/bin/sh", "-c", "echo $1 >> $LAB/events", "sh", "{daemon_state}"] }] }]"#;

impl Lab {
    /// Adds a volume.
    pub(crate) fn volume(&self, spec: VolumeSpec) -> String {
        self.server.world().add_volume(spec)
    }

    /// Adds free volumes 1 to `n` of pool `p` of domain `d`.
    pub(crate) fn pool_of(&self, n: u32) -> Vec<String> {
        (1..=n).map(|i| self.volume(VolumeSpec::pool("d", "p").id(&id(i)))).collect()
    }

    /// Another instance in the same zone.
    pub(crate) fn neighbour(&self) -> String {
        self.add_instance(InstanceSpec::default())
    }

    pub(crate) fn knobs(&self, f: impl FnOnce(&mut Knobs)) {
        f(&mut self.server.world().knobs);
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.server.world().fault(fault);
    }

    /// What the commands noted in `seen`, by line.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.lines("seen")
    }

    /// The events that ran commands.
    pub(crate) fn events(&self) -> Vec<String> {
        self.lines("events")
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until a file is there.
    #[track_caller]
    pub(crate) fn until_file(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        self.until(name, || path.exists());
        path
    }

    /// Ends the attachment of a volume, as the end of its instance would.
    pub(crate) fn free(&self, volume: &str) {
        let mut w = self.server.world();
        w.remember();
        let v = w.volumes.get_mut(volume).unwrap();
        v.attachments.clear();
        v.state = "available".into();
    }

    /// Attaches a free volume to an instance, as somebody else would.
    pub(crate) fn take(&self, volume: &str, instance: &str, device: &str) {
        self.taking(volume, instance, device, 0);
    }

    /// The same, but it is `attaching`, without a disk, for so long. When that is over.
    pub(crate) fn taking(&self, volume: &str, instance: &str, device: &str, ms: u64) -> u64 {
        let mut w = self.server.world();
        let (due, wall) = (w.now_ms() + ms, w.wall());
        w.remember();
        let v = w.volumes.get_mut(volume).unwrap();
        assert_eq!(v.state, "available");
        v.state = "in-use".into();
        v.attachments.push(Attachment {
            instance: instance.into(),
            device: device.into(),
            state: if ms > 0 { "attaching" } else { "attached" }.into(),
            time: wall,
            due: (ms > 0).then_some(due),
            device_due: Some(due),
            node: None,
            delete_on_termination: false,
            force: false,
        });
        due
    }

    /// Lets the attachments of a volume be in `state` for so long (`detaching` then ends, `attaching` becomes attached).
    pub(crate) fn set_attachment(&self, volume: &str, state: &str, ms: u64) {
        let mut w = self.server.world();
        let due = w.now_ms() + ms;
        for a in &mut w.volumes.get_mut(volume).unwrap().attachments {
            a.state = state.into();
            a.due = Some(due);
        }
    }

    /// The next list of volumes is answered late: what happens after [`Lab::listed`] is not in it.
    pub(crate) fn list_late(&self) {
        self.fault(Fault::first("DescribeVolumes", 1, FaultKind::Slow(500)));
    }

    /// Waits until that list was made.
    #[track_caller]
    pub(crate) fn listed(&self) {
        self.until("a list", || self.server.calls_of("DescribeVolumes").iter().any(|c| c.status == 200));
    }

    /// The state of a volume; `gone` if there is none.
    pub(crate) fn state(&self, volume: &str) -> String {
        self.server.world().volumes.get(volume).map_or("gone".into(), |v| v.state.clone())
    }

    /// The volumes that CreateVolume made and that are there and not being deleted.
    pub(crate) fn created(&self) -> Vec<String> {
        let w = self.server.world();
        w.volumes.values().filter(|v| v.by_api && v.state != "deleting").map(|v| v.id.clone()).collect()
    }

    /// One tag of ours, without the prefix; empty if there is none.
    pub(crate) fn tag(&self, volume: &str, key: &str) -> String {
        self.tags(volume).into_iter().find(|(k, _)| k == key).map(|t| t.1).unwrap_or_default()
    }

    /// How many calls of an action there were.
    pub(crate) fn count(&self, action: &str) -> usize {
        self.server.calls_of(action).len()
    }

    /// The volumes of the calls of an action, in order.
    pub(crate) fn volumes_of(&self, action: &str) -> Vec<String> {
        let id = |c: &Call| c.params.get("VolumeId").or(c.params.get("ResourceId.1")).cloned().unwrap_or_default();
        self.server.calls_of(action).iter().map(id).collect()
    }

    /// Nothing is attached but the root volume, and nothing made by CreateVolume is left.
    #[track_caller]
    pub(crate) fn nothing_left(&self, run: &Run) {
        assert!(self.attached(&self.me).is_empty(), "{run}");
        assert!(self.created().is_empty(), "{run}");
    }

    /// Exactly this is attached.
    #[track_caller]
    pub(crate) fn has(&self, wanted: &[(&str, &str)], run: &Run) {
        let mut wanted: Vec<_> = wanted.iter().map(|(v, d)| ((*v).to_owned(), (*d).to_owned())).collect();
        wanted.sort();
        assert_eq!(self.attached(&self.me), wanted, "{run}");
    }
}

/// What no run may ever do, whatever happens.
#[track_caller]
pub(crate) fn harmless(calls: &[Call]) {
    for c in calls {
        assert!(!c.params.contains_key("Force"), "a forced detachment: {c:?}");
        let bare = c.action == "DeleteTags" && !c.params.contains_key("Tag.1.Key");
        assert!(!bare, "DeleteTags without tags deletes all tags: {c:?}");
        assert!(c.action != "DetachVolume" || c.params.contains_key("InstanceId"), "whose attachment? {c:?}");
        let own = c.params.get("InstanceId.1") == c.instance.as_ref() && !c.params.contains_key("InstanceId.2");
        assert!(c.action != "TerminateInstances" || own, "not its own end: {c:?}");
    }
}
