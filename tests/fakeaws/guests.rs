//! Instances that are real guests of a virtual machine. Their disks are plugged by whoever runs the machine: the world
//! gives orders, and an attachment is `attached`, or gone, only when its order is reported as carried out.
//!
//! Who runs the machine asks `GET /orders` and answers `POST /obeyed` (see `admin.rs`).

use super::disks;
use super::volumes::{Attachment, Volume};
use super::world::World;

/// One disk to plug into a guest, or to take out of it.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) number: u64,
    pub(crate) plug: bool,
    pub(crate) instance: String,
    pub(crate) volume: String,
    pub(crate) device: String,
    /// What holds the data of the volume.
    pub(crate) file: String,
    pub(crate) done: bool,
}

impl Order {
    fn is_of(&self, v: &Volume, a: &Attachment) -> bool {
        self.volume == v.id && self.instance == a.instance
    }
}

impl World {
    /// Whether the disk of this attachment is one that we have to order. The root disk is there from power-on.
    pub(crate) fn guest_disk(&self, a: &Attachment) -> bool {
        self.instances.get(&a.instance).is_some_and(|i| i.spec.guest && i.root_device != a.device)
    }

    /// Orders a disk to be plugged or taken out.
    pub(crate) fn order(&mut self, plug: bool, v: &Volume, a: &Attachment) {
        self.next_order += 1;
        let order = Order {
            number: self.next_order,
            plug,
            instance: a.instance.clone(),
            volume: v.id.clone(),
            device: a.device.clone(),
            file: disks::backing(self, v).to_string_lossy().into_owned(),
            done: false,
        };
        self.orders.push(order);
    }

    /// Whether an attachment whose time has come must stay as it is, because the guest has yet to follow.
    pub(crate) fn guest_lags(&mut self, v: &Volume, a: &Attachment) -> bool {
        let mine = |plug: bool, o: &Order| o.plug == plug && o.is_of(v, a);
        if !self.orders.iter().any(|o| mine(true, o)) {
            return false;
        }
        if a.state == "attaching" {
            return self.orders.iter().any(|o| mine(true, o) && !o.done);
        }
        match self.orders.iter().find(|o| mine(false, o)).map(|o| o.done) {
            None => self.order(false, v, a),
            Some(false) => {}
            Some(true) => {
                self.orders.retain(|o| !o.is_of(v, a));
                return false;
            }
        }
        true
    }

    /// An order was carried out. False: there is no such order.
    pub(crate) fn obeyed(&mut self, number: u64) -> bool {
        let Some(order) = self.orders.iter_mut().find(|o| o.number == number) else { return false };
        order.done = true;
        let order = order.clone();
        if order.plug {
            self.moment(&order.volume, &order.instance, "disk");
        }
        true
    }
}
