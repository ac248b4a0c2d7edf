//! The first network interface: where an elastic address goes.

use super::{Imds, ImdsError};
use crate::scope::Scope;

/// The first network interface, with its first private address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    mac: String,
    /// `eni-…`.
    pub(crate) id: String,
    /// The first of its private IPv4 addresses.
    pub(crate) private_ip: String,
}

impl Imds {
    /// The interface whose MAC address the service gives as the instance's.
    pub(crate) fn first_interface(&self, scope: &Scope) -> Result<Interface, ImdsError> {
        let mac = self.needed(scope, "mac")?;
        let id = self.needed(scope, &format!("network/interfaces/macs/{mac}/interface-id"))?;
        let private_ip = self.needed(scope, &format!("network/interfaces/macs/{mac}/local-ipv4s"))?;
        Ok(Interface { mac, id, private_ip })
    }

    /// Which of these public addresses are none of the interface's once its first private address has another one: the one
    /// that stands for it now, and those that are gone since they were read.
    pub(crate) fn replaced(
        &self,
        scope: &Scope,
        interface: &Interface,
        publics: &[String],
    ) -> Result<Vec<String>, ImdsError> {
        let mut replaced = Vec::new();
        for public in publics {
            let leaf = format!("network/interfaces/macs/{}/ipv4-associations/{public}", interface.mac);
            let stays = self.get(scope, &leaf)?.is_some_and(|text| text.trim() != interface.private_ip);
            replaced.extend((!stays).then(|| public.clone()));
        }
        Ok(replaced)
    }

    /// The first line of a leaf that every instance with an IPv4 address has.
    fn needed(&self, scope: &Scope, leaf: &str) -> Result<String, ImdsError> {
        let text = self.get(scope, leaf)?.unwrap_or_default();
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty() || !line.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
            let what = "nothing of use: an elastic address needs an interface with an IPv4 address";
            return Err(ImdsError::Unexpected { path: format!("/latest/meta-data/{leaf}"), what: what.to_owned() });
        }
        Ok(line.to_owned())
    }
}
