#!/bin/sh
# Installs ec2fleetd into an image: its root file system mounted at ROOT, or / on the machine that the image is made of.
#
#   install-image.sh [--bin=FILE] [--config=FILE]... [--userdata] [--initramfs] [ROOT]
#
# --config=FILE  copies a config to /etc/ec2fleetd and lets the image start it at boot. NAME.jsonc gives ec2fleetd@NAME
# --userdata     lets the image start the config that is in the user data of the instance
# --initramfs    the hook as well, for initramfs-tools or dracut, whichever is there: volumes come before the root disk
# --bin=FILE     the binary. Without it: the one of the release archive, of the package, or of `make static`
#
# It finds systemd, OpenRC or busybox by what is in ROOT. It starts nothing, and a second run changes nothing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin='' configs='' userdata=no initramfs=no root=/

say() { echo "install-image: $*"; }
die() { echo "install-image: $*" >&2; exit 1; }

for arg in "$@"; do
	case $arg in
	--bin=*) bin=${arg#*=} ;;
	--config=*)
		# One per line; a name with a line break in it would be two.
		configs="$configs${arg#*=}
"
		;;
	--userdata) userdata=yes ;;
	--initramfs) initramfs=yes ;;
	-*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
	*) root=$arg ;;
	esac
done
[ -d "$root" ] || die "no directory $root"
root=${root%/}

if [ -z "$bin" ]; then
	for bin in "$here/../ec2fleetd" /usr/bin/ec2fleetd \
		"${CARGO_TARGET_DIR:-$here/../target}/$(uname -m)-unknown-linux-musl/release/ec2fleetd"; do
		[ ! -f "$bin" ] || break
	done
fi
[ -f "$bin" ] || die "no binary: give --bin=FILE"

# All is looked at before anything is written. A binary for another processor cannot check configs here.
if "$bin" --version >/dev/null 2>&1; then checks=yes; else checks=no; fi
while read -r config; do
	[ -n "$config" ] || continue
	case $config in *.jsonc) ;; *) die "$config: the unit reads NAME.jsonc" ;; esac
	[ -f "$config" ] || die "no file $config"
	[ $checks = no ] || "$bin" --check --userdata="$config" || die "$config is not good; nothing was installed"
done <<END
$configs
END

# Folders that are there keep their modes: `install -d` would set them.
umask 022

# put MODE FILE TARGET: a file of ours, never half there.
put() {
	[ -f "$2" ] || die "no $2"
	mkdir -p "$root${3%/*}"
	install -m "$1" "$2" "$root$3.new"
	mv -f "$root$3.new" "$root$3"
}

# What the image starts at boot is a link, as `systemctl enable` and `rc-update add` make it.
link() {
	mkdir -p "$root${2%/*}"
	ln -sfn "$1" "$root$2"
}

put 0755 "$bin" /usr/local/bin/ec2fleetd
mkdir -p "$root/etc"
[ -d "$root/etc/ec2fleetd" ] || mkdir -m 0700 "$root/etc/ec2fleetd"

if [ -d "$root/usr/lib/systemd/system" ] || [ -d "$root/lib/systemd/system" ]; then
	init=systemd
	units=/usr/local/lib/systemd/system
	for unit in ec2fleetd.service ec2fleetd@.service; do put 0644 "$here/systemd/$unit" "$units/$unit"; done
	# at_boot [NAME]
	at_boot() {
		unit=ec2fleetd${1:+@}
		link "$units/$unit.service" "/etc/systemd/system/multi-user.target.wants/$unit${1-}.service"
	}
elif [ -x "$root/sbin/openrc-run" ] || [ -x "$root/usr/sbin/openrc-run" ]; then
	init=OpenRC
	put 0755 "$here/openrc/ec2fleetd" /etc/init.d/ec2fleetd
	at_boot() {
		[ -z "${1-}" ] || link ec2fleetd "/etc/init.d/ec2fleetd.$1"
		link "/etc/init.d/ec2fleetd${1:+.$1}" "/etc/runlevels/default/ec2fleetd${1:+.$1}"
	}
elif [ -e "$root/bin/busybox" ]; then
	init=busybox
	put 0755 "$here/busybox/ec2fleetd" /etc/init.d/ec2fleetd
	at_boot() { link ec2fleetd "/etc/init.d/S50ec2fleetd${1:+.$1}"; }
else
	init="no init system that is known here"
	at_boot() { die "nothing in ${root:-/} that would start it: neither systemd nor OpenRC nor busybox"; }
fi
say "${root:-/}: /usr/local/bin/ec2fleetd, $init"

[ $userdata = no ] || at_boot
while read -r config; do
	[ -n "$config" ] || continue
	name=${config##*/}
	put 0600 "$config" "/etc/ec2fleetd/$name"
	at_boot "${name%.jsonc}"
	say "at boot: /etc/ec2fleetd/$name"
done <<END
$configs
END

[ $initramfs = yes ] || exit 0
if [ -d "$root/usr/share/initramfs-tools" ]; then
	put 0755 "$here/initramfs-tools/hook" /etc/initramfs-tools/hooks/ec2fleetd
	put 0755 "$here/initramfs-tools/local-top" /etc/initramfs-tools/scripts/local-top/ec2fleetd
	say "now run in the image: update-initramfs -u"
elif [ -d "$root/usr/lib/dracut/modules.d" ]; then
	for file in "$here"/dracut/*; do put 0755 "$file" "/usr/lib/dracut/modules.d/95ec2fleetd/${file##*/}"; done
	say "now run in the image: dracut --force --add ec2fleetd"
else
	die "neither initramfs-tools nor dracut in ${root:-/}"
fi
