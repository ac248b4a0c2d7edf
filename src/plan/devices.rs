//! Device names: which are the same, and which are free.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/device_naming.html>

use crate::sys::device_names::Worn;

/// Whether two requested names mean the same slot: `/dev/sdf` and `/dev/xvdf` do.
pub(crate) fn same_device(a: &str, b: &str) -> bool {
    slot(a) == slot(b)
}

fn slot(name: &str) -> String {
    let name = name.strip_prefix("/dev/").unwrap_or(name);
    match name.strip_prefix("sd") {
        Some(rest) => format!("xvd{rest}"),
        None => name.to_owned(),
    }
}

/// The names to try, in order, when a directive leaves its device out: the documented ranges for HVM instances, less
/// what is in use. Those that are `worn` come last, the bad ones last of all, and of them first what is worn longest.
pub(crate) fn free_names(in_use: &[String], worn: &[Worn]) -> Vec<String> {
    let two = ('b'..='c').flat_map(|a| ('a'..='z').map(move |b| format!("/dev/xvd{a}{b}")));
    let one = ('f'..='p').map(|a| format!("/dev/sd{a}"));
    let mut free: Vec<String> = two.chain(one).filter(|n| !in_use.iter().any(|u| same_device(u, n))).collect();
    free.sort_by_cached_key(|n| {
        worn.iter().position(|w| same_device(&w.name, n)).map(|place| (worn[place].bad, place))
    });
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_slots() {
        assert!(same_device("/dev/sdf", "/dev/xvdf") && same_device("xvdf", "/dev/xvdf"));
        assert!(!same_device("/dev/sdf", "/dev/sdg"));
        let used = ["/dev/xvdba".to_owned(), "/dev/xvdf".to_owned()];
        let free = free_names(&used, &[]);
        assert_eq!(free.first().map(String::as_str), Some("/dev/xvdbb"));
        assert!(!free.contains(&"/dev/sdf".to_owned()));
        assert_eq!(free.len(), 52 + 11 - 2);
    }

    #[test]
    fn worn_names_come_last_rather_than_never() {
        let worn = |name: &str, bad| Worn { name: name.to_owned(), bad };
        let list =
            [worn("/dev/xvdbb", true), worn("/dev/xvdbc", false), worn("/dev/sdba", false), worn("/dev/zz", true)];
        let free = free_names(&[], &list);
        assert_eq!((free.len(), free[0].as_str()), (63, "/dev/xvdbd"));
        assert_eq!(free[60..], ["/dev/xvdbc", "/dev/xvdba", "/dev/xvdbb"]);
    }
}

#[cfg(test)]
mod properties;
