//! AttachVolume and DetachVolume: who may have a volume, and where.

use super::ec2::{Ask, attachment_xml, check_id};
use super::errors::{Refusal, refuse};
use super::volumes::Attachment;
use super::world::World;

/// The device name without `/dev/`, `sd` and `xvd` alike: one slot has one name.
fn slot(device: &str) -> String {
    let name = device.strip_prefix("/dev/").unwrap_or(device);
    name.strip_prefix("xvd").or_else(|| name.strip_prefix("sd")).unwrap_or(name).to_string()
}

/// `/dev/sd[a-z]`, with 1 to 15 behind it, `/dev/xvd[a-z]`, `/dev/xvd[a-d][a-z]`; `/dev/` may be left out.
fn good_device(device: &str) -> bool {
    let name = device.strip_prefix("/dev/").unwrap_or(device);
    let letter = |b: &u8| b.is_ascii_lowercase();
    if let Some(tail) = name.strip_prefix("xvd") {
        return match tail.as_bytes() {
            [a] => letter(a),
            [a, b] => (b'a'..=b'd').contains(a) && letter(b),
            _ => false,
        };
    }
    let Some(tail) = name.strip_prefix("sd") else { return false };
    let number = tail.get(1..).unwrap_or("");
    tail.as_bytes().first().is_some_and(letter)
        && (number.is_empty()
            || (number.parse::<u8>().is_ok_and(|n| (1..=15).contains(&n)) && !number.starts_with(['0', '+'])))
}

fn not_found(id: &str) -> Refusal {
    refuse("InvalidVolume.NotFound", format!("The volume '{id}' does not exist."))
}

impl World {
    pub(crate) fn attach_volume(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let (id, instance_id) = (ask.need("VolumeId")?, ask.need("InstanceId")?);
        let device = ask.need("Device")?.to_string();
        check_id(id, "vol")?;
        check_id(instance_id, "i")?;
        if ask.number("EbsCardIndex")?.is_some_and(|n| n > 0) {
            let text = "The instance type has only one EBS card, with index 0";
            return Err(refuse("InvalidParameterCombination", text));
        }
        let now = self.now_ms();
        let seen = |z: &str| self.region_of(z) == ask.region;
        let volume = self.volumes.get(id).filter(|v| v.visible_at_ms <= now && seen(&v.zone));
        let volume = volume.ok_or_else(|| not_found(id))?.clone();
        let instance = self.instances.get(instance_id).filter(|i| !i.unknown && i.region == ask.region);
        let Some(instance) = instance.cloned() else {
            let text = format!("The instance ID '{instance_id}' does not exist");
            return Err(refuse("InvalidInstanceID.NotFound", text));
        };
        if !good_device(&device) {
            let text =
                format!("Value ({device}) for parameter device is invalid. {device} is not a valid EBS device name.");
            return Err(refuse("InvalidParameterValue", text));
        }
        if volume.operator.is_some() {
            let text = format!("The volume '{id}' is managed by a service and cannot be attached by its owner.");
            return Err(refuse("OperationNotPermitted", text));
        }
        if volume.zone != instance.spec.zone {
            let text = format!("The volume '{id}' is not in the same availability zone as instance '{instance_id}'");
            return Err(refuse("InvalidVolume.ZoneMismatch", text));
        }
        let shared = volume.multi_attach && volume.state == "in-use";
        if volume.state == "in-use" {
            if !shared || volume.attachments.iter().any(|a| a.instance == instance_id) {
                return Err(refuse("VolumeInUse", format!("{id} is already attached to an instance")));
            }
            if instance.spec.hypervisor == "xen" {
                let text = "Multi-Attach enabled volumes can be attached to Nitro instances only";
                return Err(refuse("UnsupportedOperation", text));
            }
            if volume.attachments.len() >= 16 {
                let text = format!("The volume '{id}' has the maximum number of attachments, 16");
                return Err(refuse("AttachmentLimitExceeded", text));
            }
        } else if volume.state != "available" {
            return Err(refuse("IncorrectState", format!("{id} is not 'available'.")));
        }
        if !["running", "stopped"].contains(&instance.state.as_str()) {
            return Err(refuse("IncorrectState", format!("Instance '{instance_id}' is not 'running'.")));
        }
        let mine: Vec<&Attachment> =
            self.volumes.values().flat_map(|v| &v.attachments).filter(|a| a.instance == instance_id).collect();
        let taken = mine.iter().any(|a| slot(&a.device) == slot(&device));
        if taken || instance.cooling.iter().any(|(d, _)| slot(d) == slot(&device)) || slot(&device) == "a1" {
            let text = format!("Invalid value '{device}' for unixDevice. Attachment point {device} is already in use");
            return Err(refuse("InvalidParameterValue", text));
        }
        if mine.len() + instance.nics.len() >= instance.spec.attach_limit {
            let text = format!(
                "Volume attachment limit exceeded. The maximum number of attachments for instance '{instance_id}' is {}.",
                instance.spec.attach_limit
            );
            return Err(refuse("AttachmentLimitExceeded", text));
        }
        self.remember();
        let (stuck, attaching) = (self.knobs.attaching_stuck, self.knobs.attaching_ms);
        let attachment = Attachment {
            instance: instance_id.into(),
            device,
            state: "attaching".into(),
            time: self.wall(),
            due: (!stuck).then_some(now + attaching),
            device_due: (!stuck).then_some(now + self.knobs.device_ms),
            node: None,
            delete_on_termination: false,
            force: false,
        };
        let answer = attachment_xml(id, &attachment);
        if let Some(v) = self.volumes.get_mut(id) {
            v.state = "in-use".into();
            v.attachments.push(attachment);
        }
        self.advance();
        Ok(answer)
    }

    pub(crate) fn detach_volume(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let id = ask.need("VolumeId")?;
        check_id(id, "vol")?;
        let force = ask.flag("Force")?;
        let now = self.now_ms();
        let volume = self.volumes.get(id).filter(|v| v.visible_at_ms <= now && self.region_of(&v.zone) == ask.region);
        let volume = volume.ok_or_else(|| not_found(id))?;
        if let Some(i) = ask.get("InstanceId") {
            check_id(i, "i")?;
            if self.instances.get(i).is_none_or(|i| i.unknown) {
                let text = format!("The instance ID '{i}' does not exist");
                return Err(refuse("InvalidInstanceID.NotFound", text));
            }
        }
        if volume.state != "in-use" {
            let text = format!("Volume '{id}' is in the '{}' state.", volume.state);
            return Err(refuse("IncorrectState", text));
        }
        if volume.multi_attach && ask.get("InstanceId").is_none() {
            let text = "The parameter instanceId is required for a volume with Multi-Attach";
            return Err(refuse("MissingParameter", text));
        }
        let wanted = |a: &&Attachment| {
            ask.get("InstanceId").is_none_or(|i| a.instance == i) && ask.get("Device").is_none_or(|d| a.device == d)
        };
        let Some(found) = volume.attachments.iter().find(wanted) else {
            let text = match ask.get("InstanceId") {
                Some(i) => format!("Volume '{id}' is not attached to instance '{i}'"),
                None => format!("Volume '{id}' is not attached as that device"),
            };
            return Err(refuse("InvalidAttachment.NotFound", text));
        };
        let (instance, device) = (found.instance.clone(), found.device.clone());
        if let Some(i) = self.instances.get(&instance)
            && i.root_device == device
            && i.state != "stopped"
        {
            let text = format!("Unable to detach root volume '{id}' from instance '{instance}'");
            return Err(refuse("OperationNotPermitted", text));
        }
        if !force && self.instances.get(&instance).is_some_and(|i| i.state == "shutting-down") {
            let text = format!("The instance '{instance}' is in the 'shutting-down' state.");
            return Err(refuse("IncorrectInstanceState", text));
        }
        self.remember();
        let due = now + self.knobs.detaching_ms;
        let Some(v) = self.volumes.get_mut(id) else { return Err(not_found(id)) };
        let mut answer = String::new();
        for a in v.attachments.iter_mut().filter(|a| a.instance == instance && a.device == device) {
            a.force |= force;
            // A second detach changes nothing, unless it forces what is busy.
            if !matches!(a.state.as_str(), "detaching" | "busy") || force {
                a.state = "detaching".into();
                a.due = Some(due);
                a.device_due = None;
            }
            answer = attachment_xml(id, a);
        }
        self.advance();
        Ok(answer)
    }
}
