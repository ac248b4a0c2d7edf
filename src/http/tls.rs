//! TLS by rustls, verified at the *corrected* time.
//!
//! ureq's own connector verifies certificates at the system's time. A machine that boots with a wrong clock could then
//! never reach AWS, not even to learn that its clock is wrong.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::Cause;
use super::provider::provider;
use crate::clock::Clock;

#[derive(Debug)]
struct Corrected(Arc<Clock>);

impl TimeProvider for Corrected {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.corrected().unix_timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// Puts TLS around the connections of `https` URLs.
pub(super) struct TlsConnector(Arc<ClientConfig>);

impl TlsConnector {
    pub(super) fn new(roots: RootCertStore, clock: &Arc<Clock>) -> Result<TlsConnector, rustls::Error> {
        let provider = Arc::new(provider());
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(Corrected(clock.clone())))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A handful of hosts: sessions for 256 would be memory for nothing.
        config.resumption = Resumption::in_memory_sessions(8);
        Ok(TlsConnector(Arc::new(config)))
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|_| Error::Tls("the host is no name for a certificate"))?;
        let mut conn = ClientConnection::new(self.0.clone(), name)?;
        let boxed: Box<dyn Transport> = Box::new(transport);
        let mut sock = TransportAdapter::new(boxed, details.current_time.clone());
        sock.set_timeout(details.timeout);
        // All of the handshake here: a failure of it is a failure to connect, with nothing of the request sent.
        while conn.is_handshaking() {
            conn.complete_io(&mut sock)?;
        }
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(TlsTransport { buffers, stream: StreamOwned::new(conn, sock) })))
    }
}

/// A connection with TLS.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.get_mut().set_timeout(timeout);
        let Some(output) = self.buffers.output().get(..amount) else {
            return Err(Error::Tls("more output than buffer"));
        };
        self.stream.write_all(output)?;
        self.stream.flush()?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// What a TLS error means, and in words.
pub(super) fn describe(e: &rustls::Error) -> (Cause, String) {
    use CertificateError as Bad;
    match e {
        rustls::Error::InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
        ) => (
            Cause::CertificateTime,
            format!("the server's certificate is not valid at this time; is the clock of this machine right? ({e})"),
        ),
        rustls::Error::InvalidCertificate(_) => (
            Cause::Certificate,
            format!("the server's certificate is not trusted: {e}; for a private CA set AWS_CA_BUNDLE"),
        ),
        other => (Cause::Broken, format!("TLS: {other}")),
    }
}

#[cfg(test)]
mod tests;
