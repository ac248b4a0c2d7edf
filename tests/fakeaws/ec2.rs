//! EC2's query protocol: versions, the parameters that each action has, and the way to the actions.

use std::collections::BTreeMap;

use super::errors::{Refusal, refuse, refuse_with};
use super::sigv4::Credential;
use super::text::{element, iso, xml};
use super::volumes::Volume;
use super::world::World;

/// Decoded parameters.
pub(crate) type Params = BTreeMap<String, String>;

/// One call on its way through EC2.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) params: &'a Params,
    pub(crate) region: String,
}

impl Ask<'_> {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str)
    }

    /// A mandatory parameter.
    pub(crate) fn need(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).filter(|v| !v.is_empty()).ok_or_else(|| {
            refuse("MissingParameter", format!("The request must contain the parameter {}", lower_first(name)))
        })
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(v) => Err(refuse(
                "InvalidParameterValue",
                format!("Invalid value '{v}' for {}. It must be a boolean.", lower_first(name)),
            )),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        self.get(name)
            .map(|v| {
                v.parse().map_err(|_| {
                    refuse("InvalidParameterValue", format!("Invalid value '{v}' for {}.", lower_first(name)))
                })
            })
            .transpose()
    }

    /// The members of `Base.1`, `Base.2`, … in order.
    pub(crate) fn list(&self, base: &str) -> Vec<String> {
        (1..).map_while(|n| self.params.get(&format!("{base}.{n}")).cloned()).collect()
    }
}

fn lower_first(name: &str) -> String {
    let mut c = name.chars();
    c.next().map(|f| f.to_lowercase().chain(c).collect()).unwrap_or_default()
}

const TAG_SPEC: [&str; 3] =
    ["TagSpecification.N.ResourceType", "TagSpecification.N.Tag.N.Key", "TagSpecification.N.Tag.N.Value"];

/// The parameters that an action has; `None` for an action that is not here.
fn known_parameters(action: &str) -> Option<Vec<&'static str>> {
    let own: &[&str] = match action {
        "DescribeVolumes" => &["Filter.N.Name", "Filter.N.Value.N", "VolumeId.N", "MaxResults", "NextToken"],
        "AttachVolume" => &["VolumeId", "InstanceId", "Device", "EbsCardIndex"],
        "DetachVolume" => &["VolumeId", "InstanceId", "Device", "Force"],
        "CreateVolume" => &[
            "AvailabilityZone",
            "AvailabilityZoneId",
            "Size",
            "SnapshotId",
            "VolumeType",
            "Iops",
            "Throughput",
            "Encrypted",
            "KmsKeyId",
            "MultiAttachEnabled",
            "VolumeInitializationRate",
            "ClientToken",
            "OutpostArn",
            TAG_SPEC[0],
            TAG_SPEC[1],
            TAG_SPEC[2],
        ],
        "DeleteVolume" => &["VolumeId"],
        "CreateSnapshot" => {
            &["VolumeId", "Description", "OutpostArn", "Location", TAG_SPEC[0], TAG_SPEC[1], TAG_SPEC[2]]
        }
        "DescribeSnapshots" => &[
            "Filter.N.Name",
            "Filter.N.Value.N",
            "SnapshotId.N",
            "Owner.N",
            "RestorableBy.N",
            "MaxResults",
            "NextToken",
        ],
        "DeleteSnapshot" => &["SnapshotId"],
        "CreateTags" | "DeleteTags" => &["ResourceId.N", "Tag.N.Key", "Tag.N.Value"],
        "DescribeAddresses" => &["Filter.N.Name", "Filter.N.Value.N", "AllocationId.N", "PublicIp.N"],
        "AssociateAddress" => {
            &["AllocationId", "PublicIp", "InstanceId", "NetworkInterfaceId", "PrivateIpAddress", "AllowReassociation"]
        }
        "DisassociateAddress" => &["AssociationId", "PublicIp"],
        "DescribeInstances" => &["Filter.N.Name", "Filter.N.Value.N", "InstanceId.N", "MaxResults", "NextToken"],
        "TerminateInstances" => &["InstanceId.N", "Force", "SkipOsShutdown"],
        _ => return None,
    };
    Some(own.iter().copied().chain(["Action", "Version", "DryRun"]).collect())
}

/// `Filter.12.Value.3` as `Filter.N.Value.N`.
fn pattern(name: &str) -> String {
    let part = |p: &str| {
        let number = p.parse::<u32>().is_ok_and(|n| n > 0) && !p.starts_with(['0', '+']);
        if number { "N".to_string() } else { p.to_string() }
    };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// Checks version, action and the names of the parameters, before anything else is looked at.
pub(crate) fn check(params: &Params) -> Result<(), Refusal> {
    let action = params.get("Action").map(String::as_str).unwrap_or("");
    let version = params.get("Version").map(String::as_str).unwrap_or("");
    if version != "2016-11-15" {
        let text = format!("The requested version ({version}) of service AmazonEC2 is not valid");
        return Err(refuse("NoSuchVersion", text));
    }
    let Some(known) = known_parameters(action) else {
        return Err(refuse("InvalidAction", format!("The action {action} is not valid for this web service.")));
    };
    for name in params.keys() {
        if !known.contains(&pattern(name).as_str()) {
            return Err(refuse("UnknownParameter", format!("The parameter {name} is not recognized")));
        }
        // Lists are numbered from 1 without gaps.
        let parts: Vec<&str> = name.split('.').collect();
        for (i, p) in parts.iter().enumerate() {
            let Ok(n) = p.parse::<u32>() else { continue };
            let before = format!("{}.{}", parts[..i].join("."), n.saturating_sub(1));
            let next = params.range(before.clone()..).next().and_then(|(k, _)| k.strip_prefix(&before));
            if n > 1 && !next.is_some_and(|tail| tail.is_empty() || tail.starts_with('.')) {
                return Err(refuse("InvalidParameterValue", format!("The list of {name} is not numbered from 1")));
            }
        }
    }
    Ok(())
}

/// The resources that a call touches, for permissions on single resources.
pub(crate) fn resources(params: &Params) -> Vec<String> {
    let named = ["VolumeId", "InstanceId", "SnapshotId"];
    let of = |k: &str| named.contains(&k) || k.starts_with("ResourceId.") || k.starts_with("InstanceId.");
    params.iter().filter(|(k, _)| of(k)).map(|(_, v)| v.clone()).collect()
}

/// The refusal of a permission.
pub(crate) fn unauthorized(world: &mut World, key: &Credential, action: &str, params: &Params) -> Refusal {
    let arn = world.caller_arn(key);
    let region = key.instance.as_ref().and_then(|i| world.instances.get(i)).map(|i| i.region.clone());
    let region = region.unwrap_or_else(|| "eu-west-1".into());
    let resource = match resources(params).first() {
        Some(id) => {
            let kind = match id.split('-').next() {
                Some("i") => "111122223333:instance",
                Some("snap") => ":snapshot",
                _ => "111122223333:volume",
            };
            format!(" on resource: arn:aws:ec2:{region}:{kind}/{id}")
        }
        None if action == "CreateVolume" => format!(" on resource: arn:aws:ec2:{region}:111122223333:volume/*"),
        None => String::new(),
    };
    let encoded = world.random.hex(240);
    refuse_with(
        403,
        "UnauthorizedOperation",
        format!(
            "You are not authorized to perform this operation. User: {arn} is not authorized to perform: ec2:{action}{resource} because no identity-based policy allows the ec2:{action} action. Encoded authorization failure message: {encoded}"
        ),
    )
}

/// Carries out an action; gives the inner XML of the answer.
pub(crate) fn run(world: &mut World, action: &str, params: &Params, region: &str) -> Result<String, Refusal> {
    let ask = Ask { params, region: region.into() };
    if ask.flag("DryRun")? {
        let text = "Request would have succeeded, but DryRun flag is set.";
        return Err(refuse_with(412, "DryRunOperation", text));
    }
    match action {
        "DescribeVolumes" => world.describe_volumes(&ask),
        "AttachVolume" => world.attach_volume(&ask),
        "DetachVolume" => world.detach_volume(&ask),
        "CreateVolume" => world.create_volume(&ask),
        "DeleteVolume" => world.delete_volume(&ask),
        "CreateSnapshot" => world.create_snapshot(&ask),
        "DescribeSnapshots" => world.describe_snapshots(&ask),
        "DeleteSnapshot" => world.delete_snapshot(&ask),
        "CreateTags" => world.create_tags(&ask),
        "DeleteTags" => world.delete_tags(&ask),
        "DescribeAddresses" => world.describe_addresses(&ask),
        "AssociateAddress" => world.associate_address(&ask),
        "DisassociateAddress" => world.disassociate_address(&ask),
        "DescribeInstances" => world.describe_instances(&ask),
        "TerminateInstances" => world.terminate_instances(&ask),
        other => Err(refuse("InvalidAction", format!("The action {other} is not valid for this web service."))),
    }
}

/// Checks the form of an id: `vol-` and 8 or 17 hex digits.
pub(crate) fn check_id(id: &str, prefix: &str) -> Result<(), Refusal> {
    let tail = id.strip_prefix(prefix).and_then(|t| t.strip_prefix('-'));
    let ok = tail.is_some_and(|t| {
        (t.len() == 8 || t.len() == 17) && t.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    });
    if ok {
        return Ok(());
    }
    Err(match prefix {
        "vol" => refuse("InvalidVolumeID.Malformed", format!("Invalid id: \"{id}\" (expecting \"vol-...\")")),
        "i" => refuse("InvalidInstanceID.Malformed", format!("Invalid id: \"{id}\" (expecting \"i-...\")")),
        _ => refuse("InvalidSnapshotID.Malformed", format!("Invalid id: \"{id}\" (expecting \"snap-...\")")),
    })
}

/// The tags of a resource.
pub(crate) fn tag_set(tags: &BTreeMap<String, String>) -> String {
    if tags.is_empty() {
        return String::new();
    }
    let items: String =
        tags.iter().map(|(k, v)| format!("<item>{}{}</item>", element("key", k), element("value", v))).collect();
    format!("<tagSet>{items}</tagSet>")
}

/// One attachment, as the list members and the answers of AttachVolume and DetachVolume have it.
pub(crate) fn attachment_xml(volume: &str, a: &super::volumes::Attachment) -> String {
    format!(
        "{}{}{}<status>{}</status>{}{}",
        element("volumeId", volume),
        element("instanceId", &a.instance),
        element("device", &a.device),
        xml(&a.state),
        element("attachTime", iso(a.time)),
        element("deleteOnTermination", a.delete_on_termination),
    )
}

/// A volume.
pub(crate) fn volume_xml(world: &World, v: &Volume) -> String {
    let zone_id = world.availability_zones.get(&v.zone).map(|z| z.1.clone()).unwrap_or_default();
    let mut out = element("volumeId", &v.id)
        + &element("size", v.size)
        + &element("snapshotId", v.snapshot.as_deref().unwrap_or(""))
        + &element("availabilityZone", &v.zone)
        + &element("availabilityZoneId", zone_id)
        + &element("status", &v.state)
        + &element("createTime", iso(v.created));
    let list: String = v.attachments.iter().map(|a| format!("<item>{}</item>", attachment_xml(&v.id, a))).collect();
    out += &if list.is_empty() { "<attachmentSet/>".into() } else { format!("<attachmentSet>{list}</attachmentSet>") };
    out += &tag_set(&v.tags);
    out += &element("volumeType", &v.kind);
    if let Some(n) = v.iops {
        out += &element("iops", n);
    }
    if let Some(n) = v.throughput {
        out += &element("throughput", n);
    }
    out += &element("encrypted", v.encrypted);
    if let Some(k) = &v.kms_key {
        out += &element("kmsKeyId", k);
    }
    if let Some(of) = &v.source {
        out += &element("sourceVolumeId", of);
    }
    out += &element("multiAttachEnabled", v.multi_attach);
    let principal = v.operator.as_ref().map(|p| element("principal", p)).unwrap_or_default();
    out + &format!("<operator><managed>{}</managed>{principal}</operator>", v.operator.is_some())
}
