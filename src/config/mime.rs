//! As much of MIME (RFC 2045, 2046) as user data needs: headers, multiparts, transfer encodings. No charsets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Multiparts inside multiparts.
const MAX_DEPTH: usize = 3;
/// Parts of all multiparts.
const MAX_PARTS: usize = 100;
/// cloud-init looks so far for the header that makes a message.
const HEADER_WINDOW: usize = 4096;

/// A message or a part: headers and body.
#[derive(Debug, Clone)]
pub(super) struct Entity<'a> {
    content_type: String,
    transfer_encoding: String,
    body: &'a [u8],
}

/// `bytes` as a message, if they begin with headers of which one is MIME's.
pub(super) fn message(bytes: &[u8]) -> Option<Entity<'_>> {
    let start = bytes.trim_ascii_start();
    let first = start.split(|b| *b == b'\n').next()?;
    // `From …` begins a message of a mail box.
    let first_name = first.split(|b| *b == b':').next().filter(|n| n.len() < first.len());
    let is_header =
        first_name.is_some_and(|n| !n.is_empty() && n.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-'));
    if !is_header && !first.starts_with(b"From ") {
        return None;
    }
    let window = start[..start.len().min(HEADER_WINDOW)].to_ascii_lowercase();
    let has = |what: &[u8]| window.windows(what.len()).any(|w| w == what);
    (has(b"mime-version:") || has(b"content-type:")).then(|| entity(start))
}

fn entity(bytes: &[u8]) -> Entity<'_> {
    let mut found = Entity { content_type: String::new(), transfer_encoding: String::new(), body: &[] };
    let mut headers: Vec<String> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |i| i + 1);
        let line = rest[..end].trim_ascii_end();
        rest = &rest[end..];
        if line.is_empty() {
            break;
        }
        let text = String::from_utf8_lossy(line);
        match headers.last_mut() {
            // A header goes on in lines that are indented.
            Some(last) if line[0] == b' ' || line[0] == b'\t' => last.push_str(&text),
            _ => headers.push(text.into_owned()),
        }
    }
    for (name, value) in headers.iter().filter_map(|h| h.split_once(':')) {
        let value = value.trim().to_owned();
        match name.trim().to_ascii_lowercase().as_str() {
            "content-type" => found.content_type = value,
            "content-transfer-encoding" => found.transfer_encoding = value.to_ascii_lowercase(),
            _ => {}
        }
    }
    found.body = rest;
    found
}

impl<'a> Entity<'a> {
    /// Such as `text/plain`.
    pub(super) fn media_type(&self) -> &str {
        self.content_type.split(';').next().unwrap_or("").trim()
    }

    /// The separator of the parts; `Ok(None)` if it is no multipart.
    fn boundary(&self) -> Result<Option<String>, &'static str> {
        if !self.media_type().to_ascii_lowercase().starts_with("multipart/") {
            return Ok(None);
        }
        for parameter in self.content_type.split(';').skip(1) {
            if let Some((name, value)) = parameter.split_once('=')
                && name.trim().eq_ignore_ascii_case("boundary")
            {
                let value = value.trim().trim_matches('"');
                if !value.is_empty() {
                    return Ok(Some(value.to_owned()));
                }
            }
        }
        Err("its Content-Type has no boundary")
    }

    fn parts(&self, boundary: &str) -> Result<Vec<Entity<'a>>, &'static str> {
        let separator = format!("--{boundary}").into_bytes();
        let mut parts = Vec::new();
        let mut part_start: Option<usize> = None;
        let mut offset = 0;
        let mut closed = false;
        for line in self.body.split_inclusive(|b| *b == b'\n') {
            let start = offset;
            offset += line.len();
            let Some(after) = line.strip_prefix(separator.as_slice()).map(<[u8]>::trim_ascii_end) else { continue };
            if !after.is_empty() && after != b"--" {
                continue;
            }
            if let Some(from) = part_start {
                parts.push(entity(line_end_off(&self.body[from..start])));
            }
            part_start = Some(offset);
            closed = after == b"--";
            if closed {
                break;
            }
        }
        match part_start {
            None => Err("its boundary does not occur"),
            // As cut off.
            Some(_) if !closed => Err("its last part is not closed"),
            Some(_) => Ok(parts),
        }
    }

    /// The body, decoded.
    pub(super) fn content(&self) -> Result<Vec<u8>, &'static str> {
        match self.transfer_encoding.as_str() {
            "" | "7bit" | "8bit" | "binary" => Ok(self.body.to_vec()),
            "base64" => {
                let packed: Vec<u8> = self.body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
                BASE64.decode(packed).map_err(|_| "its part of ours is not the base64 that it says to be")
            }
            "quoted-printable" => Ok(quoted_printable(self.body)),
            _ => Err("its part of ours has an unknown Content-Transfer-Encoding"),
        }
    }
}

/// The line end before a separator belongs to the separator.
fn line_end_off(body: &[u8]) -> &[u8] {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    body.strip_suffix(b"\r").unwrap_or(body)
}

/// All parts that are no multiparts themselves.
pub(super) fn leaves<'a>(message: &Entity<'a>, out: &mut Vec<Entity<'a>>) -> Result<(), &'static str> {
    fn walk<'a>(e: &Entity<'a>, depth: usize, out: &mut Vec<Entity<'a>>) -> Result<(), &'static str> {
        let Some(boundary) = e.boundary()? else {
            out.push(e.clone());
            return if out.len() > MAX_PARTS { Err("it has more than 100 parts") } else { Ok(()) };
        };
        if depth == MAX_DEPTH {
            return Err("multiparts are nested more than 3 deep");
        }
        e.parts(&boundary)?.iter().try_for_each(|p| walk(p, depth + 1, out))
    }
    walk(message, 0, out)
}

/// What is not well-formed stays as it is, as the RFC advises.
fn quoted_printable(body: &[u8]) -> Vec<u8> {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let mut out = Vec::with_capacity(body.len());
    let mut i = 0;
    while i < body.len() {
        let rest = &body[i + 1..];
        match (body[i], hex(rest.first()), hex(rest.get(1))) {
            (b'=', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                i += 3;
            }
            // A line end that is not meant.
            (b'=', ..) if rest.starts_with(b"\n") => i += 2,
            (b'=', ..) if rest.starts_with(b"\r\n") => i += 3,
            (b, ..) => {
                out.push(b);
                i += 1;
            }
        }
    }
    out
}
