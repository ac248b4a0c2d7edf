//! A disk that somebody holds at a release: it is tried until the step's share is over, and the log says who holds it, until
//! when that is tried, and who holds it next.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::disks::{directive, id};
use crate::kit::{SHORT, on, sh, to_topic};
use crate::lab::{How, Lab, Running, once};
use crate::loops::{Loop, lab, mounts};

/// A process of nobody's that works in a directory.
pub(crate) struct Holder(pub(crate) Child);

impl Holder {
    pub(crate) fn of(dir: &Path) -> Holder {
        let mut sleep = Command::new("sleep");
        sleep.arg("600").current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Holder(sleep.spawn().unwrap())
    }

    /// How the log names it.
    fn name(&self) -> String {
        format!("process {} (sleep): works in ", self.0.id())
    }
}

impl Holder {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.end();
    }
}

fn data(lab: &Lab) -> PathBuf {
    lab.root(&lab.me).join("data")
}

fn clean_up(lab: &Lab) {
    for point in mounts(&lab.dir).iter().rev() {
        let _ = Command::new("umount").arg("--lazy").arg(point).status();
    }
    let _ = Command::new("chattr").arg("-fi").arg(data(lab)).status();
}

/// A daemon that has mounted volume 1 at `/data`, and releases it so.
fn started(release: &str, how: How) -> Option<(Lab, Vec<Loop>, Running)> {
    let (lab, loops) = lab(1)?;
    let rest = format!(r#""volume-id": "{}", mount: {{ path: "/data" }}, release: {release}"#, id(1));
    let text = format!(
        r#"{{ "interrupt-detection": {{ detect: "poll", options: {{ interval: 0.02 }} }}, domains: {{ d: {{
            "attach-volume": [{}], exec: [{}], notify: [{}] }} }} }}"#,
        directive("x", "/dev/xvdf", &rest, "true"),
        on(&["interrupted"], &[sh("echo {daemon_state} >> $LAB/seen")]),
        to_topic(SHORT)
    );
    let running = lab.start(&text, how);
    running.says(&lab, "watching for interruptions");
    Some((lab, loops, running))
}

/// Waits so much longer by the daemon's clock, which runs `rate` times faster.
fn pass(seconds: u64, rate: u32) {
    std::thread::sleep(Duration::from_secs(seconds) / rate);
}

#[test]
fn a_holder_that_ends_in_time_is_waited_for_and_so_is_the_next_one() {
    let Some((lab, _loops, running)) = started(r#"["interrupted"]"#, How::default().rate(10)) else { return };
    let mut first = Holder::of(&data(&lab));
    lab.server.world().notice(&lab.me, "terminate", 120);
    running.says(&lab, "; trying until ");
    assert!(
        running.log().contains("nvme1n1 is still in use, held by mount: ") && running.log().contains(&first.name()),
        "{}",
        running.log()
    );
    pass(15, 10);
    let mut second = Holder::of(&data(&lab));
    first.end();
    running.says(&lab, &second.name());
    pass(15, 10);
    second.end();
    let run = running.wait(&lab);
    run.ends(0, &["unmounted ", &format!("{} is released", id(1))]);
    lab.nothing_left(&run);
    // Each is said, and not at each try.
    let said =
        |who: &Holder| run.log.lines().filter(|l| l.contains("; trying until ") && l.contains(&who.name())).count();
    assert!((1..5).contains(&said(&first)) && (1..5).contains(&said(&second)), "{run}");
    clean_up(&lab);
}

#[test]
fn a_holder_that_stays_is_named_again_and_again_and_what_comes_after_has_its_time() {
    let Some((lab, _loops, running)) = started(r#"["interrupted"]"#, How::default().rate(20)) else { return };
    let holder = Holder::of(&data(&lab));
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(3, &["not released: ", "stays attached", &holder.name()]);
    assert!(run.log.matches("; trying until ").count() >= 2, "{run}");
    assert_eq!((lab.attached(&lab.me).len(), lab.count("DetachVolume")), (1, 0), "{run}");
    drop(holder);
    clean_up(&lab);
}

#[test]
fn with_lazy_it_is_waited_for_as_well_and_time_is_left_to_write_out() {
    for ends in [true, false] {
        let release = r#"{ on: ["interrupted"], lazy: true }"#;
        let Some((lab, _loops, running)) = started(release, How::default().rate(20)) else { return };
        let holder = Holder::of(&data(&lab));
        lab.server.world().notice(&lab.me, "terminate", 120);
        running.says(&lab, &holder.name());
        if ends {
            pass(10, 20);
            drop(holder);
        }
        let run = running.wait(&lab);
        run.ends(0, &["unmounted ", &format!("{} is released", id(1))]);
        assert_eq!(run.log.contains("unmounting lazily, as the config says"), !ends, "{run}");
        lab.nothing_left(&run);
        clean_up(&lab);
    }
}

#[test]
fn a_roll_back_waits_for_a_holder_too() {
    let Some((lab, _loops)) = lab(1) else { return };
    let rest = format!(r#""volume-id": "{}", mount: {{ path: "/data" }}"#, id(1));
    let text = crate::disks::config(&directive("x", "/dev/xvdf", &rest, &format!("{}; exit 5", crate::disks::HOLD)));
    let running = lab.start(&text, once().rate(10));
    lab.until_file("first");
    let holder = Holder::of(&data(&lab));
    lab.file("go", "");
    running.says(&lab, &holder.name());
    pass(15, 10);
    drop(holder);
    let run = running.wait(&lab);
    run.ends(1, &["exit code 5", "unmounted "]);
    lab.nothing_left(&run);
    clean_up(&lab);
}

#[test]
fn a_holder_that_stays_leaves_time_to_roll_back_the_others() {
    let Some((lab, _loops)) = lab(2) else { return };
    let x = |n: u32, rest: &str, script: &str| {
        let device = if n == 1 { "/dev/xvdf" } else { "/dev/xvdg" };
        directive("x", device, &format!(r#""volume-id": "{}"{rest}"#, id(n)), script)
    };
    let last = x(2, r#", mount: { path: "/data" }"#, &format!("{}; exit 5", crate::disks::HOLD));
    let text = crate::disks::config(&format!("{}, {last}", x(1, "", "mount $4 $LAB/mnt")));
    let running = lab.start(&text, once().rate(20));
    lab.until_file("first");
    let holder = Holder::of(&data(&lab));
    lab.file("go", "");
    let run = running.wait(&lab);
    run.ends(3, &[&format!("{} stays attached as /dev/xvdg", id(2)), &holder.name(), &format!("{} detached", id(1))]);
    lab.has(&[(&id(2), "/dev/xvdg")], &run);
    drop(holder);
    clean_up(&lab);
}

#[test]
fn a_disk_that_ec2_calls_busy_is_waited_for_until_the_share_is_over() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    lab.server.world().hold(&all[0]);
    let text = crate::disks::config(&directive("p", "/dev/xvdf", r#""pool-name": "p""#, "exit 1"));
    let running = lab.start(&text, once().rate(10));
    running.says(&lab, "EC2 says busy: ");
    pass(15, 10);
    lab.server.world().release(&all[0]);
    let run = running.wait(&lab);
    run.ends(1, &[&format!("{} detached", all[0])]);
    lab.nothing_left(&run);
}

/// A container's file system: it stands on directories of the volume, and lives on without the mount that they are in.
#[test]
fn an_overlay_whose_layers_are_on_the_volume_is_named() {
    let Some((lab, _loops, running)) = started(r#"["interrupted"]"#, How::default().rate(10)) else { return };
    let (data, merged) = (data(&lab), lab.dir.join("merged"));
    let layers = ["lower, 1:a", "upper dir", "work"].map(|name| data.join(name));
    layers.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    fs::create_dir(&merged).unwrap();
    let escaped = |dir: &PathBuf| dir.display().to_string().replace(',', "\\,").replace(':', "\\:");
    let options =
        format!("lowerdir={},upperdir={},workdir={}", escaped(&layers[0]), escaped(&layers[1]), escaped(&layers[2]));
    let options = std::ffi::CString::new(options).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    if let Err(e) = rustix::mount::mount("overlay", &merged, "overlay", flags, Some(options.as_c_str())) {
        println!("skipped: no overlay can be mounted here: {e}");
        return clean_up(&lab);
    }
    lab.server.world().notice(&lab.me, "terminate", 120);
    running.says(&lab, "is still in use, held by mount: overlay at ");
    let text = format!("overlay at {}, with layers on it ({})", merged.display(), layers[0].display());
    assert!(running.log().contains(&text), "{text}: {}", running.log());
    assert!(!running.log().contains("held by the kernel"), "{}", running.log());
    pass(10, 10);
    assert!(Command::new("umount").arg(&merged).status().unwrap().success());
    let run = running.wait(&lab);
    run.ends(0, &[&format!("{} is released", id(1))]);
    lab.nothing_left(&run);
    clean_up(&lab);
}
