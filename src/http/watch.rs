//! Watches a request on its way: was the connection a kept one, and did anything leave or come back? And it sees to it
//! that all of the request ends in time: what ureq reads from a proxy is bounded byte by byte only.
//!
//! ureq does all of a request in the thread that asks for it, so a note per thread is enough.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};
use ureq::{Error, Timeout};

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
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A request begins, which has so much real time.
pub(super) fn begin(real: Duration) {
    SEEN.set(Seen::default());
    UNTIL.set(Instant::now().checked_add(real));
}

/// The same, but not longer than the request may take.
fn bounded(mut timeout: NextTimeout) -> NextTimeout {
    if let Some(left) = UNTIL.get().map(|until| until.saturating_duration_since(Instant::now()))
        && *timeout.after > left
    {
        (timeout.after, timeout.reason) = (left.into(), Timeout::Global);
    }
    timeout
}

/// What was seen since [`begin`].
pub(super) fn end() -> Seen {
    SEEN.get()
}

/// Counts up whenever what was kept so far leads nowhere any more.
pub(super) type Route = Arc<AtomicU64>;

/// The last link of the chain: the connection stands, TLS included.
#[derive(Debug)]
pub(super) struct WatchConnector(pub(super) Route);

impl<In: Transport> Connector<In> for WatchConnector {
    type Out = Watched<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Watched<In>>, Error> {
        SEEN.set(Seen { fresh: true, sent: false, received: false });
        let now = self.0.load(Ordering::Relaxed);
        Ok(chained.map(|inner| Watched { inner, route: self.0.clone(), made: now }))
    }
}

#[derive(Debug)]
pub(super) struct Watched<T> {
    inner: T,
    route: Route,
    /// What `route` was when it was made.
    made: u64,
}

impl<T: Transport> Transport for Watched<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        SEEN.set(Seen { sent: true, ..SEEN.get() });
        self.inner.transmit_output(amount, bounded(timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let came = self.inner.await_input(bounded(timeout))?;
        if came {
            SEEN.set(Seen { received: true, ..SEEN.get() });
        }
        Ok(came)
    }

    fn is_open(&mut self) -> bool {
        self.made == self.route.load(Ordering::Relaxed) && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
