//! Answers of any bytes.
#![no_main]
#![allow(dead_code, unreachable_pub)]

#[path = "../../../src/aws/xml.rs"]
mod xml;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = xml::fault(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let pieces = xml::split(text, "volumeSet");
    // What is taken apart has the items that the whole has.
    if let (Some((_, items)), Ok(document)) = (pieces, xml::parse(data)) {
        let root = document.root_element();
        if xml::child(root, "volumeSet").is_some() && text.matches("<volumeSet>").count() == 1 {
            assert_eq!(xml::items(root, "volumeSet").count(), items.len());
        }
    }
});
