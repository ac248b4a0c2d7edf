//! What `--check` recommends: nothing is wrong with the config, and a run says nothing of it.

use std::path::Path;

use super::Config;

/// The recommendations, each with its place.
pub(crate) fn advice(config: &Config) -> Vec<String> {
    let mut all = Vec::new();
    for d in &config.domains {
        let blocks = d.volumes.iter().flat_map(|v| &v.exec).chain(&d.exec);
        for line in blocks.flat_map(|b| &b.lines) {
            let argv0 = line.argv.first().and_then(|t| t.literal()).unwrap_or_default();
            if Path::new(argv0).file_name().is_some_and(|name| name == "mount") {
                all.push(format!(
                    "domain '{}', {}: the key mount of the volume does this too; it also checks the disk, and release \
                     unmounts it",
                    d.name, line.path
                ));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_mounts() {
        let text = r#"{ domains: { d: {
            "attach-volume": [{ source: "x", "volume-id": "vol-1", device: "/dev/xvdf",
                exec: [{ lines: [{ argv: ["/bin/mount", "/mnt"] }] }] }],
            exec: [{ lines: [{ argv: ["umount", "/mnt"] }, { argv: ["mount", "-a"] }] }] } } }"#;
        let advice = advice(&crate::config::load(text).unwrap());
        assert_eq!(advice.len(), 2, "{advice:?}");
        assert!(advice[0].starts_with("domain 'd', attach-volume[0].exec[0].lines[0]: the key mount "), "{advice:?}");
        assert!(advice[1].starts_with("domain 'd', exec[0].lines[1]: "), "{advice:?}");
    }
}
