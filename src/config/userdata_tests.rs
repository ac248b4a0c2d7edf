//! Tests of `userdata` and `mime`.

use std::io::Write;

use super::*;

const CONFIG: &str = "{ /* ü */ domains: {} }";

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    e.write_all(bytes).unwrap();
    e.finish().unwrap()
}

fn b64(bytes: &[u8]) -> Vec<u8> {
    // Wrapped, as base64(1) writes it.
    let lines = BASE64.encode(bytes);
    lines.as_bytes().chunks(76).flat_map(|l| [l, b"\n"].concat()).collect()
}

fn part(headers: &str, body: &[u8]) -> Vec<u8> {
    [b"--=sep\r\n", headers.as_bytes(), b"\r\n\r\n", body, b"\r\n"].concat()
}

fn multipart(parts: &[Vec<u8>]) -> Vec<u8> {
    let head =
        b"Content-Type: multipart/mixed;\r\n boundary=\"=sep\"\r\nMIME-Version: 1.0\r\n\r\npreamble\r\n".to_vec();
    [head, parts.concat(), b"--=sep--\r\n".to_vec()].concat()
}

fn ours(encoding: &str, body: &[u8]) -> Vec<u8> {
    part(&format!("Content-Type: Text/X-ec2fleetd; charset=\"utf-8\"\r\nContent-Transfer-Encoding: {encoding}"), body)
}

fn script() -> Vec<u8> {
    part("Content-Type: text/x-shellscript", b"#!/bin/sh\necho")
}

#[test]
fn every_form_of_a_config() {
    let config = CONFIG.as_bytes();
    let nested = [
        b"--=sep\nContent-Type: multipart/mixed; boundary=in\n\n--in\nContent-Type: text/x-ec2fleetd\n\n".as_slice(),
        config,
        b"\n--in--\n",
    ]
    .concat();
    for (name, bytes) in [
        ("plain", config.to_vec()),
        ("with a byte order mark", [b"\xef\xbb\xbf", config].concat()),
        ("gzip", gz(config)),
        ("two gzip members", [gz(&config[..5]), gz(&config[5..])].concat()),
        ("base64", b64(config)),
        ("base64 of gzip", b64(&gz(config))),
        ("gzip of base64", gz(&b64(config))),
        ("a part", multipart(&[script(), ours("8bit", config)])),
        ("a part without an encoding", multipart(&[part("content-type:text/x-ec2fleetd", config), script()])),
        ("a part in base64", multipart(&[ours("base64", &b64(config))])),
        ("a part in base64 of gzip", multipart(&[ours("BASE64", &b64(&gz(config)))])),
        ("a part in gzip", multipart(&[ours("binary", &gz(config))])),
        ("a part in quoted-printable", multipart(&[ours("quoted-printable", b"{ /* =C3=BC */ =\r\ndomains: {} }")])),
        ("a nested part", multipart(&[nested])),
        ("gzip of a multipart", gz(&multipart(&[ours("7bit", config), script()]))),
        ("base64 of a multipart", b64(&multipart(&[ours("7bit", config)]))),
        ("one part that is all", [b"MIME-Version: 1.0\nContent-Type: text/x-ec2fleetd\n\n", config].concat()),
        ("as from a mail box", [b"From nobody\n", multipart(&[ours("7bit", config)]).as_slice()].concat()),
    ] {
        assert_eq!(decode(&bytes), Ok(Decoded::Config(CONFIG.to_owned())), "{name}");
    }
}

#[test]
fn nothing_is_empty() {
    for bytes in [&b""[..], b" \r\n\t", b"\xef\xbb\xbf\n", &gz(b" "), &multipart(&[ours("7bit", b"\n")])] {
        assert_eq!(decode(bytes), Ok(Decoded::Empty));
    }
}

#[test]
fn what_looks_like_something_else_but_is_a_config() {
    for text in
        ["// mime-version: 1.0\n{}", "{\"content-type\": \"multipart/mixed\"}", "nonsense!", "'Content-Type: x'"]
    {
        assert_eq!(decode(text.as_bytes()), Ok(Decoded::Config(text.to_owned())));
    }
}

#[test]
fn errors_say_what_to_do() {
    let instead =
        "put the config beside it as a MIME part of type text/x-ec2fleetd, or into a file for --userdata=FILE";
    let foreign = |what: &str| format!("the user data is {what}, not a config: {instead}");
    let mime = |what: &str| format!("the user data is a MIME multipart that cannot be read: {what}");
    let too_large = "the user data is too large: a config has at most 1048576 bytes".to_owned();
    let mut four = CONFIG.as_bytes().to_vec();
    for _ in 0..MAX_LAYERS {
        four = gz(&four);
    }
    assert!(decode(&four).is_ok());
    let deep = (0..5).fold(CONFIG.as_bytes().to_vec(), |inner, i| {
        [
            format!("Content-Type: multipart/mixed; boundary=b{i}\n\n--b{i}\n").as_bytes(),
            &inner,
            format!("\n--b{i}--\n").as_bytes(),
        ]
        .concat()
    });
    for (bytes, want) in [
        (b"#!/bin/sh\nsecret".to_vec(), foreign("a script (#!)")),
        (b"\n#cloud-config\nsecret: 1".to_vec(), foreign("for cloud-init (#cloud-config)")),
        (b"#include\nhttp://x".to_vec(), foreign("for cloud-init (#include)")),
        (b"## template: jinja\n#cloud-config".to_vec(), foreign("for cloud-init (## template)")),
        (b"# a comment".to_vec(), foreign("text that begins with #")),
        (b"<powershell>".to_vec(), foreign("for Windows or XML (<\u{2026}>)")),
        (gz(b"#!/bin/sh"), foreign("a script (#!)")),
        (multipart(&[script()]), format!("the user data is a MIME multipart without a part of ours: {instead}")),
        (
            b"Content-Type: text/plain\n\nx".to_vec(),
            format!("the user data is a MIME multipart without a part of ours: {instead}"),
        ),
        (
            multipart(&[ours("7bit", b"{}"), script(), ours("7bit", b"{}")]),
            "the user data has two parts of type text/x-ec2fleetd: one is allowed".into(),
        ),
        (multipart(&[ours("base64", b"!")]), mime("its part of ours is not the base64 that it says to be")),
        (multipart(&[ours("rot13", b"{}")]), mime("its part of ours has an unknown Content-Transfer-Encoding")),
        (b"Content-Type: multipart/mixed\n\n--x\n".to_vec(), mime("its Content-Type has no boundary")),
        (b"Content-Type: multipart/mixed; boundary=x\n\nno".to_vec(), mime("its boundary does not occur")),
        (b"Content-Type: multipart/mixed; boundary=x\n\n--x\n\n{}".to_vec(), mime("its last part is not closed")),
        (deep, mime("multiparts are nested more than 3 deep")),
        (multipart(&vec![script(); 101]), mime("it has more than 100 parts")),
        (gz(&vec![b' '; MAX_BYTES + 1]), too_large.clone()),
        (gz(&vec![b' '; MAX_BYTES * 100]), too_large.clone()),
        (vec![b'{'; MAX_BYTES + 1], too_large.clone()),
        (vec![b' '; MAX_BYTES * 2 + 1], too_large.clone()),
        (b64(&vec![b'{'; MAX_BYTES + 1]), too_large),
        (b"\x1f\x8bsecret".to_vec(), "the user data begins like gzip but cannot be unpacked".into()),
        (gz(CONFIG.as_bytes())[..20].to_vec(), "the user data begins like gzip but cannot be unpacked".into()),
        (b"\xfd7zXZ\0secret".to_vec(), "the user data is xz: pack it with gzip instead".into()),
        (gz(&four), "the user data is encoded more than 4 times".into()),
        (b"\xff\xfe{\0}\0".to_vec(), "the user data is no UTF-8 text (UTF-16?): save it as UTF-8".into()),
        (b"{\0}\0".to_vec(), "the user data is no UTF-8 text (UTF-16?): save it as UTF-8".into()),
        (b"{ 'a': '\xe9' }".to_vec(), "the user data is no UTF-8 text (from byte 8 on): save it as UTF-8".into()),
    ] {
        let error = decode(&bytes).unwrap_err();
        assert_eq!(error.to_string(), want);
        assert!(!format!("{error:?}").contains("secret"));
    }
}

#[test]
fn mutilated_user_data_never_panics() {
    let seeds =
        [multipart(&[script(), ours("quoted-printable", b"{=C3=BC}")]), gz(CONFIG.as_bytes()), b64(CONFIG.as_bytes())];
    let mut state = 7u32;
    for round in 0..20_000 {
        let mut bytes = seeds[round % 3].clone();
        for _ in 0..4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let i = (state >> 8) as usize % bytes.len();
            match state >> 30 {
                0 if bytes.len() > 1 => drop(bytes.remove(i)),
                1 => bytes.truncate(i.max(1)),
                _ => bytes[i] = (state >> 12) as u8,
            }
        }
        let _ = decode(&bytes);
    }
}
