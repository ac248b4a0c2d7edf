//! The shape of the source: layers that use only those below them, and files with one subject.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The longest file.
const LONGEST: usize = 450;

pub(crate) fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut out);
    out.sort();
    out
}

/// The row of a module (its path from the crate), by the picture at the top of `src/main.rs`.
fn row(path: &[&str]) -> u32 {
    match path {
        ["main"] => 8,
        ["daemon", ..] => 7,
        ["apply" | "notify" | "poll", ..] => 6,
        ["plan" | "exec", ..] => 5,
        ["aws", "ec2" | "route53" | "sns" | "sqs" | "autoscaling", ..] => 4,
        ["aws", ..] => 3,
        ["imds", ..] => 2,
        ["config" | "http" | "sntp" | "sys", ..] => 1,
        ["clock" | "scope" | "log" | "waits" | "model" | "suggest" | "macros" | "cli" | "random" | "parallel", ..] => 0,
        other => panic!("{other:?} is in no layer: add it to src/main.rs and here"),
    }
}

/// `src/aws/ec2/attach.rs` is `aws::ec2::attach`; the modules of tests belong to what they test.
fn module(file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap().with_extension("");
    let mut parts: Vec<String> = relative.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|p| p == "mod" || p == "tests") && parts.len() > 1 {
        parts.pop();
    }
    if let Some(last) = parts.last_mut()
        && let Some(tested) = last.strip_suffix("_tests")
    {
        *last = tested.to_owned();
    }
    parts
}

/// The paths behind `crate::` in a text, with what is in braces.
fn uses(text: &str) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let head: Vec<String> = rest[..end].split("::").filter(|p| !p.is_empty()).map(str::to_owned).collect();
        match rest[end..].strip_prefix('{') {
            Some(list) => {
                let list = &list[..list.find("};").unwrap_or(0)];
                let firsts = list.split([',', '\n', '{', '}']).map(str::trim).filter(|w| !w.is_empty());
                out.extend(
                    firsts.map(|w| head.iter().cloned().chain(w.split("::").map(str::to_owned)).collect::<Vec<_>>()),
                );
            }
            None => out.push(head),
        }
    }
    out
}

#[test]
fn a_module_uses_only_what_is_below_it() {
    let mut wrong = BTreeSet::new();
    let mut seen = 0;
    for file in sources() {
        let of = module(&file);
        let of: Vec<&str> = of.iter().map(String::as_str).collect();
        let text = std::fs::read_to_string(&file).unwrap();
        // A test may use anything: it is no part of the program.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let is_test = ["tests", "properties"].iter().any(|t| file.to_string_lossy().contains(t));
        if is_test || of == ["main"] {
            continue;
        }
        for used in uses(text) {
            let used: Vec<&str> = used.iter().map(String::as_str).collect();
            seen += 1;
            let same = used.first() == of.first() && (of[0] != "aws" || row(&used) == row(&of));
            let (mine, its) = (row(&of), row(&used));
            // The lowest row is one layer; so is each module for its own parts.
            if !(same || its < mine || (its == 0 && mine == 0)) {
                wrong.insert(format!("{} (row {mine}) uses {} (row {its})", of.join("::"), used.join("::")));
            }
        }
    }
    assert!(seen > 100, "only {seen} uses were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_too_long() {
    for file in sources() {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= LONGEST, "{} has {lines} lines", file.display());
    }
}

#[test]
fn the_picture_names_every_module() {
    let main = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs")).unwrap();
    let picture: String = main.lines().take_while(|l| l.starts_with("//!")).collect();
    for m in main.lines().filter_map(|l| l.strip_prefix("mod ")?.strip_suffix(';')) {
        assert!(picture.contains(m), "{m} is not in the picture of src/main.rs");
    }
}

/// What harms others is done in one place, which notes it and asks whether the thing still is ours.
#[test]
fn volumes_and_snapshots_are_changed_in_one_place() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/apply");
    for file in sources().iter().filter(|f| f.starts_with(&src)) {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.strip_prefix(&src).unwrap().display().to_string();
        for call in ["delete_volume", "delete_snapshot", "detach_volume"] {
            assert!(name == "act.rs" || !text.contains(&format!("aws.{call}(")), "{name} calls {call}");
        }
        // Several volumes at once, or from a thread: they note it themselves.
        let tags = ["aws.create_tags(", "aws.delete_tags("].iter().any(|call| text.contains(call));
        assert!(
            !tags || ["act.rs", "tidy.rs", "release.rs", "volume.rs"].contains(&name.as_str()),
            "{name} writes tags"
        );
    }
}

/// What may come to a disk that never answers is in the list of `src/sys/mod.rs`, which says by what it is bounded.
#[test]
fn whatever_may_never_answer_is_in_the_list() {
    // These touch only `/run`, `/dev`, `/proc` and `/sys` (or the file that says that we are ready), or are in a process
    // of their own.
    let harmless = [
        "sys/lock.rs",
        "sys/journal.rs",
        "sys/disk_tree.rs",
        "sys/mkfs.rs",
        "sys/mounted_at.rs",
        "sys/notify.rs",
        "sys/power.rs",
    ];
    let calls = [
        "syncfs(",
        "sync_all(",
        "File::open(",
        ".canonicalize()",
        "fs::stat(",
        "fs::open(",
        "fs::chown(",
        "mount::mount(",
        "mount::unmount(",
        "OpenOptions::new",
        "read_dir(point",
    ];
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let doc = std::fs::read_to_string(src.join("sys/mod.rs")).unwrap();
    let table: Vec<&str> = doc.lines().filter(|l| l.starts_with("//! |")).collect();
    assert!(table.len() > 10, "no list in src/sys/mod.rs");
    let mut named = 0;
    for file in sources() {
        let name = file.strip_prefix(&src).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let of_tests = name.contains("tests") || name.contains("properties");
        let ours = (name.starts_with("sys/") || name.starts_with("apply/")) && !of_tests;
        if !ours || harmless.contains(&name.as_str()) || !calls.iter().any(|c| text.contains(c)) {
            continue;
        }
        let module = module(&file);
        let last = format!("{}::", module.last().unwrap());
        let path = format!("`{}", module[usize::from(module[0] == "sys")..].join("::"));
        assert!(
            table.iter().any(|l| l.contains(&path) || l.contains(&last)),
            "{name} is not in the list of src/sys/mod.rs"
        );
        // Whoever has such a call waits for it only so long.
        assert!(text.contains("beside"), "{name} waits for ever");
        named += 1;
    }
    assert!(named >= 6, "only {named} files were found");
}
