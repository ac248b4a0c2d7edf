//! Device names: which are the same, and which are free.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/device_naming.html>

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
/// what is in use.
pub(crate) fn free_names(in_use: &[String]) -> impl Iterator<Item = String> + '_ {
    let two = ('b'..='c').flat_map(|a| ('a'..='z').map(move |b| format!("/dev/xvd{a}{b}")));
    let one = ('f'..='p').map(|a| format!("/dev/sd{a}"));
    two.chain(one).filter(|n| !in_use.iter().any(|u| same_device(u, n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_slots() {
        assert!(same_device("/dev/sdf", "/dev/xvdf") && same_device("xvdf", "/dev/xvdf"));
        assert!(!same_device("/dev/sdf", "/dev/sdg"));
        let used = ["/dev/xvdba".to_owned(), "/dev/xvdf".to_owned()];
        let free: Vec<String> = free_names(&used).collect();
        assert_eq!(free.first().map(String::as_str), Some("/dev/xvdbb"));
        assert!(!free.contains(&"/dev/sdf".to_owned()));
        assert_eq!(free.len(), 52 + 11 - 2);
    }
}

#[cfg(test)]
mod properties;
