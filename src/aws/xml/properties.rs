//! Answers of any kind are read or refused, whoever sent them.

use proptest::prelude::*;

use super::{child, escape, fault, parse, split, text as text_of, whole_text};
use crate::properties::{bytes, in_time, mutated, settings, text, words};

/// What XML is made of, with AWS's names.
pub(crate) const WORDS: &[&str] = &[
    "<",
    ">",
    "</",
    "/>",
    "<a>",
    "</a>",
    "<a/>",
    "&",
    "&lt;",
    "&#0;",
    "&#x41;",
    "&#xffffffffff;",
    "<![CDATA[",
    "]]>",
    "<!--",
    "-->",
    "<?xml version=\"1.0\"?>",
    "<!DOCTYPE a [<!ENTITY b \"&b;\">]>",
    " xmlns=\"u\"",
    " xmlns:p=\"u\"",
    "<p:a",
    " x='1'",
    "=",
    "\"",
    "é",
    "\0",
    "\n",
    "<Code>",
    "</Code>",
    "<Message>",
    "</Message>",
    "<item>",
    "</item>",
    "<volumeSet>",
    "</volumeSet>",
    "<tagSet>",
    "</tagSet>",
    "<Name>",
    "</Name>",
    "<TTL>",
    "</TTL>",
    "-1",
    "99999999999999999999",
    "true",
];

const SEEDS: &[&str] = &[
    "<?xml version=\"1.0\"?><Response><Errors><Error><Code>C</Code><Message>a &lt; b</Message></Error></Errors><RequestID>r</RequestID></Response>",
    "<ErrorResponse xmlns=\"u\"><Error><Type>Sender</Type><Code>C</Code><Message>m</Message></Error><RequestId>r</RequestId></ErrorResponse>",
    "<InvalidChangeBatch xmlns=\"u\"><Messages><Message>m</Message><Message>n</Message></Messages><RequestId>r</RequestId></InvalidChangeBatch>",
];

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn an_error_of_anything(
        b in prop_oneof![bytes(), mutated(SEEDS, WORDS), words(WORDS, 30).prop_map(String::into_bytes)],
    ) {
        in_time(|| fault(&b));
        if let Ok(document) = in_time(|| parse(&b)) {
            let root = document.root_element();
            prop_assert!(whole_text(root).len() <= b.len());
            prop_assert!(child(root, "a").is_none_or(|c| text_of(c, "a").is_none_or(|t| t.len() <= b.len())));
        }
        if let Ok(text) = std::str::from_utf8(&b)
            && let Some((frame, items)) = in_time(|| split(text, "volumeSet"))
        {
            prop_assert!(frame.len() + items.iter().map(|i| i.len()).sum::<usize>() <= text.len());
        }
    }

    #[test]
    fn what_is_escaped_is_read_back_whatever_it_is(t in text()) {
        let xml = format!("<a>{}</a>", escape(&t));
        // Some characters cannot be written in XML at all.
        if let Ok(document) = parse(xml.as_bytes()) {
            prop_assert_eq!(whole_text(document.root_element()), t);
        } else {
            prop_assert!(t.contains(|c: char| c < ' ' || ('\u{fffe}'..='\u{ffff}').contains(&c)), "{:?}", t);
        }
    }
}

/// Each would overflow the stack or fill the memory if nothing were bounded.
#[test]
fn bombs() {
    let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
    let open = "<a>".repeat(200_000);
    let wide = format!("<a>{}</a>", "<b/>".repeat(600_000));
    let attributes: String = (0..60_000).map(|n| format!(" x{n}=''")).collect();
    let spaces: String = (0..20_000).map(|n| format!("<a xmlns:x{n}='{n}'>")).collect();
    for bomb in [deep, open, wide, format!("<a{attributes}/>"), spaces] {
        assert!(in_time(|| fault(bomb.as_bytes())).is_none());
        in_time(|| split(&bomb, "a"));
    }
}
