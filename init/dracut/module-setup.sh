#!/bin/bash
# A dracut module that attaches the volumes before the root file system is looked for:
#
#   install -D -t /usr/lib/dracut/modules.d/95ec2fleetd init/dracut/*.sh
#   dracut --force --add ec2fleetd
#
# and on the kernel command line `rd.neednet=1 ip=dhcp`. Copied along: the config /etc/ec2fleetd/initramfs.jsonc if it is
# there (else the config is the user data), and the variables of /etc/ec2fleetd/ec2fleetd.env.

# Only where it is asked for.
check() {
	return 255
}

depends() {
	echo network
}

# What an instance needs to see a disk and a network card; built into some kernels.
installkernel() {
	hostonly='' instmods nvme ena
}

# shellcheck disable=SC2154 # moddir is given
install() {
	local binary
	for binary in /usr/local/bin/ec2fleetd /usr/bin/ec2fleetd; do
		[ ! -x "$binary" ] || break
	done
	inst "$binary" /usr/bin/ec2fleetd
	inst_multiple -o /etc/ec2fleetd/initramfs.jsonc /etc/ec2fleetd/ec2fleetd.env
	inst_simple "$moddir/attach.sh" /sbin/ec2fleetd-attach
	# Told by network-legacy and NetworkManager when an interface is up; networkd tells nobody, so there we look.
	inst_hook initqueue/online 50 "$moddir/online.sh"
	inst_hook initqueue/settled 50 "$moddir/settled.sh"
	dracut_need_initqueue
}
