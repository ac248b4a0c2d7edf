//! The promises of the manual, *What is never done*: each has its tests, and no line is without.

use std::path::Path;

/// The beginning of each line, and the tests that would fail without it.
const PROMISES: &[(&str, &[&str])] = &[
    ("No forced detachment", &["disks::harmless", "releases::", "rollback::", "lives::"]),
    (
        "No volume is detached from another instance",
        &["disks::harmless", "fences::", "unfinished::what_another_instance_has_used_is_not_deleted"],
    ),
    ("Nothing is formatted", &["mounts_format::", "mounts_encrypted::", "blocks::"]),
    (
        "No volume is deleted that was ever committed",
        &["unfinished::what_another_instance_has_used_is_not_deleted", "recovery::", "volumes_move::", "lives::"],
    ),
    (
        "Nothing that a run has not finished",
        &[
            "unfinished::what_is_rolled_back_is_taken_by_nobody",
            "unfinished::what_its_maker_was_killed_over_is_left_alone_for_an_hour",
            "unfinished_moves::a_copy_whose_maker_died_over_it_is_never_started_on",
            "offers::",
            "lives::",
        ],
    ),
    (
        "Nothing is deleted, detached, tagged or overwritten",
        &[
            "unfinished::the_tags_of_a_commit_are_not_written_on_what_is_anothers",
            "unfinished::a_roll_back_does_not_overwrite_the_tags_of_who_has_it_by_then",
            "unfinished_moves::a_mark_that_comes_late_is_not_written",
            "layers::volumes_and_snapshots_are_changed_in_one_place",
            "records_whose::",
        ],
    ),
    ("After the commit, nothing takes", &["lifecycle::", "events::"]),
    ("No record type but A and AAAA", &["records::", "rollback_records::"]),
    ("The instance is not stopped or terminated", &["disks::harmless", "on_failure_end::"]),
];

/// The lines of that section.
fn promised() -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = text.split("**What is never done**").nth(1).unwrap();
    section.lines().skip(1).take_while(|l| l.starts_with("- ")).map(|l| l[2..].to_owned()).collect()
}

#[test]
fn each_line_of_the_manual_has_its_tests() {
    let lines = promised();
    assert_eq!(lines.len(), PROMISES.len(), "{lines:#?}");
    for (line, (begins, tests)) in lines.iter().zip(PROMISES) {
        assert!(line.starts_with(begins), "'{line}' is not '{begins}'");
        for test in *tests {
            let (module, name) = test.split_once("::").unwrap();
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
            let text = std::fs::read_to_string(dir.join(format!("{module}.rs"))).unwrap();
            let function = format!("fn {name}(");
            let found = if name.is_empty() { text.contains("#[test]") } else { text.contains(&function) };
            assert!(found, "{begins}: there is no {test}");
        }
    }
}
