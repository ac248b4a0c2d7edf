//! From text to a tree in which each node knows its place.
//!
//! The grammar is jsonc-parser's, which covers JSON5 except for escapes and combining marks in unquoted keys. It takes
//! a little more than JSON5: unquoted keys with dashes or only digits, and line ends inside strings. What it does not
//! see to is done here: duplicate keys, nesting, size, and the values of numbers.

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::ParseErrorKind;
use jsonc_parser::{CollectOptions, ParseOptions, ParseStringErrorKind, parse_to_ast};

use super::problem::{Findings, Found, item_path, key_path};

/// Bigger texts are refused.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// Deeper nesting is refused. (The parser itself gives up at 512, before the stack does.)
const MAX_DEPTH: usize = 64;

/// A value and the offset where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) value: Value,
}

/// A value of JSON5.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// Every number that is a whole one, however it is written (`3`, `3.0`, `0x3`).
    Integer(i64),
    /// Other numbers, `Infinity` and `NaN` among them.
    Float(f64),
    String(String),
    Array(Vec<Node>),
    Object(Vec<Prop>),
}

/// One key of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prop {
    pub(super) at: usize,
    pub(super) key: String,
    pub(super) value: Node,
}

impl Node {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "a whole number",
            Value::Float(f) if f.is_finite() => "a fraction",
            Value::Float(_) => "a number that is not finite",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        }
    }
}

/// Reads `text` (without a byte order mark). Duplicate keys are added to `found`, and the first one counts; a text that
/// cannot be read at all is the error.
pub(super) fn parse(text: &str, found: &mut Findings) -> Result<Node, Found> {
    if text.len() > MAX_BYTES {
        return Err(Found::new("", 0, format!("the config has {} bytes, {MAX_BYTES} are allowed", text.len())));
    }
    let options = ParseOptions { allow_missing_commas: false, ..ParseOptions::default() };
    let parsed = parse_to_ast(text, &CollectOptions::default(), &options)
        .map_err(|e| Found::new("", e.range().start, syntax(e.kind())))?;
    let Some(root) = parsed.value else {
        return Err(Found::new("", 0, "the config is empty: an object ({ … }) is wanted"));
    };
    node(root, "", 1, found)
}

fn syntax(kind: &ParseErrorKind) -> String {
    use ParseErrorKind as K;
    match kind {
        K::ExpectedComma => "a comma is missing here".into(),
        K::ExpectedColonAfterObjectKey => "a colon is missing after the key".into(),
        K::UnterminatedObject => "this { is never closed".into(),
        K::UnterminatedArray => "this [ is never closed".into(),
        K::UnterminatedCommentBlock => "this comment is never closed".into(),
        K::String(ParseStringErrorKind::UnterminatedStringLiteral) => "this string is never closed".into(),
        K::NestingDepthExceeded => too_deep(),
        K::MultipleRootJsonValues => "there is something after the end of the config".into(),
        K::UnexpectedToken | K::UnexpectedTokenInObject | K::UnexpectedWord => "this cannot stand here".into(),
        other => {
            let text = other.to_string();
            let mut chars = text.chars();
            chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
        }
    }
}

fn too_deep() -> String {
    format!("nested more than {MAX_DEPTH} deep")
}

fn node(value: ast::Value<'_>, path: &str, depth: usize, found: &mut Findings) -> Result<Node, Found> {
    let at = value.range().start;
    if depth > MAX_DEPTH && matches!(value, ast::Value::Array(_) | ast::Value::Object(_)) {
        return Err(Found::new(path, at, too_deep()));
    }
    let value = match value {
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::BooleanLit(b) => Value::Bool(b.value),
        ast::Value::StringLit(s) => Value::String(s.value.into_owned()),
        ast::Value::NumberLit(n) => number(n.value),
        ast::Value::Array(a) => {
            let elements = a.elements.into_iter().enumerate();
            Value::Array(
                elements.map(|(i, e)| node(e, &item_path(path, i), depth + 1, found)).collect::<Result<_, _>>()?,
            )
        }
        ast::Value::Object(o) => {
            let mut props: Vec<Prop> = Vec::with_capacity(o.properties.len());
            let mut seen = std::collections::HashSet::new();
            for p in o.properties {
                let at = p.name.range().start;
                let key = p.name.into_string();
                let path = key_path(path, &key);
                if !seen.insert(key.clone()) {
                    found.push(Found::new(&path, at, "this key is there twice"));
                }
                let value = node(p.value, &path, depth + 1, found)?;
                props.push(Prop { at, key, value });
            }
            Value::Object(props)
        }
    };
    Ok(Node { at, value })
}

fn number(text: &str) -> Value {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).map(i128::from).map_err(|_| f64::INFINITY),
        None => digits
            .parse::<u64>()
            .map(i128::from)
            .map_err(|_| if digits == "Infinity" { f64::INFINITY } else { digits.parse().unwrap_or(f64::NAN) }),
    };
    match magnitude {
        Ok(whole) => {
            let whole = if negative { -whole } else { whole };
            i64::try_from(whole).map_or(Value::Float(whole as f64), Value::Integer)
        }
        // Exact: below 2^53 every whole f64 is an i64.
        Err(f) if f.fract() == 0.0 && f < 9_007_199_254_740_992.0 => {
            Value::Integer(if negative { -(f as i64) } else { f as i64 })
        }
        Err(f) => Value::Float(if negative { -f } else { f }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        let mut found = Findings::default();
        let root = parse(text, &mut found).map_err(|f| format!("{}: {}", f.at, f.text))?;
        match found.shown(text).0.first() {
            Some(f) => Err(format!("{} at {}: {}", f.path, f.column - 1, f.text)),
            None => Ok(root.value),
        }
    }

    #[test]
    fn numbers() {
        for (text, want) in [
            ("0", Value::Integer(0)),
            ("-0", Value::Integer(0)),
            ("+7", Value::Integer(7)),
            ("0x1F", Value::Integer(31)),
            ("-0X10", Value::Integer(-16)),
            ("5.", Value::Integer(5)),
            (".5", Value::Float(0.5)),
            ("-.5", Value::Float(-0.5)),
            ("1e3", Value::Integer(1000)),
            ("300.0", Value::Integer(300)),
            ("1E-1", Value::Float(0.1)),
            ("-9223372036854775808", Value::Integer(i64::MIN)),
            ("18446744073709551615", Value::Float(18446744073709551615.0)),
            ("-Infinity", Value::Float(f64::NEG_INFINITY)),
            ("1e999", Value::Float(f64::INFINITY)),
            ("0xFFFFFFFFFFFFFFFFFFFFF", Value::Float(f64::INFINITY)),
        ] {
            assert_eq!(read(text).unwrap(), want, "{text}");
        }
        assert!(matches!(read("NaN").unwrap(), Value::Float(f) if f.is_nan()));
        for text in ["010", ".", "1.2.3", "1e", "0x", "+ 1", "--1", "1_000"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn strings_keys_and_comments() {
        let s = |s: &str| Value::String(s.into());
        for (text, want) in [
            (r#""\x41\0\v\a\'\"\u00e9\ud83d\ude00\/""#, s("A\0\u{b}a'\"é😀/")),
            ("'it is \"so\"'", s("it is \"so\"")),
            ("'one \\\nline \\\r\nonly'", s("one line only")),
            ("// c\n/* d */ \u{a0}\u{2028}'x' // e", s("x")),
        ] {
            assert_eq!(read(text).unwrap(), want, "{text}");
        }
        let Value::Object(props) = read("{a: 1, $b_2: 2, 'c d': 3, é: 4, attach-volume: 5, \"\": 6,}").unwrap() else {
            panic!()
        };
        let keys: Vec<&str> = props.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["a", "$b_2", "c d", "é", "attach-volume", ""]);
        assert_eq!((props[2].at, props[2].value.at), (16, 23));
    }

    #[test]
    fn errors() {
        for (text, want) in [
            ("", "0: the config is empty: an object ({ … }) is wanted"),
            (" // only this\n", "0: the config is empty: an object ({ … }) is wanted"),
            ("[1 2]", "2: a comma is missing here"),
            ("{a 1}", "3: a colon is missing after the key"),
            ("{a}", "1: this cannot stand here"),
            ("{\"a\" 1}", "5: a colon is missing after the key"),
            ("{a: 1", "0: this { is never closed"),
            ("{a: [1}", "6: unexpected close brace"),
            ("[1", "0: this [ is never closed"),
            ("/* x", "0: this comment is never closed"),
            ("{'a", "1: this string is never closed"),
            ("{} {}", "3: there is something after the end of the config"),
            ("[tru]", "1: this cannot stand here"),
            ("[,]", "1: unexpected comma"),
            ("'\\u12'", "1: expected four hex digits"),
            ("{a: 1, b: {a: 2, 'a': 3}}", "b.a at 17: this key is there twice"),
            ("[{'x y': 1, 'x y': 2}]", "[0].\"x y\" at 12: this key is there twice"),
        ] {
            assert_eq!(read(text).unwrap_err(), want, "{text}");
        }
    }

    #[test]
    fn bounds() {
        for (open, close) in [("[", "]"), ("{a:", "}")] {
            let nested = |n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
            assert!(read(&nested(MAX_DEPTH)).is_ok());
            assert_eq!(
                read(&nested(MAX_DEPTH + 1)).unwrap_err(),
                format!("{}: nested more than 64 deep", open.len() * 64)
            );
            for n in [600, 100_000] {
                assert!(read(&nested(n)).unwrap_err().ends_with(": nested more than 64 deep"));
                assert!(read(&open.repeat(n)).is_err());
            }
        }
        assert!(read(&format!("'{}'", "x".repeat(MAX_BYTES - 2))).is_ok());
        assert_eq!(
            read(&format!("'{}'", "x".repeat(MAX_BYTES))).unwrap_err(),
            "0: the config has 1048578 bytes, 1048576 are allowed"
        );
    }

    #[test]
    fn mutilated_text_never_panics() {
        let text = "{a: [1, .5, 0x1F, -Infinity], 'b\\x41é': \"\\ud83d\\ude00\\\n\", /* ü */ c: {d: null}, // x\n}";
        let mut state = 1u32;
        for _ in 0..20_000 {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..3 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let i = (state >> 8) as usize % bytes.len().max(1);
                if bytes.is_empty() {
                    break;
                }
                match state & 3 {
                    0 => drop(bytes.remove(i)),
                    1 => bytes.truncate(i.max(1)),
                    _ => bytes[i] = b"{}[]'\"\\,:/*x0-+.\n\xc3\xa9"[(state >> 20) as usize % 19],
                }
            }
            let _ = read(&String::from_utf8_lossy(&bytes));
        }
    }
}
