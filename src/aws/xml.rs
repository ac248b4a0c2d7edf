//! Reading and writing of AWS's XML. Namespaces are passed over: AWS's differ between versions and stand-ins.

use memchr::memchr;
use roxmltree::{Document, Node, ParsingOptions};

/// More elements than any page of ours has: 500 volumes with 50 tags and 16 attachments each stay below it.
const MAX_NODES: u32 = 500_000;

/// More attributes than an element of AWS's has: one or two.
const MAX_ATTRIBUTES: usize = 32;
/// More namespaces than a page declares.
const MAX_NAMESPACES: usize = 64;

/// The document in a body, or why it is none.
pub(crate) fn parse(body: &[u8]) -> Result<Document<'_>, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the answer is not UTF-8".to_owned())?;
    if is_excessive(text) {
        return Err("the answer is not XML of AWS's: too many attributes".to_owned());
    }
    parse_plain(text)
}

/// The document in a text whose tags are known to have no attributes (see [`split`]).
pub(crate) fn parse_plain(text: &str) -> Result<Document<'_>, String> {
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|e| format!("the answer is not XML: {e}"))
}

/// Whether the parser would take minutes and gigabytes: it compares each attribute of an element with all others, and
/// gives each element a copy of the namespaces around it.
fn is_excessive(text: &str) -> bool {
    let mut rest = text;
    let mut namespaces = 0;
    while let Some(at) = memchr(b'<', rest.as_bytes()) {
        rest = &rest[at + 1..];
        // Most tags have no attributes.
        if let Some(end) = memchr(b'>', rest.as_bytes())
            && !rest.as_bytes()[..end].iter().any(|b| matches!(b, b'=' | b'!' | b'?' | b'"' | b'\''))
        {
            rest = &rest[end..];
            continue;
        }
        let skipped = [("!--", "-->"), ("![CDATA[", "]]>"), ("?", "?>")].into_iter().find(|(s, _)| rest.starts_with(s));
        if let Some((start, end)) = skipped {
            rest = rest[start.len()..].split_once(end).map_or("", |(_, after)| after);
            continue;
        }
        let (mut attributes, mut quote) = (0, None);
        let end = rest.bytes().position(|b| {
            match (quote, b) {
                (Some(q), _) if b == q => quote = None,
                (None, b'"' | b'\'') => quote = Some(b),
                (None, b'=') => attributes += 1,
                _ => {}
            }
            (quote.is_none() && b == b'>') || attributes > MAX_ATTRIBUTES
        });
        let tag = &rest[..end.unwrap_or(rest.len())];
        namespaces += if attributes == 0 { 0 } else { tag.matches("xmlns").count() };
        if attributes > MAX_ATTRIBUTES || namespaces > MAX_NAMESPACES {
            return true;
        }
        rest = &rest[tag.len()..];
    }
    false
}

/// The first child element of this name.
pub(crate) fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|c| c.tag_name().name() == name)
}

/// The child elements of this name.
pub(crate) fn children<'a, 'i: 'a>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |c| c.tag_name().name() == name)
}

/// The text of the first child element of this name, if it is not empty.
pub(crate) fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name)?.text().map(str::trim).filter(|t| !t.is_empty())
}

/// The text of an element exactly as it is, also where it is in several pieces (entities, CDATA).
pub(crate) fn whole_text(node: Node<'_, '_>) -> String {
    node.descendants().filter(Node::is_text).filter_map(|n| n.text()).collect()
}

/// The `item`s of the list element of this name: the lists of EC2.
pub(crate) fn items<'a, 'i: 'a>(node: Node<'a, 'i>, list: &str) -> impl Iterator<Item = Node<'a, 'i>> {
    child(node, list).into_iter().flat_map(|l| children(l, "item"))
}

/// Takes a long list out of a document: what is around it, and its items one by one, each a document of its own. A
/// tree of 500 volumes takes ten times the memory of their text; a tree of one takes none to speak of.
///
/// `None` where the text is not as plain as EC2's (comments, attributes, prefixes in the list): then the whole has to be
/// read at once.
pub(crate) fn split<'t>(text: &'t str, list: &str) -> Option<(String, Vec<&'t str>)> {
    let (open, close) = (format!("<{list}>"), format!("</{list}>"));
    let start = text.find(&open)? + open.len();
    let (mut at, mut depth, mut begin) = (start, 0usize, start);
    let mut items = Vec::new();
    loop {
        let tag = at + memchr(b'<', text.as_bytes().get(at..)?)?;
        let end = tag + memchr(b'>', text.as_bytes().get(tag..)?)? + 1;
        let name = text.get(tag + 1..end - 1)?;
        if name.bytes().any(|b| matches!(b, b'!' | b'?' | b'=' | b'"' | b'\'' | b':')) {
            return None;
        }
        match (depth, name) {
            (0, "item") => (depth, begin) = (1, tag),
            (0, n) if text.get(tag..end)? == close && n.starts_with('/') => {
                return Some((format!("{}{}", text.get(..start)?, text.get(tag..)?), items));
            }
            (0, _) => return None,
            (1, "/item") => {
                depth = 0;
                items.push(text.get(begin..end)?);
            }
            (_, n) if n.starts_with('/') => depth = depth.checked_sub(1).filter(|d| *d > 0)?,
            (_, n) if n.ends_with('/') => {}
            _ => depth += 1,
        }
        at = end;
    }
}

/// Text as the content of an element.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // A parser would make a line feed of it.
            '\r' => out.push_str("&#xD;"),
            c => out.push(c),
        }
    }
    out
}

/// What an error answer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) request_id: Option<String>,
}

/// Reads the three shapes of errors: EC2's `Response/Errors/Error`, `ErrorResponse/Error`, and Route 53's
/// `InvalidChangeBatch/Messages`. `None`: not one of them.
pub(crate) fn fault(body: &[u8]) -> Option<Fault> {
    let document = parse(body).ok()?;
    let root = document.root_element();
    let named = |names: &[&str]| root.descendants().find(|n| names.contains(&n.tag_name().name()));
    let text_of = |n: Node<'_, '_>| whole_text(n).trim().to_owned();
    let request_id = named(&["RequestId", "RequestID"]).map(text_of).filter(|t| !t.is_empty());
    if let Some(code) = named(&["Code"]) {
        let message = code.parent().and_then(|p| child(p, "Message")).map(text_of).unwrap_or_default();
        return Some(Fault { code: text_of(code), message, request_id });
    }
    let messages = child(root, "Messages")?;
    let all: Vec<String> = children(messages, "Message").map(text_of).collect();
    Some(Fault { code: root.tag_name().name().to_owned(), message: all.join("; "), request_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_in_three_shapes() {
        let f = |s: &str| fault(s.as_bytes()).map(|f| (f.code, f.message, f.request_id));
        let some = |c: &str, m: &str| Some((c.to_owned(), m.to_owned(), Some("r".to_owned())));
        assert_eq!(
            f(
                "<?xml version=\"1.0\"?><Response><Errors><Error><Code>C</Code><Message>a &lt; b</Message></Error></Errors>\
               <RequestID>r</RequestID></Response>"
            ),
            some("C", "a < b")
        );
        assert_eq!(
            f("<ErrorResponse xmlns=\"u\"><Error><Type>Sender</Type><Code>C</Code><Message>m</Message></Error>\
               <RequestId>r</RequestId></ErrorResponse>"),
            some("C", "m")
        );
        assert_eq!(
            f("<InvalidChangeBatch xmlns=\"u\"><Messages><Message>m</Message><Message>n</Message></Messages>\
               <RequestId>r</RequestId></InvalidChangeBatch>"),
            some("InvalidChangeBatch", "m; n")
        );
        for other in ["", "<html><body>502</body></html>", "{}", "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>"] {
            assert_eq!(f(other), None, "{other}");
        }
    }

    #[test]
    fn attributes_are_counted_where_they_are() {
        let many = |n: usize, between: &str| format!("<a{}/>", format!("{between}x='='").repeat(n));
        assert!(!is_excessive(&many(32, " ")) && is_excessive(&many(33, " ")) && is_excessive(&many(33, " y='>' ")));
        let spaces = |n: usize| (0..n).map(|n| format!("<a xmlns:n{n}=\"u\">")).collect::<String>();
        assert!(!is_excessive(&spaces(64)) && is_excessive(&spaces(65)));
        let text = "=".repeat(100);
        for plain in [
            format!("<a>{text}</a>"),
            format!("<!-- <{text} --><a x=\"{text}\"><![CDATA[<{text}]]></a>"),
            format!("<?a {text}?><a/>"),
            format!("<a>xmlns{}</a>", " xmlns".repeat(100)),
            "<a 'é".to_owned(),
        ] {
            assert!(!is_excessive(&plain), "{plain}");
        }
        let body = spaces(65);
        assert_eq!(parse(body.as_bytes()).unwrap_err(), "the answer is not XML of AWS's: too many attributes");
    }

    #[test]
    fn a_long_list_is_taken_out_if_it_is_plain() {
        let of = |text| split(text, "l");
        assert_eq!(
            of("<a x=\"1\"><l> <item><b><item/>t</b></item>\n<item></item></l><n>1</n></a>"),
            Some(("<a x=\"1\"><l></l><n>1</n></a>".to_owned(), vec!["<item><b><item/>t</b></item>", "<item></item>"]))
        );
        assert_eq!(of("<a><l></l></a>"), Some(("<a><l></l></a>".to_owned(), vec![])));
        for other in [
            "",
            "<a/>",
            "<a><l/></a>",
            "<l>",
            "<l><item>",
            "<l></item></l>",
            "<l><x></x></l>",
            "<l><!-- --></l>",
            "<l><item/></l>",
            "<l><item a=\"\"></item></l>",
            "<l><item><![CDATA[</item>]]></item></l>",
            "<l><item></b></b></item></l>",
            "<l>é<",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_escaped_is_read_back() {
        let text = "a&b<c>\"d'\r\n é";
        let xml = format!("<a>{}</a>", escape(text));
        assert_eq!(whole_text(parse(xml.as_bytes()).unwrap().root_element()), text);
    }
}

#[cfg(test)]
pub(crate) mod properties;
