#!/bin/sh
# Attaches the volumes, once, so that root= may be on one of them (root=LABEL=name). `rd.ec2fleetd=0` on the kernel command
# line leaves it out.
#
# Here only volumes are attached and records written. Commands, messages and the watch for interruptions are for the daemon
# that the root file system starts: it finds what is attached and written, and does neither again.
! grep -qw rd.ec2fleetd=0 /proc/cmdline || exit 0
[ ! -e /run/ec2fleetd-attached ] || exit 0
: >/run/ec2fleetd-attached

if [ -f /etc/ec2fleetd/ec2fleetd.env ]; then
	while read -r line; do
		case $line in [A-Za-z_]*=*) export "${line?}" ;; esac
	done </etc/ec2fleetd/ec2fleetd.env
fi
[ ! -f /etc/ec2fleetd/initramfs.jsonc ] || set -- --userdata=/etc/ec2fleetd/initramfs.jsonc
# A failure says what it is; the boot goes on, for root= may be elsewhere.
ec2fleetd --enable-exec=false --enable-notify=false --enable-poll=false "$@"
