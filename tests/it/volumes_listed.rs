//! Listings as EC2 may give them: long, without an end, with all tags that a volume may have.

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
