#!/bin/sh
# Makes a disk as the real tools leave it, for the tests of what is recognised and never formatted.
#
#   make.sh list         each kind, and what ec2fleetd calls it
#   make.sh KIND FILE    makes it: on a block device, or in a file of its own size
#
# "A+B" is A as a whole, and B made on it later.
#
# A tool or a driver that is not here: exit code 77, and a line that names it. A kind with a suffix is that kind with the
# first superblock lost: "-first" of a sector or two, "-wiped" of the first 4 MiB.
set -eu
# For what is said to whoever calls it; the tools say what they like to standard error.
exec 3>&1
PATH=$PATH:/usr/sbin:/sbin
unknown="data of an unknown kind"

list() {
	cat <<-END
		ext2 ext2
		ext3 ext3
		ext4 ext4
		ext4-1k ext4
		ext4-first $unknown
		ext4-wiped $unknown
		ext4-1k-wiped $unknown
		xfs xfs
		xfs-first $unknown
		xfs-wiped $unknown
		xfs-grown xfs
		xfs-grown-wiped $unknown
		btrfs btrfs
		btrfs-first $unknown
		btrfs-wiped $unknown
		f2fs f2fs
		f2fs-first $unknown
		ntfs ntfs
		ntfs-first $unknown
		vfat vfat
		vfat-16 vfat
		vfat-12 vfat
		vfat-first $unknown
		exfat exfat
		swap swap
		swap-64k swap
		luks1 LUKS
		luks2 LUKS
		luks2-first LUKS
		luks2-large LUKS
		luks2-large-first LUKS
		lvm2 LVM2
		md-0.90 md raid
		md-1.0 md raid
		md-1.1 md raid
		md-1.2 md raid
		gpt GPT and MBR
		gpt-first GPT and MBR
		gpt-wiped GPT
		mbr MBR
		mbr-ext4 MBR
		mbr-ext4-wiped $unknown
		ext4+gpt GPT and MBR
		btrfs+gpt-first btrfs and GPT and MBR
		ext4+mbr ext4 and MBR
		btrfs+gpt btrfs and GPT and MBR
		btrfs+mbr btrfs and MBR
		gpt+ext4 ext4
		gpt+xfs xfs
		gpt+btrfs btrfs
		gpt+vfat vfat
		gpt+ntfs ntfs
		xfs+gpt xfs and GPT and MBR
		xfs+mbr xfs and MBR
		vfat+mbr vfat and MBR
		mbr+vfat vfat
		mbr+ntfs ntfs
		mbr+exfat exfat
		mbr+btrfs btrfs
		noise noise
		zfs zfs
		zfs-first zfs
	END
}

lacks() {
	echo "no $1" >&3
	exit 77
}

want() {
	command -v "$1" >/dev/null || lacks "$1"
}

bytes() { # of the disk
	blockdev --getsize64 "$file" 2>/dev/null || stat -c %s "$file"
}

zero() { # zero OFFSET COUNT: in units of 512 bytes
	dd if=/dev/zero of="$file" bs=512 seek="$1" count="$2" conv=notrunc status=none
}

# Some tools want a block device: a loop device, where root can have one.
on_block() {
	if [ -b "$file" ]; then
		"$@" "$file"
		return
	fi
	loop=$(losetup --find --show "$file" 2>/dev/null) || lacks "loop device"
	trap 'losetup --detach "$loop"' EXIT
	"$@" "$loop"
}

luks() { # luks VERSION OPTIONS...
	want cryptsetup
	version=$1
	shift
	# As cheap as can be: nothing is ever opened.
	case $version in
	1) set -- "$@" --pbkdf-force-iterations 1000 ;;
	2) set -- "$@" --pbkdf pbkdf2 --pbkdf-force-iterations 1000 ;;
	esac
	echo secret | cryptsetup -q luksFormat --type "luks$version" "$@" "$file" -
}

# Metadata 0.90 and 1.0 are at the end. The array is stopped at once.
md() {
	want mdadm
	[ -e /proc/mdstat ] || lacks "md driver"
	on_block mdadm --create --quiet --run --force --metadata "$1" --level 1 --raid-devices 2 /dev/md/disks missing >&2
	mdadm --quiet --stop /dev/md/disks
}

# No tool makes one without the module: the ring of uberblocks in each of the four labels, by hand.
zfs() {
	size=$(bytes)
	for label in 0 1 $((size / 262144 - 2)) $((size / 262144 - 1)); do
		for n in 0 1 2 3; do
			printf '\014\261\272\000\000\000\000\000' |
				dd of="$file" bs=1024 seek=$((label * 256 + 128 + n)) conv=notrunc status=none
		done
	done
}

if [ "$1" = list ]; then
	list
	exit
fi
make() { # make KIND
	case $1 in
	ext4-1k*) want mkfs.ext4 && mkfs.ext4 -q -F -b 1024 "$file" ;;
	ext[234]*) want "mkfs.${1%-*}" && "mkfs.${1%-*}" -q -F "$file" ;;
	# As one of 320 MiB is that has grown.
	xfs-grown*) want mkfs.xfs && mkfs.xfs -q -f -d agsize=80m "$file" ;;
	xfs*) want mkfs.xfs && mkfs.xfs -q -f "$file" ;;
	btrfs*) want mkfs.btrfs && mkfs.btrfs -q -f "$file" ;;
	f2fs*) want mkfs.f2fs && mkfs.f2fs -q -f "$file" ;;
	ntfs*) want mkfs.ntfs && mkfs.ntfs -Q -F -q "$file" ;;
	exfat) want mkfs.exfat && mkfs.exfat "$file" ;;
	vfat-1?) want mkfs.vfat && mkfs.vfat -F "${1#*-}" "$file" ;;
	vfat*) want mkfs.vfat && mkfs.vfat -F 32 "$file" ;;
	swap-64k) want mkswap && mkswap -p 65536 "$file" ;;
	swap) want mkswap && mkswap "$file" ;;
	luks1) luks 1 ;;
	luks2-large*) luks 2 --luks2-metadata-size 4m ;;
	luks2*) luks 2 ;;
	# Without udev, and with no other disk looked at.
	lvm2) want pvcreate && on_block pvcreate -qq --config 'devices { use_devicesfile = 0 } activation { udev_sync = 0 }' ;;
	md-*) md "${1#md-}" ;;
	gpt*) want sgdisk && sgdisk --new 1:0:0 "$file" ;;
	# A partition that has a file system in it.
	mbr-ext4*) want mkfs.ext4 && make mbr && mkfs.ext4 -q -F -E offset=1048576 "$file" $(($(bytes) / 1024 - 1024))k ;;
	mbr) want sfdisk && echo ',,L' | sfdisk -q --wipe never "$file" ;;
	zfs*) zfs ;;
	noise) dd if=/dev/urandom of="$file" bs=1M count=$(($(bytes) / 1048576)) conv=notrunc status=none ;;
	*)
		echo "no kind '$1'" >&2
		exit 2
		;;
	esac >&2
}

kind=$1 file=$2
size=160
case $kind in
*xfs-grown*) size=470 ;;
*xfs*) size=320 ;; # mkfs.xfs makes none below 300 MiB
vfat-12) size=8 ;;
vfat-16) size=64 ;;
noise) size=16 ;;
esac
[ -b "$file" ] || truncate -s ${size}M "$file"
case $kind in
*+*) make "${kind%+*}" ;;
esac
make "${kind#*+}"
case $kind in
*-wiped) zero 0 8192 ;;
btrfs-first) zero 128 8 ;;
*gpt-first) zero 1 1 ;;
zfs-first) zero 0 512 ;;
luks2*-first) zero 0 8 ;;
*-first) zero 0 8 ;;
esac
