//! Whatever is in the user data: no panic, no hang, no more memory than the config may have.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;

use super::super::json5::MAX_BYTES;
use super::super::userdata::{Decoded, decode};
use super::{WHOLE, load};
use crate::properties::{bytes, in_time, mutated, mutated_text, settings, text, words};

const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "'",
    "\"",
    "\\",
    "//",
    "/*",
    "*/",
    "\n",
    " ",
    "é",
    "\u{2028}",
    "null",
    "true",
    "-",
    "0x",
    "1e999",
    "-1e-999",
    "9223372036854775808",
    "0.5",
    "Infinity",
    "NaN",
    "\\u{",
    "\\ud83d",
    "\\x4",
    "{ami-i}",
    "{{",
    "}}",
    "domains",
    "'attach-volume'",
    "exec",
    "lines",
    "argv",
    "ec",
    "'0-1'",
    "on",
    "notify",
    "envelope",
    "matrix",
    "create",
    "source",
    "'xpc'",
    "device",
    "'/dev/xvdf'",
    "'update-route53'",
    "timeout",
    "x-",
    "$",
    "a",
];

const MIME: &str = "Content-Type: multipart/mixed; boundary=\"b\"\nMIME-Version: 1.0\n\n--b\nContent-Type: text/x-ec2fleetd\n\
    Content-Transfer-Encoding: quoted-printable\n\n{domains: =7B}=\n}\n--b\nContent-Type: multipart/mixed; boundary=c\n\n\
    --c\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\ne30=\n--c--\n--b--\n";
const MIME_WORDS: &[&str] = &[
    "--b",
    "--c",
    "--",
    "\n",
    "\r\n",
    "\n\n",
    " ",
    ":",
    ";",
    "=",
    "\"",
    "Content-Type: ",
    "multipart/mixed; boundary=",
    "text/x-ec2fleetd",
    "Content-Transfer-Encoding: ",
    "base64",
    "quoted-printable",
    "=3",
    "=\r\n",
    "{}",
    "é",
];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// Any text has an end: a config, or problems that are few and short.
fn load_bounded(text: &str) {
    match in_time(|| load(text)) {
        Ok(config) => assert!(config.warnings.len() <= 51, "{} warnings", config.warnings.len()),
        Err(e) => {
            assert!(!e.problems.is_empty());
            let shown = e.to_string();
            assert!(shown.len() < 200_000, "{} bytes of problems", shown.len());
        }
    }
}

fn decode_bounded(bytes: &[u8]) {
    match in_time(|| decode(bytes)) {
        Ok(Decoded::Config(text)) => assert!(text.len() <= MAX_BYTES && !text.trim().is_empty()),
        Ok(Decoded::Empty) => {}
        Err(e) => assert!(e.to_string().len() < 400),
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_config_of_any_text(t in text()) {
        load_bounded(&t);
    }

    #[test]
    fn a_config_of_words(t in words(WORDS, 40)) {
        load_bounded(&t);
    }

    #[test]
    fn a_config_that_was_changed(t in mutated_text(&[WHOLE], WORDS)) {
        load_bounded(&t);
    }

    #[test]
    fn a_config_that_is_deep(opening in 0..3usize, depth in 0..3000usize, inner in words(WORDS, 4), closed: bool) {
        let (open, close) = [("[", "]"), ("{a:", "}"), ("{domains:[", "]}")][opening];
        let close = if closed { close.repeat(depth) } else { String::new() };
        load_bounded(&format!("{}{inner}{close}", open.repeat(depth)));
    }

    #[test]
    fn a_number_of_any_size(
        sign in "[-+]?",
        digits in "(0x)?[0-9a-fA-F]{0,40}",
        rest in "(\\.[0-9]{0,400})?(e[-+]?[0-9]{1,9})?",
    ) {
        for key in ["timeout", "x-other", "hostname"] {
            load_bounded(&format!("{{{key}: {sign}{digits}{rest}}}"));
        }
        load_bounded(&format!("{{domains: {{a: {{'update-route53': [{{hostedzone: 'Z', name: 'n', ttl: {sign}{digits}{rest}}}]}}}}}}"));
    }

    #[test]
    fn exit_codes_of_any_text(t in "[-0-9, +a]{0,16}") {
        let config = load(&super::line(&format!("argv: ['x'], ec: '{t}'")));
        let number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        if let Ok(config) = config {
            let super::ExitCodes::Of(ranges) = &config.domains[0].exec[0].lines[0].ec else { panic!("{t}") };
            prop_assert_eq!(ranges.len(), t.split(',').count());
            for (range, part) in ranges.iter().zip(t.split(',')) {
                prop_assert!(range.start() <= range.end() && part.split('-').all(|n| number(n.trim())), "{}", t);
            }
        } else {
            let good = |part: &str| number(part.trim()) && part.trim().parse::<u32>().is_ok();
            prop_assert!(!t.split(',').all(good), "{} is a list of codes", t);
        }
    }

    #[test]
    fn exit_codes_are_read_as_written(codes in prop::collection::vec((any::<u32>(), any::<u32>()), 1..6), probe: u32) {
        let written: Vec<String> = codes.iter().map(|(a, b)| format!("{} - {}", a.min(b), a.max(b))).collect();
        let config = load(&super::line(&format!("argv: ['x'], ec: '{}'", written.join(",")))).unwrap();
        let inside = |p: u32| codes.iter().any(|(a, b)| (*a.min(b)..=*a.max(b)).contains(&p));
        for p in codes.iter().flat_map(|(a, b)| [*a, *b, a.wrapping_sub(1), b.wrapping_add(1)]).chain([probe]) {
            prop_assert_eq!(config.domains[0].exec[0].lines[0].ec.contains(p), inside(p), "{}", p);
        }
    }

    #[test]
    fn a_device_of_any_name(name in "/?(dev)?/?[a-z0-9/_.-]{0,12}") {
        let text = super::domain(&format!("'attach-volume': [{{source: 'c', create: {{}}, device: '{name}'}}]"));
        if let Ok(config) = load(&text) {
            let device = config.domains[0].volumes[0].device.as_deref().unwrap_or("/dev/x");
            prop_assert!(device.starts_with("/dev/") && !device.contains("//") && !device.contains(".."), "{}", device);
        }
    }

    #[test]
    fn user_data_of_any_bytes(b in bytes()) {
        decode_bounded(&b);
    }

    #[test]
    fn user_data_in_any_layers(
        inner in prop_oneof![bytes(), mutated(&[WHOLE, MIME], WORDS)],
        layers in prop::collection::vec(0..4u8, 0..7),
        hurt in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut data = inner;
        for layer in layers {
            data = match layer {
                0 => gzip(&data),
                1 => BASE64.encode(&data).into_bytes(),
                2 => [&b"Content-Type: multipart/mixed; boundary=q\nMIME-Version: 1.0\n\n--q\nContent-Type: text/x-ec2fleetd\n\n"[..], &data, b"\n--q--\n"].concat(),
                _ => [gzip(&data), gzip(b"x")].concat(),
            };
        }
        if let Some((at, byte)) = hurt && !data.is_empty() {
            let at = at.index(data.len());
            data[at] = byte;
        }
        decode_bounded(&data);
    }

    #[test]
    fn user_data_of_mime_that_was_changed(b in mutated(&[MIME], MIME_WORDS)) {
        decode_bounded(&b);
    }
}

/// Each is small, and would be large or slow if nothing were bounded.
#[test]
fn bombs() {
    let zeros = gzip(&vec![b' '; 8 << 20]);
    let members = gzip(b"").repeat(20_000);
    let parts = format!("{}{}", MIME.split("--b").next().unwrap(), "--b\n".repeat(50_000));
    let nested = (0..500).fold("{}".to_owned(), |inner, n| {
        format!("Content-Type: multipart/mixed; boundary=x{n}\nMIME-Version: 1.0\n\n--x{n}\n{inner}\n--x{n}--\n")
    });
    let folded = format!("Content-Type: multipart/mixed;{}", "\n x".repeat(100_000));
    for bomb in [&zeros, &gzip(&zeros), &members, &parts.into_bytes(), &nested.into_bytes(), &folded.into_bytes()] {
        decode_bounded(bomb);
        decode_bounded(BASE64.encode(bomb).as_bytes());
        decode_bounded(&gzip(bomb));
    }
}
