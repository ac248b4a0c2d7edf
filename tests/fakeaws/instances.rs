//! Instances: what they are, how tests add them, and their role credentials.

use std::path::PathBuf;

use time::Duration;

use super::imds::ImdsState;
use super::sigv4::Credential;
use super::volumes::VolumeSpec;
use super::world::{ACCOUNT, World};

/// A network interface.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nic {
    pub(crate) mac: String,
    pub(crate) device_number: u32,
    pub(crate) network_card: Option<u32>,
    pub(crate) interface_id: String,
    pub(crate) local_ipv4s: Vec<String>,
    pub(crate) public_ipv4s: Vec<String>,
    pub(crate) ipv6s: Vec<String>,
}

/// What a test says of an instance; the rest has defaults.
#[derive(Debug, Clone)]
pub(crate) struct InstanceSpec {
    /// Given, or made up.
    pub(crate) id: Option<String>,
    pub(crate) zone: String,
    pub(crate) instance_type: String,
    pub(crate) launch_index: u32,
    /// `nitro` or `xen`.
    pub(crate) hypervisor: String,
    /// `/` of this instance: disks show up in `root/dev` and `root/sys`.
    pub(crate) root: Option<PathBuf>,
    pub(crate) user_data: Option<Vec<u8>>,
    /// The name of the role; none: no instance profile.
    pub(crate) role: Option<String>,
    /// Empty: one interface with 203.0.113.N and 2001:db8::N.
    pub(crate) nics: Option<Vec<Nic>>,
    pub(crate) life_cycle: String,
    /// Instance tags, seen in the IMDS when `metadata_tags`.
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) metadata_tags: bool,
    /// Whether there is a root volume.
    pub(crate) root_volume: bool,
    /// Adds hidden `nvme1c1n1` entries, as native NVMe multipath does.
    pub(crate) multipath: bool,
    /// EBS attachments that are possible, the root volume and one interface included.
    pub(crate) attach_limit: usize,
    /// `pending` for so long.
    pub(crate) pending_ms: u64,
    /// It is a real guest: its disks are ordered, see `guests.rs`.
    pub(crate) guest: bool,
}

impl Default for InstanceSpec {
    fn default() -> InstanceSpec {
        InstanceSpec {
            id: None,
            zone: "eu-west-1a".into(),
            instance_type: "c5.large".into(),
            launch_index: 0,
            hypervisor: "nitro".into(),
            root: None,
            user_data: None,
            role: Some("fleet".into()),
            nics: None,
            life_cycle: "spot".into(),
            tags: Vec::new(),
            metadata_tags: false,
            root_volume: true,
            multipath: false,
            attach_limit: 28,
            pending_ms: 0,
            guest: false,
        }
    }
}

/// An instance.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) id: String,
    /// As given, but for what changes.
    pub(crate) spec: InstanceSpec,
    pub(crate) region: String,
    pub(crate) zone_id: String,
    /// `pending`, `running`, `stopping`, `stopped`, `shutting-down`, `terminated`.
    pub(crate) state: String,
    pub(crate) running_at_ms: Option<u64>,
    /// EC2 does not know this id yet: `InvalidInstanceID.NotFound`.
    pub(crate) unknown: bool,
    /// When it will.
    pub(crate) known_at_ms: Option<u64>,
    pub(crate) root_device: String,
    pub(crate) nics: Vec<Nic>,
    pub(crate) role: Option<String>,
    /// What the IMDS hands out now.
    pub(crate) credential: Credential,
    /// Life of credentials, in milliseconds.
    pub(crate) credential_life_ms: u64,
    /// The IMDS hands out new ones this long before the end of the old.
    pub(crate) rotate_before_ms: u64,
    /// Device names that cool down, and until when.
    pub(crate) cooling: Vec<(String, u64)>,
}

impl World {
    /// Adds an instance; gives its id. Its IMDS listens from the first `Server::imds_url` on.
    pub(crate) fn add_instance(&mut self, spec: InstanceSpec) -> String {
        let n = self.instances.len() as u32 + 10;
        let id = spec.id.clone().unwrap_or_else(|| self.make_id("i"));
        let (region, zone_id) = self.availability_zones.get(&spec.zone).cloned().unwrap_or_default();
        let nics = spec.nics.clone().unwrap_or_else(|| {
            vec![Nic {
                mac: format!("02:00:00:00:{:02x}:{:02x}", n >> 8, n & 255),
                device_number: 0,
                network_card: None,
                interface_id: format!("eni-0{n:016x}"),
                local_ipv4s: vec![format!("10.0.{}.{}", n >> 8, n & 255)],
                public_ipv4s: vec![format!("203.0.113.{}", n & 255)],
                ipv6s: vec![format!("2001:db8::{n:x}")],
            }]
        });
        let root_device = "/dev/xvda".to_string();
        let now = self.now_ms();
        let instance = Instance {
            id: id.clone(),
            region,
            zone_id,
            state: if spec.pending_ms > 0 { "pending" } else { "running" }.into(),
            running_at_ms: (spec.pending_ms > 0).then_some(now + spec.pending_ms),
            unknown: false,
            known_at_ms: None,
            root_device: root_device.clone(),
            nics,
            role: spec.role.clone(),
            credential: Credential {
                access_key: String::new(),
                secret: String::new(),
                token: None,
                expires: None,
                instance: None,
            },
            credential_life_ms: 6 * 3600 * 1000,
            rotate_before_ms: 5 * 60 * 1000,
            cooling: Vec::new(),
            spec: spec.clone(),
        };
        self.instances.insert(id.clone(), instance);
        self.imds.insert(id.clone(), ImdsState::default());
        self.rotate_credentials(&id);
        if spec.root_volume {
            self.add_volume(VolumeSpec {
                zone: spec.zone.clone(),
                size: 8,
                attached: Some((id.clone(), root_device)),
                delete_on_termination: true,
                ..VolumeSpec::default()
            });
        }
        id
    }

    /// Makes new role credentials; the old ones stay good until their end.
    pub(crate) fn rotate_credentials(&mut self, id: &str) {
        let Some(life) = self.instances.get(id).map(|i| i.credential_life_ms) else { return };
        let key = Credential {
            access_key: format!("ASIA{}", self.random.hex(16).to_uppercase()),
            secret: format!("{}+/{}", self.random.hex(20), self.random.hex(18)),
            token: Some(format!("IQoJ{}/+=={}", self.random.hex(120), self.random.hex(8))),
            expires: Some(self.wall() + Duration::milliseconds(life as i64)),
            instance: Some(id.into()),
        };
        self.keys.insert(key.access_key.clone(), key.clone());
        if let Some(i) = self.instances.get_mut(id) {
            i.credential = key;
        }
    }

    /// Ends the life of this instance's present credentials now. The IMDS goes on handing them out until
    /// [`World::rotate_credentials`], unless `rotate_before_ms` makes it rotate by itself.
    pub(crate) fn expire_credentials(&mut self, id: &str) {
        let now = self.wall();
        let Some(i) = self.instances.get_mut(id) else { return };
        i.credential.expires = Some(now - Duration::seconds(1));
        let key = i.credential.clone();
        self.keys.insert(key.access_key.clone(), key);
    }

    /// Gives the instance another role: the old one's path is gone, its credentials are refused.
    pub(crate) fn swap_role(&mut self, id: &str, role: &str) {
        if let Some(i) = self.instances.get_mut(id) {
            i.role = Some(role.into());
            let old = i.credential.access_key.clone();
            self.keys.remove(&old);
        }
        self.rotate_credentials(id);
    }

    /// Sets the state of an instance (`running`, `stopped`, …).
    pub(crate) fn set_instance_state(&mut self, id: &str, state: &str) {
        if let Some(i) = self.instances.get_mut(id) {
            i.state = state.into();
            i.running_at_ms = None;
        }
    }

    /// EC2 does not know this instance for so long (eventual consistency right after its launch).
    pub(crate) fn forget_instance(&mut self, id: &str, ms: u64) {
        let until = self.now_ms() + ms;
        if let Some(i) = self.instances.get_mut(id) {
            i.unknown = true;
            i.known_at_ms = Some(until);
        }
    }

    /// Sets the public addresses of the primary interface.
    pub(crate) fn set_public(&mut self, id: &str, ipv4: &[&str], ipv6: &[&str]) {
        let list = |v: &[&str]| v.iter().map(|a| a.to_string()).collect();
        if let Some(n) = self.instances.get_mut(id).and_then(|i| i.nics.first_mut()) {
            n.public_ipv4s = list(ipv4);
            n.ipv6s = list(ipv6);
        }
    }

    /// Terminates an instance: its attachments begin to detach (or, for the root volume, go with it).
    pub(crate) fn terminate(&mut self, id: &str) {
        self.set_instance_state(id, "terminated");
        self.drop_addresses(id);
        let now = self.now_ms();
        let wait = self.knobs.detaching_ms;
        for v in self.volumes.values_mut() {
            for a in v.attachments.iter_mut().filter(|a| a.instance == id) {
                a.state = "detaching".into();
                a.due = Some(now + wait);
                a.force = true;
            }
        }
    }

    /// The ARN that refusals name.
    pub(crate) fn caller_arn(&self, key: &Credential) -> String {
        match &key.instance {
            Some(id) => {
                let role = self.instances.get(id).and_then(|i| i.role.clone()).unwrap_or_default();
                format!("arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{id}")
            }
            None => format!("arn:aws:iam::{ACCOUNT}:user/tester"),
        }
    }
}
