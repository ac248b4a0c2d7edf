//! User data as it comes: plain, gzip, base64 or MIME multipart, in any sensible combination.
//!
//! The order is cloud-init's: base64 (only if the whole body is), gzip, MIME. User data may hold secrets, so none of
//! it goes into an error.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::gzip;
use super::json5::MAX_BYTES;
use super::mime::{self, Entity};

/// Encodings inside encodings (base64 of gzip, a part that is gzip, …); nobody needs more.
const MAX_LAYERS: usize = 4;

/// The type of our part of a multipart.
pub(super) const PART_TYPE: &str = "text/x-ec2fleetd";

/// What user data holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// Nothing but white space.
    Empty,
    /// The text of a config.
    Config(String),
}

/// Finds the config in user data (or in a file).
pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, UserDataError> {
    // Base64 of the largest config, with its line ends.
    if bytes.len() > MAX_BYTES * 2 {
        return Err(UserDataError::TooLarge);
    }
    layer(bytes, MAX_LAYERS)
}

fn layer(bytes: &[u8], layers: usize) -> Result<Decoded, UserDataError> {
    let inner = |bytes: Vec<u8>| match layers {
        0 => Err(UserDataError::Layers),
        _ if bytes.len() > MAX_BYTES => Err(UserDataError::TooLarge),
        _ => layer(&bytes, layers - 1),
    };
    let trimmed = bytes.trim_ascii();
    if trimmed.is_empty() {
        return Ok(Decoded::Empty);
    }
    if let Some(compressed) = magic(trimmed) {
        return Err(UserDataError::Compression(compressed));
    }
    // White space in front is no part of a compressed body, so the magic counts at its first byte only.
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return inner(gzip::unpack(bytes, MAX_BYTES)?);
    }
    if let Some(decoded) = base64(trimmed) {
        return inner(decoded);
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.iter().take(64).any(|b| *b == 0) {
        return Err(UserDataError::Utf16);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if let Some(message) = mime::message(bytes) {
        return match our_part(&message)? {
            Some(part) => inner(part),
            None => Err(UserDataError::NoPart),
        };
    }
    let text = std::str::from_utf8(bytes).map_err(|e| UserDataError::NotUtf8 { at: e.valid_up_to() })?;
    if text.trim().is_empty() {
        return Ok(Decoded::Empty);
    }
    if let Some(what) = foreign(text) {
        return Err(UserDataError::Foreign(what));
    }
    if text.len() > MAX_BYTES {
        return Err(UserDataError::TooLarge);
    }
    Ok(Decoded::Config(text.to_owned()))
}

/// Strict: the whole body, with padding. A config cannot be taken for it, since it has a brace.
fn base64(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.iter().any(|b| !b.is_ascii_alphanumeric() && !b"+/=\r\n \t".contains(b)) {
        return None;
    }
    let packed: Vec<u8> = bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    BASE64.decode(packed).ok()
}

/// Compressions that others know.
fn magic(bytes: &[u8]) -> Option<&'static str> {
    [(&b"BZh"[..], "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip")]
        .into_iter()
        .find(|(magic, _)| bytes.starts_with(magic))
        .map(|(_, name)| name)
}

/// The content of the only part of our type.
fn our_part(message: &Entity<'_>) -> Result<Option<Vec<u8>>, UserDataError> {
    let mut parts = Vec::new();
    mime::leaves(message, &mut parts).map_err(UserDataError::Mime)?;
    let mut ours = parts.into_iter().filter(|p| p.media_type().eq_ignore_ascii_case(PART_TYPE));
    match (ours.next(), ours.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(UserDataError::TwoParts),
        (Some(part), None) => Ok(Some(part.content().map_err(UserDataError::Mime)?)),
    }
}

/// What a text plainly is, if it is for somebody else.
fn foreign(text: &str) -> Option<&'static str> {
    let text = text.trim_start();
    [
        ("#!", "a script (#!)"),
        ("#cloud-config", "for cloud-init (#cloud-config)"),
        ("#include", "for cloud-init (#include)"),
        ("#cloud-boothook", "for cloud-init (#cloud-boothook)"),
        ("#part-handler", "for cloud-init (#part-handler)"),
        ("## template:", "for cloud-init (## template)"),
        ("#", "text that begins with #"),
        ("<", "for Windows or XML (<…>)"),
    ]
    .into_iter()
    .find(|(start, _)| text.get(..start.len()).is_some_and(|t| t.eq_ignore_ascii_case(start)))
    .map(|(_, what)| what)
}

/// Why there is no config in user data. None of the variants holds user data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UserDataError {
    /// Before or after decoding.
    TooLarge,
    /// Looks like gzip and is not.
    Gzip,
    /// A compression that is not gzip.
    Compression(&'static str),
    /// Too many encodings inside each other.
    Layers,
    /// A text of two-byte characters (or no text at all).
    Utf16,
    /// No text.
    NotUtf8 {
        /// The offset of the first wrong byte.
        at: usize,
    },
    /// Something for another program.
    Foreign(&'static str),
    /// A multipart without our part.
    NoPart,
    /// A multipart with more than one.
    TwoParts,
    /// A multipart that cannot be read.
    Mime(&'static str),
}

impl fmt::Display for UserDataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instead =
            format!("put the config beside it as a MIME part of type {PART_TYPE}, or into a file for --userdata=FILE");
        match self {
            UserDataError::TooLarge => write!(f, "the user data is too large: a config has at most {MAX_BYTES} bytes"),
            UserDataError::Gzip => write!(f, "the user data begins like gzip but cannot be unpacked"),
            UserDataError::Compression(c) => write!(f, "the user data is {c}: pack it with gzip instead"),
            UserDataError::Layers => write!(f, "the user data is encoded more than {MAX_LAYERS} times"),
            UserDataError::Utf16 => write!(f, "the user data is no UTF-8 text (UTF-16?): save it as UTF-8"),
            UserDataError::NotUtf8 { at } => {
                write!(f, "the user data is no UTF-8 text (from byte {at} on): save it as UTF-8")
            }
            UserDataError::Foreign(what) => write!(f, "the user data is {what}, not a config: {instead}"),
            UserDataError::NoPart => write!(f, "the user data is a MIME multipart without a part of ours: {instead}"),
            UserDataError::TwoParts => write!(f, "the user data has two parts of type {PART_TYPE}: one is allowed"),
            UserDataError::Mime(what) => write!(f, "the user data is a MIME multipart that cannot be read: {what}"),
        }
    }
}

impl std::error::Error for UserDataError {}

#[cfg(test)]
#[path = "userdata_tests.rs"]
mod tests;
