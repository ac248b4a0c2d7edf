//! What nobody may read: keys, tokens, user data. All that a run leaves behind is searched for them, after every run.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fakeaws::InstanceSpec;
use crate::fakeaws::world::STATIC_KEY;
use crate::kit::{note_events, on, one, record, sh, to_queue, to_topic};
use crate::lab::{How, Lab, USER_DATA_MARK, once};

/// Stands for systemd: takes what daemons tell it.
pub(crate) struct Manager {
    pub(crate) path: PathBuf,
    told: Arc<Mutex<String>>,
    end: Arc<AtomicBool>,
}

impl Manager {
    pub(crate) fn new(path: PathBuf) -> Manager {
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let manager = Manager { path, told: Arc::default(), end: Arc::default() };
        let (told, end) = (manager.told.clone(), manager.end.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !end.load(Ordering::Relaxed) {
                if let Ok(n) = socket.recv(&mut buffer) {
                    *told.lock().unwrap() += &format!("{}\n", String::from_utf8_lossy(&buffer[..n]));
                }
            }
        });
        manager
    }

    /// Everything it was told before this call.
    pub(crate) fn told(&self) -> String {
        static NEXT: AtomicBool = AtomicBool::new(false);
        let mark = format!("MARK={:?} {}", std::thread::current().id(), NEXT.fetch_xor(true, Ordering::Relaxed));
        let before = self.told.lock().unwrap().len();
        UnixDatagram::unbound().unwrap().send_to(mark.as_bytes(), &self.path).unwrap();
        loop {
            let text = self.told.lock().unwrap().clone();
            if text[before..].contains(&mark) {
                return text;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// Secret keys, session tokens, tokens of the metadata service, and the mark that stands for user data.
fn secrets(lab: &Lab) -> Vec<String> {
    let w = lab.server.world();
    let keys = w.keys.values().flat_map(|k| [Some(k.secret.clone()), k.token.clone()]).flatten();
    let tokens = w.imds.values().flat_map(|i| i.tokens.keys().cloned());
    keys.chain(tokens).chain([USER_DATA_MARK.to_owned()]).collect()
}

/// Files below a directory; links are not followed.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().unwrap() {
            t if t.is_dir() => found.extend(files(&entry.path())),
            t if t.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// The places at which a secret is found: the log, what systemd, the kernel's log and AWS were told, what was written
/// below `/run` and `/proc` of the instance.
fn leaks(lab: &Lab, root: &Path, log: &str) -> Vec<String> {
    let mut texts = vec![("the log".to_owned(), log.to_owned()), ("sd_notify".to_owned(), lab.manager.told())];
    for m in lab.server.world().messages() {
        texts.push((format!("a message to {}", m.target), format!("{m:?}")));
    }
    for c in lab.server.calls() {
        texts.push((format!("the parameters of {}", c.action), format!("{:?}", c.params)));
    }
    // Some instances see directories of the machine: those are not searched.
    let own = |name: &str| !root.join(name).is_symlink();
    let mut written: Vec<PathBuf> =
        ["run", "proc"].into_iter().filter(|d| own(d)).flat_map(|d| files(&root.join(d))).collect();
    written.extend(Some(root.join("dev/kmsg")).filter(|p| own("dev") && own("dev/kmsg") && p.is_file()));
    for path in written {
        let bytes = std::fs::read(&path).unwrap_or_default();
        texts.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    let secrets = secrets(lab);
    let found = |(place, text): &(String, String)| {
        secrets.iter().find(|s| text.contains(*s)).map(|s| format!("{place} has the secret {s}: {text}"))
    };
    texts.iter().filter_map(found).collect()
}

/// No secret is anywhere.
#[track_caller]
pub(crate) fn none(lab: &Lab, root: &Path, log: &str) {
    let found = leaks(lab, root, log);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// No secret is in a text.
#[track_caller]
pub(crate) fn none_in(lab: &Lab, text: &str) {
    let found = secrets(lab).into_iter().find(|s| text.contains(s.as_str()));
    assert!(found.is_none(), "{found:?} is in {text}");
}

#[test]
fn the_search_looks_everywhere() {
    let lab = Lab::new();
    lab.run(&one(&format!("notify: [{}]", to_topic(""))), once()).ends(0, &[]);
    let root = lab.root(&lab.me);
    assert!(leaks(&lab, &root, "nothing").is_empty());
    assert!(lab.manager.told().contains("READY=1"), "{}", lab.manager.told());
    // Role credentials and a token of the metadata service were made for the run; so there are more than two.
    let all = secrets(&lab);
    assert!(all.len() >= 5 && all.iter().all(|s| s.len() >= 16), "{all:?}");
    for secret in &all {
        assert_eq!(leaks(&lab, &root, &format!("<{secret}>")).len(), 1);
    }
    std::fs::write(root.join("run/journal"), format!("\u{0}{}", all[0])).unwrap();
    assert_eq!(leaks(&lab, &root, "").len(), 1);
    UnixDatagram::unbound().unwrap().send_to(format!("STATUS={}", all[1]).as_bytes(), &lab.manager.path).unwrap();
    assert_eq!(leaks(&lab, &root, "").len(), 2);
    lab.server.world().sent[0].body.push_str(&all[2]);
    // The message was a parameter of the call too, but that one is as it was.
    assert_eq!(leaks(&lab, &root, "").len(), 3);
}

/// Everything that a run can tell to anybody, with commands that look around.
fn talkative(lab: &Lab, end: &str) -> String {
    lab.pool_volume("d", "p");
    let tell = sh("echo \"$1\"; cat /proc/$PPID/cmdline; ls -la /proc/$PPID/fd; false || exit $2")
        .replace("] }", &format!(r#", "sh", "{{all_json}}", "{end}"] }}"#));
    one(&format!(
        r#""attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p" }}],
            "update-route53": [{}], exec: [{}], notify: [{}, {}], "x-note": "{USER_DATA_MARK}""#,
        record("a.example.com", ""),
        on(&[], &[tell]),
        to_topic(""),
        to_queue("")
    ))
}

#[test]
fn keys_from_anywhere_are_told_to_nobody() {
    // `Lab` searches after each of these; here they only have to happen.
    for end in ["0", "1"] {
        for (source, role) in [("role", true), ("environment", false), ("profile", false)] {
            let lab = Lab::with(InstanceSpec { role: role.then(|| "fleet".to_owned()), ..InstanceSpec::default() });
            let text = talkative(&lab, end);
            let how = How { user_data: true, ..once() };
            let how = match source {
                "environment" => how.env("AWS_ACCESS_KEY_ID", STATIC_KEY.0).env("AWS_SECRET_ACCESS_KEY", STATIC_KEY.1),
                "profile" => {
                    let (id, secret) = STATIC_KEY;
                    let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
                    let file = lab.file("credentials", &text);
                    how.env("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap())
                }
                _ => how,
            };
            let run = lab.run(&text, how);
            run.ends(i32::from(end == "1"), &["[d]", "\"daemon_state\""]);
            let used = lab.server.calls().iter().all(|c| (c.access_key.as_deref() == Some(STATIC_KEY.0)) != role);
            assert!(used, "{source} {run}");
        }
    }
}

#[test]
fn refused_keys_are_told_to_nobody() {
    let lab = Lab::with(InstanceSpec { role: None, ..InstanceSpec::default() });
    let text = talkative(&lab, "0");
    let keys = once().env("AWS_ACCESS_KEY_ID", STATIC_KEY.0).env("AWS_SESSION_TOKEN", USER_DATA_MARK);
    // A wrong secret, and a token that is none: AWS says so, in its own words.
    for secret in [STATIC_KEY.1, "wrong"] {
        let run = lab.run(&text, keys.clone().env("AWS_SECRET_ACCESS_KEY", secret));
        run.ends(1, &["cannot "]);
    }
    lab.run(&text, keys).ends(1, &["AWS_SECRET_ACCESS_KEY is missing"]);
}

#[test]
fn the_password_of_a_proxy_is_told_to_nobody() {
    let lab = Lab::new();
    let text =
        format!("{{ timeout: 20, domains: {{ d: {{ \"update-route53\": [{}] }} }} }}", record("a.example.com", ""));
    for proxy in [format!("http://me:{USER_DATA_MARK}@127.0.0.1:1"), format!("me:{USER_DATA_MARK}@[nonsense")] {
        let how = How { tls: true, ..once() }.rate(20).env("HTTPS_PROXY", &proxy).env("ALL_PROXY", &proxy);
        let run = lab.run(&text, how);
        // The first one is used; the second is none.
        assert!(run.code == 1 && run.log.contains("Connection refused") || proxy.ends_with("nonsense"), "{run}");
    }
}

/// Mode of everything below a directory, and of itself.
fn modes(dir: &Path) -> Vec<(PathBuf, u32)> {
    let mode = |p: &Path| (p.to_owned(), p.metadata().unwrap().permissions().mode() & 0o7777);
    let below = std::fs::read_dir(dir).unwrap().flatten().map(|e| e.path());
    let below = below.flat_map(|p| if p.is_dir() { modes(&p) } else { vec![mode(&p)] });
    [mode(dir)].into_iter().chain(below).collect()
}

#[test]
fn what_is_written_is_for_root_alone() {
    let lab = Lab::new();
    let root = lab.root(&lab.me);
    let text = talkative(&lab, "0");
    let how = || How::default().env("RUNTIME_DIRECTORY", "/run/unit:/run/other");
    // Killed in the midst of it, and at its end.
    let running = lab.start(&text, how());
    lab.until("a claim", || !lab.server.calls_of("AttachVolume").is_empty());
    running.signal("KILL");
    running.wait(&lab);
    let check = |when: &str, wanted: &[&str]| {
        let dirs = ["run/ec2fleetd", "run/unit"].map(|d| root.join(d));
        let all: Vec<_> = dirs.iter().filter(|d| d.exists()).flat_map(|d| modes(d)).collect();
        for name in wanted {
            assert!(all.iter().any(|(p, _)| p.ends_with(name)), "{when}: no {name} in {all:?}");
        }
        for (path, mode) in all {
            let wanted = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode, wanted, "{when}: {} has mode {mode:o}", path.display());
        }
    };
    check("killed", &["domain.d.lock", "unit/domain.d.journal"]);
    lab.run(&text, how().once()).ends(0, &[]);
    check("ended", &["domain.d.lock"]);
    // And nowhere else, but for what stands for the host name.
    for path in files(&root).into_iter().filter(|p| !p.starts_with(root.join("run"))) {
        let mine = ["dev", "sys", "proc/sys/kernel"].iter().any(|d| path.starts_with(root.join(d)));
        assert!(mine, "{}", path.display());
    }
}

#[test]
fn commands_see_no_keys_that_were_fetched() {
    let lab = Lab::new();
    let look = sh("echo $1 >> $LAB/seen; tr '\\\\0' '\\\\n' < /proc/self/environ >> $LAB/env")
        .replace("] }", r#", "sh", "{daemon_state}"] }"#);
    lab.pool_volume("d", "p");
    let text = one(&format!(
        r#""attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p", exec: [{{ lines: [{look}] }}] }}],
            exec: [{}, {}], notify: [{}]"#,
        on(&[], std::slice::from_ref(&look)),
        note_events(),
        to_topic("")
    ));
    let running = lab.start(&text, How::default());
    running.says(&lab, "watching");
    running.signal("TERM");
    running.wait(&lab).ends(0, &[]);
    assert!(lab.seen().len() >= 4, "{:?}", lab.seen());
    let env = std::fs::read_to_string(lab.dir.join("env")).unwrap();
    let keys: Vec<String> = lab.server.world().keys.keys().cloned().collect();
    assert!(env.contains("LAB=") && !keys.iter().any(|k| env.contains(k)), "{env}");
    none_in(&lab, &env);
}
