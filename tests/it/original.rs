//! Configs as they are written for the original: its README's examples, and a sample with all that it takes.

use crate::fakeaws::{InstanceSpec, VolumeSpec};
use crate::kit::{bodies, seen, zone};
use crate::lab::{How, Lab, QUEUE, TOPIC, once};

/// A program that notes its name and arguments in the lab's file `seen`, in the place of one of the system's.
fn stand_in(lab: &Lab, name: &str) -> String {
    let path = lab.file(name, "#!/bin/sh\necho \"${0##*/} $*\" >> $LAB/seen\n");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// Replaces what belongs to another account and machine.
fn here(lab: &Lab, text: &str, volume: &str) -> String {
    let mut text = text
        .replace("vol-NNNNNNNNNNNNNNNNN", volume)
        .replace("ZZZZZZZZZZZZZZZZZZZZZ", "ZMC")
        .replace("\"REGION\"", "\"eu-west-1\"")
        .replace("'REGION'", "'eu-west-1'")
        .replace("TOPIC_ARN", TOPIC)
        .replace("QUEUE_URL", QUEUE);
    let text_of = |text: String, q: char, program: &str, path: &str| {
        text.replace(&format!("{q}{program}{q}"), &format!("{q}{path}{q}"))
    };
    for program in ["/bin/mount", "/bin/umount", "/bin/systemctl", "/path/to/interrupt/script"] {
        let name = program.rsplit('/').next().unwrap();
        let path = stand_in(lab, name);
        text = text_of(text_of(text, '"', program, &path), '\'', program, &path);
    }
    text
}

const GAME_SERVER: &str = r#"{
  "$schema": "http://schema.si-magic.com/fleet-init/json/userdata/0",

  "hostname": "my-world.mc",

  "domains": {
    "my-world.mc": {
      "attach-volume": [
        {
          "device": "/dev/xvdf",
          "source": "x",
          "volume-id": "vol-NNNNNNNNNNNNNNNNN",
          "exec": [
            {
              "lines": [
                {
                  "argv": [ "/bin/mount", "/mnt/mc" ]
                }
              ]
            }
          ]
        }
      ],

      "update-route53": [
        {
          "hostedzone": "ZZZZZZZZZZZZZZZZZZZZZ",
          "name": "my-world.mc",
          "ttl": 300
        }
      ],

      "exec": [
        {
          "on": [ "started" ],
          "lines": [
            { "argv": [ "/bin/systemctl", "start", "minecraft.service" ] }
          ]
        },
        {
          "on": [ "interrupted" ],
          "lines": [
            /*
             * A script would be used to warn the users and stop
             * the server after a certain amount of time.
             */
            { "argv": [ "/path/to/interrupt/script" ] }
          ]
        }
      ],

      "notify": [
        {
          "backend": "aws-sns", // backend module name
          "options": { // backend-specific data to be passed to the module
            "region": "REGION",
            "topic": "TOPIC_ARN"
          }
        }
      ]
    }
  }
}"#;

#[test]
fn the_game_server_from_its_user_data_to_an_interruption() {
    let lab = Lab::new();
    let volume = lab.server.world().add_volume(VolumeSpec { zone: "eu-west-1a".into(), ..VolumeSpec::default() });
    lab.server.world().add_zone("ZMC", "my-world.mc");
    let text = here(&lab, GAME_SERVER, &volume);
    let running = lab.start(&text, How { user_data: true, ..How::default() });
    running.says(&lab, "watching for interruptions");
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(&lab);
    run.ends(0, &["ready: my-world.mc started", "the host name is my-world.mc", "interrupted: done"]);
    assert_eq!(lab.attached(&lab.me), [(volume.clone(), "/dev/xvdf".to_owned())], "{run}");
    let want = ["my-world.mc. A 300 203.0.113.10", "my-world.mc. AAAA 300 2001:db8::a"];
    assert_eq!(zone(&lab, "ZMC"), want, "{run}");
    assert_eq!(seen(&lab), ["mount /mnt/mc", "systemctl start minecraft.service", "script "], "{run}");
    let states: Vec<String> = bodies(&lab)
        .iter()
        .map(|b| serde_json::from_str::<serde_json::Value>(b).unwrap()["daemon_state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["started", "interrupted"], "{run}");
}

const CRYPTO: &str = r#"{
  "$schema": "http://schema.si-magic.com/fleet-init/json/userdata/0",

  "hostname": "node-{ami-i}.btcn.example.com",

  "domains": {
    "btcn.example.com": {
      "attach-volume": [
        {
          "device": "/dev/xvdf",
          "source": "p",
          "pool-name": "btc-nodes",
          "exec": [ { "lines": [ { "argv": [ "/bin/mount", "/mnt/btc" ] } ] } ]
        }
      ],

      // Naturally, there should be a CNAME RR pointing to these.
      "update-route53": [
        {
          "hostedzone": "ZZZZZZZZZZZZZZZZZZZZZ",
          "name": "node-{ami-i}.btcn.example.com",
          "ttl": 300
        }
      ],

      "exec": [
        { "on": [ "started" ], "lines": [ { "argv": [ "/bin/systemctl", "start", "bitcoin.service" ] } ] },
        {
          "on": [ "interrupted" ],
          "lines": [
            { "argv": [ "/bin/systemctl", "stop", "bitcoin.service" ] },
            { "argv": [ "/bin/umount", "-l", "/mnt/btc" ] }
          ]
        }
      ],

      "notify": [ { "backend": "aws-sns", "options": { "region": "REGION", "topic": "TOPIC_ARN" } } ]
    }
  }
}"#;

#[test]
fn two_bitcoin_nodes() {
    let lab = Lab::new();
    lab.server.world().add_zone("ZMC", "btcn.example.com");
    let second = lab.add_instance(InstanceSpec { launch_index: 1, ..InstanceSpec::default() });
    let mut volumes: Vec<String> = (0..2).map(|_| lab.pool_volume("btcn.example.com", "btc-nodes")).collect();
    volumes.sort();
    let text = here(&lab, CRYPTO, "");
    let one = lab.start(&text, How::default());
    let two = lab.start(&text, How::default().on(&second));
    one.says(&lab, "watching");
    two.says(&lab, "watching");
    for id in [&lab.me, &second] {
        lab.server.world().notice(id, "terminate", 120);
    }
    one.wait(&lab).ends(0, &["the host name is node-0.btcn.example.com"]);
    two.wait(&lab).ends(0, &["the host name is node-1.btcn.example.com"]);
    assert_eq!(lab.attached(&lab.me)[0].0, volumes[0]);
    assert_eq!(lab.attached(&second)[0].0, volumes[1]);
    let names: Vec<String> = zone(&lab, "ZMC").iter().map(|r| r.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names[..2].iter().all(|n| n == "node-0.btcn.example.com."), "{names:?}");
    let mut ran = seen(&lab);
    ran.sort();
    let mut want = Vec::new();
    for line in
        ["mount /mnt/btc", "systemctl start bitcoin.service", "systemctl stop bitcoin.service", "umount -l /mnt/btc"]
    {
        want.extend([line, line]);
    }
    assert_eq!(ran, want);
}

/// All keys, in the spellings that samples of the original use.
const SAMPLE: &str = r#"{
  $schema: 'http://schema.si-magic.com/fleet-init/json/userdata/0',
  'set-hostname': '{domain}node-{ami-i}',
  timeout: 300,
  'interrupt-detection': { detect: 'poll', options: { interval: 1 } },
  domains: {
    sample: {
      'attach-volume': [
        { source: 'xpc', 'volume-id': 'vol-NNNNNNNNNNNNNNNNN', device: '/dev/xvdf', critical: true, 'pool-name': 'a',
          'pool-pref': 'least-recent-used',
          create: { AvailabilityZone: 'us-east-1a', Size: 1, VolumeType: 'gp3', Encrypted: false,
            TagSpecifications: [ { ResourceType: 'volume', Tags: [ { Key: 'Name', Value: 'sample' } ] } ] },
          exec: [ { on: [ 'start' ], lines: [ { argv: [ '/bin/false' ] } ] },
                  { ec: '0', lines: [ { argv: [ '/bin/mount', '{attached_device}', '/mnt', '{attach_op}' ], timeout: 30 } ] } ] },
      ],
      'update-route53': [ { hostedzone: 'ZZZZZZZZZZZZZZZZZZZZZ', name: '{instance_id}.Example.ORG', ttl: 60, critical: false } ],
      exec: [
        { on: [ 'starting' ], ec: '0-127', lines: [ { argv: [ '/bin/sh', '-c', 'exit 127' ] } ] },
        { ec: null, lines: [ { argv: [ '/bin/systemctl', '{daemon_state}', '{volume_id}' ], ec: '0,1' } ] },
      ],
      notify: [
        { backend: 'ans-sqs', options: { region: 'REGION', 'queue-url': 'QUEUE_URL' },
          envelope: { subject: 'ignored', body: '{{{domain}}} {daemon_state}' },
          matrix: { starting: { enabled: true }, started: { enabled: true }, failed: { enabled: true },
            stopping: { enabled: false }, interrupted: { enabled: true } } },
      ],
    },
  },
}"#;

#[test]
fn a_sample_with_every_key() {
    let lab = Lab::new();
    lab.server.world().add_zone("ZMC", "example.org");
    // The volume by id is not there: the pool is empty too, and one is created.
    let text = here(&lab, SAMPLE, "vol-0123456789abcdef0");
    let running = lab.start(&text, How::default());
    running.says(&lab, "watching");
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["warn", "the host name is node-0", "ready: sample started"]);
    let attached = lab.attached(&lab.me);
    assert_eq!(attached.len(), 1, "{run}");
    assert_eq!(zone(&lab, "ZMC").len(), 2, "{run}");
    let disk = lab.root(&lab.me).join("dev/nvme1n1");
    let mount = format!("mount {} /mnt true", disk.display());
    assert_eq!(
        seen(&lab),
        ["systemctl starting ", mount.as_str(), "systemctl started ", "systemctl stopping "],
        "{run}"
    );
    assert_eq!(bodies(&lab), ["{sample} started"], "{run}");
    let w = lab.server.world();
    let v = w.volume(&attached[0].0).unwrap();
    assert!(v.tags.iter().any(|(k, v)| k == "Name" && v == "sample"), "{run}");
}

#[test]
fn a_second_run_of_the_game_server_changes_nothing() {
    let lab = Lab::new();
    let volume = lab.server.world().add_volume(VolumeSpec { zone: "eu-west-1a".into(), ..VolumeSpec::default() });
    lab.server.world().add_zone("ZMC", "my-world.mc");
    let text = here(&lab, GAME_SERVER, &volume);
    lab.run(&text, once()).ends(0, &[]);
    lab.server.reset_calls();
    let run = lab.run(&text, once());
    run.ends(0, &[]);
    let writes: Vec<_> = lab.server.writes().into_iter().filter(|c| c.action != "Publish").collect();
    assert!(writes.is_empty(), "{run}");
    assert_eq!(seen(&lab).len(), 4, "{run}");
}
