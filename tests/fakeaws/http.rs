//! HTTP/1.1 by hand, for one connection: requests with `Content-Length` or chunks, `Expect: 100-continue`, keep-alive.
//!
//! Everything that a peer sends is bounded. What this file does not know is what a request means.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const HEAD_LIMIT: usize = 64 << 10;
const BODY_LIMIT: usize = 4 << 20;

/// One side of a connection, with or without TLS.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ServerConnection, TcpStream>>),
}

impl Stream {
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(s) => s,
            Stream::Tls(s) => &s.sock,
        }
    }

    /// Ends the connection so that the peer sees a reset, not an orderly end.
    pub(crate) fn reset(self) {
        let _ = rustix::net::sockopt::set_socket_linger(self.socket(), Some(Duration::ZERO));
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(s) => s.read(buf),
            Stream::Tls(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(s) => s.write(buf),
            Stream::Tls(s) => s.write(buf),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(s) => s.flush(),
            Stream::Tls(s) => s.flush(),
        }
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// The path, still percent-encoded.
    pub(crate) path: String,
    /// The query without `?`, still percent-encoded.
    pub(crate) query: String,
    /// Names in lower case, in the order of arrival.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The value of a header (the first of that name).
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Response {
        Response { status, headers: vec![("Content-Type".into(), content_type.into())], body: body.into() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Response {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Writes it in one piece; `date` is the value of the `Date` header.
    pub(crate) fn send(&self, out: &mut Stream, date: &str, head_only: bool) -> io::Result<()> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            412 => "Precondition Failed",
            500 => "Internal Server Error",
            503 => "Service Unavailable",
            _ => "Other",
        };
        let mut text = format!("HTTP/1.1 {} {reason}\r\nDate: {date}\r\n", self.status);
        for (n, v) in &self.headers {
            text.push_str(&format!("{n}: {v}\r\n"));
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        let mut bytes = text.into_bytes();
        if !head_only {
            bytes.extend_from_slice(&self.body);
        }
        out.write_all(&bytes)?;
        out.flush()
    }
}

/// Reads requests from one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    buffer: Vec<u8>,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

impl Connection {
    pub(crate) fn new(stream: Stream) -> Connection {
        Connection { stream, buffer: Vec::new() }
    }

    /// The next request; `None` when the peer has ended, `stop` is set or nothing came for `idle`.
    pub(crate) fn next(&mut self, stop: &AtomicBool, idle: Duration) -> io::Result<Option<Request>> {
        let begin = Instant::now();
        let head_end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if self.buffer.len() > HEAD_LIMIT {
                return Err(bad("the head of the request is too long"));
            }
            if !self.fill(stop, begin, idle)? {
                return Ok(None);
            }
        };
        let head = String::from_utf8(self.buffer[..head_end].to_vec()).map_err(|_| bad("the head is not UTF-8"))?;
        self.buffer.drain(..head_end + 4);
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or("").split(' ');
        let (Some(method), Some(target), Some("HTTP/1.1")) = (first.next(), first.next(), first.next()) else {
            return Err(bad("not an HTTP/1.1 request line"));
        };
        let mut headers = Vec::new();
        for line in lines {
            let (n, v) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
            headers.push((n.to_ascii_lowercase(), v.trim().to_string()));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request =
            Request { method: method.into(), path: path.into(), query: query.into(), headers, body: Vec::new() };
        if request.header("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue")) {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            self.stream.flush()?;
        }
        let chunked = request.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        request.body = if chunked {
            self.chunks(stop)?
        } else {
            let length = request.header("content-length").unwrap_or("0");
            let length: usize = length.parse().map_err(|_| bad("Content-Length is not a number"))?;
            self.take(length, stop)?
        };
        Ok(Some(request))
    }

    fn fill(&mut self, stop: &AtomicBool, begin: Instant, idle: Duration) -> io::Result<bool> {
        let mut piece = [0u8; 16 << 10];
        loop {
            if stop.load(Ordering::Relaxed) || begin.elapsed() > idle {
                return Ok(false);
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.buffer.extend_from_slice(&piece[..n]);
                    return Ok(true);
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn take(&mut self, length: usize, stop: &AtomicBool) -> io::Result<Vec<u8>> {
        if length > BODY_LIMIT {
            return Err(bad("the body is too long"));
        }
        let begin = Instant::now();
        while self.buffer.len() < length {
            if !self.fill(stop, begin, Duration::from_secs(30))? {
                return Err(bad("the body is not complete"));
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn line(&mut self, stop: &AtomicBool) -> io::Result<String> {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Ok(line);
            }
            if self.buffer.len() > HEAD_LIMIT || !self.fill(stop, begin, Duration::from_secs(30))? {
                return Err(bad("a chunk is not complete"));
            }
        }
    }

    fn chunks(&mut self, stop: &AtomicBool) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line(stop)?;
            let size = line.split(';').next().unwrap_or("").trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| bad("the size of a chunk is not a number"))?;
            if size == 0 {
                while !self.line(stop)?.is_empty() {}
                return Ok(body);
            }
            if body.len() + size > BODY_LIMIT {
                return Err(bad("the body is too long"));
            }
            body.extend(self.take(size, stop)?);
            self.line(stop)?;
        }
    }
}
