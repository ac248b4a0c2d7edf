//! Watches a request on its way: was the connection a kept one, and did anything leave or come back?
//!
//! ureq does all of a request in the thread that asks for it, so a note per thread is enough.

use std::cell::Cell;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// What is known about the request of this thread.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// It got a new connection.
    pub(super) fresh: bool,
    /// Some of it may have left.
    pub(super) sent: bool,
    /// Some of an answer came.
    pub(super) received: bool,
}

thread_local! {
    static SEEN: Cell<Seen> = const { Cell::new(Seen { fresh: false, sent: false, received: false }) };
}

/// A request begins.
pub(super) fn begin() {
    SEEN.set(Seen::default());
}

/// What was seen since [`begin`].
pub(super) fn end() -> Seen {
    SEEN.get()
}

/// The last link of the chain: the connection stands, TLS included.
#[derive(Debug)]
pub(super) struct WatchConnector;

impl<In: Transport> Connector<In> for WatchConnector {
    type Out = Watched<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Watched<In>>, Error> {
        SEEN.set(Seen { fresh: true, sent: false, received: false });
        Ok(chained.map(Watched))
    }
}

#[derive(Debug)]
pub(super) struct Watched<T>(T);

impl<T: Transport> Transport for Watched<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        SEEN.set(Seen { sent: true, ..SEEN.get() });
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let came = self.0.await_input(timeout)?;
        if came {
            SEEN.set(Seen { received: true, ..SEEN.get() });
        }
        Ok(came)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}
