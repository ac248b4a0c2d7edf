//! The last line of a shutdown: it names what was not done.

/// So many things are named.
const NAMED: usize = 6;

/// `whole` where nothing is `undone`; else `begin, but …`, and `then` after that.
pub(crate) fn last_line(whole: &str, begin: &str, then: &str, undone: &[String]) -> String {
    if undone.is_empty() {
        return whole.to_owned();
    }
    let mut named: Vec<&str> = undone.iter().take(NAMED).map(String::as_str).collect();
    let more = undone.len() - named.len();
    let more = if more > 0 { format!("{more} more") } else { String::new() };
    if !more.is_empty() {
        named.push(&more);
    }
    let all = match named.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => named.concat(),
    };
    format!("{begin}, but {all}{then}")
}

/// What could not be done, without the reason, which was told when it happened.
pub(crate) fn in_short(text: &str) -> String {
    let what = text.split_once(": ").map_or(text, |(what, _)| what);
    if let Some(of) = what.strip_prefix("cannot make a snapshot of ") {
        return format!("no snapshot of {of} was made");
    }
    match what.split_once(" stays attached") {
        Some((volume, _)) => format!("{volume} is still attached"),
        None => what.strip_suffix(" stays").map_or_else(|| what.to_owned(), |what| format!("{what} is still there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_what_was_not_done() {
        let line = |undone: &[&str]| {
            let undone: Vec<String> = undone.iter().map(|u| (*u).to_owned()).collect();
            last_line("interrupted: done; it runs", "interrupted", "; it runs", &undone)
        };
        assert_eq!(line(&[]), "interrupted: done; it runs");
        assert_eq!(line(&["vol-1 is still attached"]), "interrupted, but vol-1 is still attached; it runs");
        assert_eq!(line(&["a", "b", "c"]), "interrupted, but a, b and c; it runs");
        assert_eq!(
            line(&["1", "2", "3", "4", "5", "6", "7", "8"]),
            "interrupted, but 1, 2, 3, 4, 5, 6 and 2 more; it runs"
        );
    }

    #[test]
    fn without_the_reason() {
        let cases = [
            ("vol-1 stays attached: /dev/nvme1n1 is still in use, held by process 7 (x)", "vol-1 is still attached"),
            ("vol-1 stays attached as /dev/xvdf: cannot detach it", "vol-1 is still attached"),
            ("vol-1 may be attached still: no answer", "vol-1 may be attached still"),
            (
                "a.example.com. AAAA 2001:db8::1 in hosted zone Z1 stays: cannot delete it",
                "a.example.com. AAAA 2001:db8::1 in hosted zone Z1 is still there",
            ),
            ("cannot make a snapshot of vol-1: denied", "no snapshot of vol-1 was made"),
            ("something else", "something else"),
        ];
        for (text, short) in cases {
            assert_eq!(in_short(text), short);
        }
    }
}
