//! The main job: a pool volume, a record, commands, messages; then the same again.

use crate::lab::{Lab, TOPIC, once};

#[test]
fn a_game_server_comes_up_and_a_second_run_writes_nothing() {
    let lab = Lab::new();
    let vol = lab.pool_volume("world", "p1");
    let config = format!(
        r#"{{ hostname: "w{{ami-i}}", domains: {{ world: {{
            "attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p1",
                exec: [{{ lines: [{{ argv: ["/bin/sh", "-c", "echo vol $1 $2 $3 $4 >> $LAB/seen", "sh",
                    "{{volume_id}}", "{{attach_op}}", "{{attach_source}}", "{{attached_device}}"] }}] }}] }}],
            "update-route53": [{{ hostedzone: "Z1", name: "World.example.com", ttl: 60 }}],
            exec: [{{ lines: [{{ argv: ["/bin/sh", "-c", "echo $1 >> $LAB/seen", "sh", "{{daemon_state}}"] }}] }}],
            notify: [{{ backend: "aws-sns", options: {{ topic: "{TOPIC}" }} }}] }} }} }}"#
    );
    let run = lab.run(&config, once());
    run.ends(0, &["[world] started", "ready: world started", "the host name is w0"]);
    assert_eq!(lab.attached(&lab.me), [(vol.clone(), "/dev/xvdf".to_owned())], "{run}");
    let w = lab.server.world();
    assert_eq!(w.record_values("Z1", "world.example.com", "A"), ["203.0.113.10"], "{run}");
    assert_eq!(w.record_values("Z1", "world.example.com", "AAAA").len(), 1, "{run}");
    assert_eq!(w.messages().len(), 1, "{run}");
    drop(w);
    assert_eq!(lab.tag_keys(&vol), ["domain", "owner", "pool-name", "ts-used"], "{run}");
    let seen = std::fs::read_to_string(lab.dir.join("seen")).unwrap();
    let device = lab.root(&lab.me).join("dev/nvme1n1");
    assert_eq!(seen, format!("starting\nvol {vol} true p {}\nstarted\n", device.display()));

    lab.server.reset_calls();
    let run = lab.run(&config, once());
    run.ends(0, &["ready: world started"]);
    let writes: Vec<_> = lab.server.writes().into_iter().filter(|c| c.action != "Publish").collect();
    assert!(writes.is_empty(), "{run}");
    assert!(std::fs::read_to_string(lab.dir.join("seen")).unwrap().contains(&format!("vol {vol} false p")));
}
