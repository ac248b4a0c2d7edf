#!/bin/bash
# What `make vm-test` needs. It goes under target/vm, and what is there already is kept.
#
#   prepare.sh             says which Debian packages are missing (exit 1), then makes kernel and Debian tree
#   prepare.sh --install   installs those packages first (root, or sudo without a password); for CI
#
# kernel/  Debian's cloud kernel: its package, unpacked, not installed.
# debian/  A small Debian with systemd, cloud-init, and what makes initramfs images; made by mmdebstrap from the mirrors
#          that apt is configured for. It needs root; without, the checks that boot it are skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
vm=${CARGO_TARGET_DIR:-$PWD/target}/vm
mkdir -p "$vm"
PATH=$PATH:/usr/sbin:/sbin

need=()
want() { command -v "$1" >/dev/null || need+=("$2"); }
want qemu-system-x86_64 qemu-system-x86
[ -x "$(command -v busybox)" ] && ! ldd "$(command -v busybox)" >/dev/null 2>&1 || need+=(busybox-static)
want ip iproute2
want depmod kmod
want mkfs.ext4 e2fsprogs
want unshare util-linux
# For disks of every kind; the others that tests/disks/make.sh knows are made where their tools are.
want mkfs.xfs xfsprogs
want mkfs.btrfs btrfs-progs
want mkfs.vfat dosfstools
want mdadm mdadm
want dmsetup dmsetup
want mmdebstrap mmdebstrap
if [ ${#need[@]} -gt 0 ] && [ "${1:-}" = --install ]; then
	sudo=()
	[ "$(id -u)" = 0 ] || sudo=(sudo -n)
	"${sudo[@]}" apt-get update -qq
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}"
elif [ ${#need[@]} -gt 0 ]; then
	echo "vm-test needs: apt-get install --no-install-recommends ${need[*]}" >&2
	exit 1
fi

if [ ! -e "$vm/kernel/done" ]; then
	package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	echo "vm: fetching $package"
	rm -rf "$vm/kernel" "$vm/fetched"
	mkdir -p "$vm/fetched"
	(cd "$vm/fetched" && apt-get download -qq "$package")
	dpkg -x "$vm"/fetched/*.deb "$vm/kernel"
	rm -rf "$vm/fetched"
	# Later Debians have modules under /usr/lib.
	[ -d "$vm/kernel/lib" ] || ln -s usr/lib "$vm/kernel/lib"
	depmod -b "$vm/kernel" "$(ls "$vm/kernel/lib/modules")"
	touch "$vm/kernel/done"
fi

# The tree is made anew when this list changes.
packages=systemd,systemd-sysv,udev,dbus,iproute2,kmod,e2fsprogs,util-linux,netbase,procps,isc-dhcp-client,busybox
packages+=,cloud-init,curl,ca-certificates,initramfs-tools-core,dracut-core,dracut-network,openrc
if [ "$(id -u)" = 0 ] && [ "$(cat "$vm/debian.done" 2>/dev/null)" != "$packages" ]; then
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
	echo "vm: making a Debian tree ($suite)"
	rm -rf "$vm/debian" "$vm/debian.done"
	apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		grep -E " $suite(-security|-updates)? main$" | sort -u |
		mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" --aptopt='Acquire::Retries "3"' \
			--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
			--dpkgopt='path-exclude=/usr/share/locale/*' "$suite" "$vm/debian" -
	echo "$packages" >"$vm/debian.done"
fi
