"""The files that the bench puts into its guests: the first programs of small ones, units and scripts of large ones."""
from machine import ROUTER

INIT = """\
#!/bin/busybox sh
# The first program of the guest. What the kernel command line says: bench.ip, bench.router, bench.run (a script).
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev 2>/dev/null
busybox mount -t tmpfs run /run
for a in $(busybox cat /proc/cmdline); do
	case $a in bench.*=*) eval "bench_${a#bench.}" ;; esac
done
for m in $(busybox cat /modules); do busybox insmod $m; done
stty -F /dev/ttyS1 raw -echo
sh </dev/ttyS1 >/dev/ttyS1 2>&1 &
echo "bench: up, $(date +%Y)"
. $bench_run
sync
poweroff -f
"""

# What is the bench's own in a Debian root: an address by DHCP, a shell behind the second serial line, where the API is.
DEBIAN = {
    "etc/fstab": "/dev/nvme0n1 / ext4 defaults 0 0\n",
    "etc/hostname": "bench\n",
    "etc/machine-id": "",
    "etc/resolv.conf": "",
    "etc/systemd/network/bench.network": "[Match]\nName=eth*\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n",
    "etc/ec2fleetd/ec2fleetd.env": f"AWS_ENDPOINT_URL=http://{ROUTER}\n",
    "etc/systemd/system/bench-shell.service": """\
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/sh -c 'stty -F /dev/ttyS1 raw -echo; exec sh </dev/ttyS1 >/dev/ttyS1 2>&1'
[Install]
WantedBy=sysinit.target
""",
}
DEBIAN_APPEND = ("rw console=ttyS0 quiet net.ifnames=0 systemd.show_status=0 systemd.journald.forward_to_console=1 "
                 "systemd.journald.max_level_console=info")
# Nothing that a check of ours needs, and slow in emulation.
UNWANTED = ["apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
            "e2scrub_reap.service", "fstrim.timer", "systemd-timesyncd.service", "getty@tty1.service",
            "serial-getty@ttyS0.service", "dracut-shutdown.service", "systemd-update-utmp-runlevel.service"]

SYSTEMD = {
    # For a second unit, which wants the domain that the first one has.
    "etc/ec2fleetd/same.jsonc": """{ domains: { data: { exec: [ { on: ['started'], lines: [ { argv: ['true'] } ] } ] } } }""",
    "etc/systemd/system/bench-after.service": """\
[Unit]
After=ec2fleetd.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo "bench: after ec2fleetd, which is $(systemctl is-active ec2fleetd), $(cat /mnt/data/who)"'
[Install]
WantedBy=multi-user.target
""",
}

APPLICATION = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'test -e {0}/who || hostname >{0}/who; echo "bench: first used by $(cat {0}/who)"'
"""
CLOUD_INIT = {
    "srv/chain/.keep": "",
    "etc/systemd/system/chain.service": APPLICATION.format("/srv/chain"),
    "etc/systemd/system/minecraft.service": APPLICATION.format("/srv"),
    # Its defaults, less what takes long and has nothing to do with us.
    "etc/cloud/cloud.cfg.d/90_bench.cfg": """\
datasource_list: [ Ec2 ]
cloud_init_modules: [ bootcmd, write-files, set_hostname, update_hostname ]
cloud_config_modules: [ runcmd ]
cloud_final_modules: [ scripts-per-boot, scripts-per-instance, scripts-user ]
""",
}

BUSYBOX_START = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs run /run
for m in $(cat /modules); do insmod $m; done
stty -F /dev/ttyS1 raw -echo
sh </dev/ttyS1 >/dev/ttyS1 2>&1 &
ip link set lo up
ip link set eth0 up
udhcpc -q -n -i eth0 -s /etc/udhcpc >/dev/null
for script in /etc/init.d/S*; do LOG=/log $script start; done
"""
BUSYBOX_STOP = """\
#!/bin/sh
for script in $(ls -r /etc/init.d/S*); do LOG=/log $script stop; done
"""
UDHCPC = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add default via $router
"""

OPENRC = {
    "etc/conf.d/ec2fleetd": f"export AWS_ENDPOINT_URL=http://{ROUTER}\ncommand=/usr/bin/ec2fleetd\n",
    # Debian's scripts for services of sysvinit are none of ours.
    "etc/init.d/bench-net": """\
#!/sbin/openrc-run
depend() { provide net; }
start() {
	mount -t devtmpfs dev /dev
	mountpoint -q /sys || mount -t sysfs sys /sys
	stty -F /dev/ttyS1 raw -echo
	setsid sh </dev/ttyS1 >/dev/ttyS1 2>&1 &
	for m in virtio_pci virtio_net virtio_rng; do modprobe $m; done
	ip link set lo up
	ip link set eth0 up
	busybox udhcpc -q -n -i eth0 -s /etc/udhcpc >/dev/null
}
""",
    "etc/init.d/bench-after": """\
#!/sbin/openrc-run
depend() { need ec2fleetd; }
start() { echo "bench: after ec2fleetd, start, $(cat /mnt/data/who)" >/dev/console; }
stop() { echo "bench: after ec2fleetd, stop, $(cat /mnt/data/who)" >/dev/console; }
""",
    "etc/udhcpc": UDHCPC,
}
