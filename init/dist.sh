#!/bin/sh
# init/dist.sh [x86_64|aarch64]: makes the release files of one processor in target/dist. `make dist` calls it.
#
#   ec2fleetd-VERSION-ARCH-linux-musl            the binary
#   ec2fleetd-VERSION-ARCH-linux-musl.tar.gz     binary, units, hooks, install-image.sh, examples, README
#   ec2fleetd-VERSION-ARCH-linux-musl.cdx.json   what it is made of (CycloneDX)
#   ec2fleetd-VERSION-ARCH-linux-musl.sha256     the sums of these, and of the packages
#   ec2fleetd_VERSION-1_DEBARCH.deb, ec2fleetd-VERSION-1.ARCH.rpm
#
# The same source and compiler make the same bytes, wherever and whenever they run: dates are SOURCE_DATE_EPOCH, by
# default that of the last commit; names are sorted; owner is root; the umask does not matter. The packages are made by
# cargo-deb and cargo-generate-rpm, of what `make install` puts into a folder; what they say is in Cargo.toml.
set -eu
cd "$(dirname "$0")/.."
umask 022
export LC_ALL=C TZ=UTC

arch=${1:-$(uname -m)}
cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR="$target"
triple=$arch-unknown-linux-musl
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name=ec2fleetd-$version-$arch-linux-musl
out=$target/dist
binary=$target/$triple/release/ec2fleetd
# cargo-deb and cargo-generate-rpm take `target/release/` in Cargo.toml for this folder.
stage=$target/$triple/release/package
tools=${DIST_TOOLS:-$target/tools}

say() { echo "dist: $*"; }
die() { echo "dist: $*" >&2; exit 1; }

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null)} ||
	die "no commit here to take the date of: give SOURCE_DATE_EPOCH"
export SOURCE_DATE_EPOCH

# tool NAME VERSION LEVEL [OPTION]...: built once, optimized so far, and again for another version.
tool() {
	grep -qs "\"$1 $2 " "$tools/.crates.toml" && return
	say "building $1 $2 (a minute or two, once)"
	crate=$1@$2 level=$3
	shift 3
	CARGO_PROFILE_RELEASE_OPT_LEVEL=$level CARGO_TARGET_DIR=$tools/build \
		"$cargo" install --quiet --locked --root "$tools" "$@" "$crate"
}
# Without xz: gzip will do, and needs no C library.
tool cargo-deb 3.8.0 3 --no-default-features --features gzip
# Its dependencies take minutes to optimize, and it works for a second.
tool cargo-generate-rpm 0.21.1 0

init/build-static.sh "$arch"
rm -rf "${stage:?}" "${out:?}/$name" "$out/$name".*
mkdir -p "$out"
install -m 0755 "$binary" "$out/$name"

make -s install DESTDIR="$stage" PREFIX=/usr CONFDIR=/etc/ec2fleetd UNITDIR=/usr/lib/systemd/system BIN="$binary"

# cargo-generate-rpm wants to be told modes, and takes none from a file: so what may be run is apart from what may not.
for file in $(cd "$stage/usr/share/ec2fleetd" && find init -type f); do
	from=$stage/usr/share/ec2fleetd/$file
	if [ -x "$from" ]; then install -D -m 0755 "$from" "$stage/scripts/$file"; else install -D -m 0644 "$from" "$stage/data/$file"; fi
done

# One folder with the same files, but the binary at its top.
top=$stage/archive/ec2fleetd-$version
mkdir -p "$top"
install -m 0755 "$binary" "$top/ec2fleetd"
install -m 0644 README.md LICENSE "$top"
cp -R "$stage/usr/share/ec2fleetd/init" "$stage/usr/share/doc/ec2fleetd/cloud-init" "$top"
tar --sort=name --format=ustar --owner=root:0 --group=root:0 --mtime="@$SOURCE_DATE_EPOCH" \
	-C "$stage/archive" -cf "$stage/archive.tar" "ec2fleetd-$version"
gzip -9n <"$stage/archive.tar" >"$out/$name.tar.gz"

init/sbom.py "$binary" "$triple" >"$out/$name.cdx.json"

deb=$("$tools/bin/cargo-deb" --quiet --no-build --no-strip --locked --offline --target "$triple" \
	--compress-type gz --output "$out")
"$tools/bin/cargo-generate-rpm" --target "$triple" --target-dir "$target" --auto-req disabled --payload-compress gzip \
	--output "$out"

cd "$out"
sha256sum "$name" "$name".[ct]* "${deb##*/}" "ec2fleetd-$version-1.$arch.rpm" >"$name.sha256"
say "$out:"
cat "$name.sha256"
