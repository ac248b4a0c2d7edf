//! What is said of commands that run long, and the `mount` of a second run.

use std::process::Command;

use crate::disks::id;
use crate::kit::{on, one, quoted, seen, sh};
use crate::lab::{How, once};
use crate::loops;
use crate::stalled;

#[test]
fn a_command_that_runs_long_is_told_of_with_its_place_and_its_end() {
    let lab = crate::lab::Lab::new();
    let long = r#"{ argv: ["/bin/sleep", "4"], timeout: 300 }"#.to_owned();
    let blocks = [on(&["started"], &[sh("true")]), on(&["started"], &[sh("true"), long])].join(", ");
    // Four seconds are 100.
    let run = lab.run(&one(&format!("exec: [{blocks}]")), once().rate(25));
    run.ends(0, &["[d] still waiting for /bin/sleep (exec[1].lines[1]) to end, since ", "ready: d started"]);
    assert!(run.log.matches("still waiting for ").count() >= 2, "{run}");
    assert!(!run.log.contains("/bin/sh (exec"), "{run}");
    let line = run.log.lines().find(|l| l.contains("still waiting for ")).unwrap();
    assert!(line.contains(" UTC, until ") && line.ends_with(" UTC"), "{line}");
    // For systemd it is the state only as long as it lasts.
    let told = lab.manager.told();
    let status: Vec<&str> = told.lines().filter(|l| l.starts_with("STATUS=")).collect();
    let place = |text: &str| status.iter().rposition(|l| l.contains(text)).unwrap_or_else(|| panic!("{text}: {told}"));
    let long = place("STATUS=d: still waiting for /bin/sleep (exec[1].lines[1]) to end, since ");
    assert!(long < place("STATUS=ready: d started"), "{told}");
}

#[test]
fn a_program_that_cannot_be_loaded_is_given_up_at_its_timeout() {
    let lab = crate::lab::Lab::new();
    let program = lab.file("program", "#!/bin/sh\necho ran >> $LAB/seen\n");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let Some(stalled) = stalled::program(&program) else { return };
    let line = format!("{{ argv: [{}], timeout: 10 }}", quoted(program.to_str().unwrap()));
    let run = lab.run(&one(&format!("exec: [{}]", on(&["starting"], &[line]))), once().rate(10));
    run.ends(1, &["program: it was not loaded within 1", "still waiting for "]);
    // A stop need not wait for it either.
    let line = format!("{{ argv: [{}] }}", quoted(program.to_str().unwrap()));
    let running = lab.start(&one(&format!("exec: [{}]", on(&["starting"], &[line]))), How::default());
    running.says(&lab, "running ");
    running.signal("TERM");
    running.wait(&lab).ends(0, &["program was ended: stopped by a signal", "stopped"]);
    drop(stalled);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(seen(&lab).is_empty());
}

#[test]
fn a_program_that_cannot_be_looked_for_is_given_up_too() {
    let lab = crate::lab::Lab::new();
    let dir = lab.dir.join("stalled");
    std::fs::create_dir_all(&dir).unwrap();
    let Some(stalled) = stalled::directory(&dir) else { return };
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let line = r#"{ argv: ["touch", "seen"], timeout: 10 }"#.to_owned();
    let text = one(&format!("exec: [{}]", on(&["starting"], &[line])));
    lab.run(&text, once().rate(10).env("PATH", &path)).ends(1, &["touch: it was not loaded within 1", "failed: d"]);
    drop(stalled);
    assert!(seen(&lab).is_empty() && !lab.dir.join("seen").exists());
}

#[test]
fn a_check_that_cannot_be_loaded_ends_with_init() {
    let Some((lab, _loops)) = loops::lab(1) else { return };
    let dir = lab.dir.join("bin");
    std::fs::create_dir_all(&dir).unwrap();
    let program = lab.file("bin/fsck.ext4", "#!/bin/sh\nexit 0\n");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let Some(_stalled) = stalled::program(&program) else { return };
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let volume =
        format!(r#"{{ device: "/dev/xvdf", source: "x", "volume-id": "{}", mount: {{ path: "/data" }} }}"#, id(1));
    let text = one(&format!(r#""attach-volume": [{volume}]"#)).replacen('{', "{ timeout: 30,", 1);
    let run = lab.run(&text, once().rate(10).env("PATH", &path));
    run.ends(1, &["fsck.ext4: it was not loaded within "]);
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
}

#[test]
fn a_mount_of_a_second_run_has_succeeded_where_its_volume_is_mounted() {
    let Some((lab, loops)) = loops::lab(1) else { return };
    let (here, there) = (lab.dir.join("mnt"), lab.dir.join("there"));
    std::fs::create_dir_all(&there).unwrap();
    let volume = |line: &str| {
        let exec = if line.is_empty() { String::new() } else { format!("exec: [{{ lines: [{line}] }}]") };
        format!(r#"{{ device: "/dev/xvdf", source: "x", "volume-id": "{}", {exec} }}"#, id(1))
    };
    let text = |exec: &str, line: &str| one(&format!(r#""attach-volume": [{}], exec: [{exec}]"#, volume(line)));
    let mount = |words: &[&str]| format!(r#"{{ argv: {:?} }}"#, [&["mount"], words].concat());
    let point = here.to_str().unwrap();
    let own = text("", &mount(&["{attached_device}", point]));
    lab.run(&own, once()).ends(0, &["ready: d started"]);
    let said = "it is mounted already: exit code 32 counts as success";
    lab.run(&own, once())
        .ends(0, &["attach-volume[0].exec[0].lines[0]: it is mounted already", said, "ready: d started"]);
    // A command of the domain is about its volumes, too.
    let device = loops[0].device.to_str().unwrap();
    let started = |words: &[&str]| text(&on(&["started"], &[mount(words)]), "");
    lab.run(&started(&[device, point]), once()).ends(0, &[said]);
    // It failed on something else than the volume that is there, and at another place.
    for words in [["/dev/null", point], ["LABEL=no-such-label", there.to_str().unwrap()]] {
        let run = lab.run(&started(&words), once());
        assert!(run.code == 1 && !run.log.contains(said), "{words:?} {run}");
    }
    let _ = Command::new("umount").arg(&here).status();
}
