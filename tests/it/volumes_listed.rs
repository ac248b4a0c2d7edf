//! Listings as EC2 may give them: long, without an end, with all tags that a volume may have.

use std::time::Duration;

use crate::disks::{config, id, pool, volume};
use crate::fakeaws::{Endless, VolumeSpec};
use crate::lab::{Lab, once};

/// Puts 45 long tags beside ours on a volume of the pool.
fn tagged(mut spec: VolumeSpec) -> VolumeSpec {
    for n in 0..45 {
        spec = spec.tag(&format!("{n:0>100}"), &"é value".repeat(36));
    }
    spec
}

/// 500 of them are 10 MB on the wire: more than a page may be, and more than may be kept.
#[test]
fn a_pool_of_500_volumes_with_45_long_tags_is_read() {
    let lab = Lab::new();
    let other = lab.neighbour();
    for n in 0..500 {
        let spec = tagged(VolumeSpec::pool("d", "p").id(&id(n)));
        lab.volume(if n == 333 { spec } else { spec.attached(&other, "/dev/xvdf") });
    }
    let run = lab.start(&config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)), once());
    let pid = run.child.id();
    let mut peak = 0;
    lab.until("its end", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib =
            status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0));
        kib.is_none()
    });
    let run = run.wait(&lab);
    run.ends(0, &[]);
    lab.has(&[(&id(333), "/dev/xvdf")], &run);
    // This is no optimised build; with pages of 8 MiB and all tags kept it takes more than 60 MiB.
    assert!(peak < 20 << 10, "{peak} KiB\n{run}");
    // What it learns of the size of pages is not learnt again.
    let sizes: Vec<String> =
        lab.server.calls_of("DescribeVolumes").iter().filter_map(|c| c.params.get("MaxResults").cloned()).collect();
    assert_eq!(sizes[..3], ["500", "100", "25"], "{run}");
    assert!(sizes[2..].windows(2).all(|w| w[0].parse::<u32>().unwrap() >= w[1].parse().unwrap()), "{sizes:?}");
}

#[test]
fn a_list_without_an_end_is_an_error_and_makes_nothing() {
    for (endless, why) in [
        (Endless::Same, "the list does not end: a page leads to itself"),
        (Endless::Empty, "the list does not end: 100 pages in a row had nothing new"),
        (Endless::Again, "the list does not end: 100 pages in a row had nothing new"),
    ] {
        let lab = Lab::new();
        lab.pool_of(7);
        lab.knobs(|k| (k.endless_pages, k.page_cap) = (Some(endless), Some(5)));
        let run = lab.run(&config(&pool("pc", "/dev/xvdf")), once());
        run.ends(1, &["cannot list the volumes of domain 'd'", why]);
        assert!(lab.server.writes().is_empty(), "{run}");
        assert!(lab.count("DescribeVolumes") <= 210, "{run}");
    }
}

/// A volume has 50 tags at most: what goes along with a move makes room for ours and for those of `create`.
#[test]
fn a_copy_has_no_more_tags_than_a_volume_may_have() {
    for (own, create, fits) in [(38, 0, true), (44, 0, false), (44, 12, false), (20, 20, true), (40, 40, false)] {
        let lab = Lab::new();
        lab.knobs(|k| k.snapshot_gap_ms = 0);
        let mut spec = VolumeSpec::pool("d", "p").id(&id(1)).zone("eu-west-1b");
        for n in 0..own {
            spec = spec.tag(&format!("t{n:02}"), "old");
        }
        lab.volume(spec);
        // Half of them are on the old volume too.
        let tags: Vec<String> =
            (0..create).map(|n| format!(r#"{{ Key: "{}{n:02}", Value: "new" }}"#, ["t", "u"][n % 2])).collect();
        let rest = format!(
            r#""pool-name": "p", create: {{ TagSpecifications: [{{ ResourceType: "volume", Tags: [{}] }}] }}"#,
            tags.join(", ")
        );
        let run = lab.run(&config(&volume("pm", "/dev/xvdf", &rest)), once().rate(20));
        run.ends(0, &[]);
        assert_eq!(run.log.contains("a volume has 50 tags at most: not copied"), !fits, "{run}");
        let made = lab.created();
        let w = lab.server.world();
        let v = w.volume(&made[0]).unwrap();
        assert!(v.tags.len() <= 50, "{run}");
        assert_eq!(v.tags.values().filter(|v| *v == "new").count(), create, "{run}");
        // As many as fit, and then what the commit writes.
        let copied = v.tags.values().filter(|v| *v == "old").count();
        assert!(if fits { copied == own - create / 2 } else { v.tags.len() >= 45 }, "{copied} {run}");
        drop(w);
        assert_eq!(lab.tag(&id(1), "superseded-by"), made[0], "{run}");
        assert!(lab.server.calls().iter().all(|c| c.code.as_deref() != Some("TagLimitExceeded")), "{run}");
    }
}

/// Tags come late, and the answer of CreateVolume has none.
#[test]
fn a_volume_whose_tags_come_late_is_made_once() {
    for source in ["c", "pc"] {
        let lab = Lab::new();
        lab.knobs(|k| (k.tags_late_ms, k.created_untagged) = (150, true));
        let text = config(&pool(source, "/dev/xvdf"));
        for op in [true, false] {
            // Until the tags of the first run are to be seen.
            std::thread::sleep(Duration::from_millis(if op { 0 } else { 300 }));
            let run = lab.run(&text, once().rate(10));
            run.ends(0, &[]);
            let made = lab.created();
            assert_eq!(made.len(), 1, "{run}");
            lab.has(&[(&made[0], "/dev/xvdf")], &run);
            assert_eq!(
                lab.seen().last().unwrap(),
                &format!("{} {op} {} p", made[0], if op { "c" } else { source.get(..1).unwrap() })
            );
        }
    }
}
