#!/bin/sh
# init/build-static.sh [x86_64|aarch64]: builds ec2fleetd as one static file against musl, checks it, prints its size.
# `make static` calls it. Two ways, the first that works is taken (WAY=rustup or WAY=debian allows only that one):
#
# rustup  The compiler on PATH, with the musl target's library beside it or fetched by `rustup target add`. The C part of
#         `ring` needs a C compiler for musl: musl-gcc (Debian's musl-tools), a cross gcc, or zig.
#         Where the library's source is there too (`rustup component add rust-src`), the library is built from it.
# debian  Debian's rustc-web and rust-web-src (compiler and library source), from which cargo builds the library too.
#
# The library that comes with Rust is made for speed, and brings a reader of debug information for backtraces along, of
# which there are none here. Built from source without it, for size, the binary is 400 KB smaller.
#
# zig is ziglang from PyPI, driven by cargo-zigbuild; both go into a virtual environment under target/.
set -eu
cd "$(dirname "$0")/.."

arch=${1:-$(uname -m)}
case $arch in x86_64 | aarch64) ;; *) echo "unknown ARCH '$arch': x86_64 or aarch64" >&2; exit 2 ;; esac
way=${WAY:-any}
triple=$arch-unknown-linux-musl
upper=$(echo "$triple" | tr a-z- A-Z_)
lower=$(echo "$triple" | tr - _)
cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR="$target"
out=$target/$triple/release/ec2fleetd
limit=2800000
build_std="--config init/static.toml -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size"
zig_packages="ziglang==0.17.0 cargo-zigbuild==0.24.0"

# A clock that is behind this date is plainly wrong (src/clock.rs). Of the commit, so that the same source makes the same
# file.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null)} || :
export SOURCE_DATE_EPOCH

say() { echo "static: $*"; }
die() { echo "static: $*" >&2; exit 1; }

have_zig() {
	command -v cargo-zigbuild >/dev/null && { command -v zig || python3 -c 'import ziglang'; } >/dev/null 2>&1 && return
	zig=$target/zig
	if [ ! -x "$zig/bin/cargo-zigbuild" ]; then
		say "fetching zig (100 MB) into $zig"
		python3 -m venv "$zig" && "$zig/bin/python" -m pip install -q --disable-pip-version-check $zig_packages ||
			{ rm -rf "$zig"; return 1; }
	fi
	PATH=$zig/bin:$PATH
}

# Paths of this machine do not belong into the binary.
names() {
	echo "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=crates" \
		"--remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src=rust --remap-path-prefix=$PWD=."
}

# The linker that comes with Rust folds equal functions and packs relocations: 80 KB less than with GNU ld. It needs no
# C compiler, since Rust's musl targets bring their own start-up files and libc. A panic does not unwind (Cargo.toml says
# why), so there is no table for it.
lld_flags() {
	host=$(rustc -vV | sed -n 's/^host: //p')
	[ -x "$(rustc --print sysroot)/lib/rustlib/$host/bin/rust-lld" ] || return 1
	echo "$(names) -C linker=rust-lld -C link-arg=--icf=all -C link-arg=-O2 -C link-arg=-zpack-relative-relocs -C force-unwind-tables=no"
}

# Building the library is not stable, hence RUSTC_BOOTSTRAP where it is done.
have_source() {
	src=$(rustc --print sysroot)/lib/rustlib/src/rust/library/std
	[ -d "$src" ] && return
	command -v rustup >/dev/null && timeout 180 rustup component add rust-src </dev/null >/dev/null 2>&1 && [ -d "$src" ]
}

have_target() { ls "$(rustc --print target-libdir --target "$triple" 2>/dev/null)"/libstd-*.rlib >/dev/null 2>&1; }

by_rustup() {
	command -v rustc >/dev/null || { say "no rustc on PATH"; return 1; }
	if ! have_target; then
		command -v rustup >/dev/null || { say "no library for $triple and no rustup to fetch it"; return 1; }
		# The limit is for a network that swallows packets; a refusal comes at once.
		timeout 180 rustup target add "$triple" </dev/null && have_target || { say "rustup target add $triple failed"; return 1; }
	fi

	std=""
	if have_source; then
		std=$build_std
		export RUSTC_BOOTSTRAP=1
		say "the library is built from source"
	else
		say "the library is the compiler's own: no source for it here (rustup component add rust-src)"
	fi

	cc=""
	for name in "$arch-linux-musl-gcc" "$([ "$arch" = "$(uname -m)" ] && echo musl-gcc)" "$arch-linux-gnu-gcc"; do
		# A gcc for glibc of our own processor is just gcc: it would find glibc's headers.
		[ "$name" = "$(uname -m)-linux-gnu-gcc" ] && continue
		[ -n "$name" ] && command -v "$name" >/dev/null && cc=$name && break
	done
	if [ -n "$cc" ] && flags=$(lld_flags); then
		say "way: rustup ($(rustc --version)), C by $cc, linked by rust-lld"
		# No fortified functions: they are glibc's, and a glibc cross compiler may switch them on.
		env "CC_$lower=$cc" "CFLAGS_$lower=-U_FORTIFY_SOURCE" "CARGO_TARGET_${upper}_RUSTFLAGS=$flags" \
			"$cargo" build --release --locked $std --target "$triple"
	elif [ -n "$cc" ]; then
		say "way: rustup ($(rustc --version)), C and linking by $cc"
		env "CC_$lower=$cc" "CARGO_TARGET_${upper}_LINKER=$cc" "CARGO_TARGET_${upper}_RUSTFLAGS=$(names)" \
			"$cargo" build --release --locked $std --target "$triple"
	elif have_zig; then
		say "way: rustup ($(rustc --version)), C and linking by zig"
		env "CARGO_TARGET_${upper}_RUSTFLAGS=$(names)" "$cargo" zigbuild --release --locked $std --target "$triple"
	else
		say "no C compiler for $triple: apt-get install musl-tools (own processor), or let pip fetch ziglang"
		return 1
	fi
}

by_debian() {
	[ -x /usr/bin/rustc ] && [ -d /usr/lib/rustlib/src/rust/library ] ||
		{ say "no Debian compiler with library source: apt-get install rustc-web rust-web-src"; return 1; }
	have_zig || { say "no zig: pip cannot fetch $zig_packages"; return 1; }
	say "way: debian ($(/usr/bin/rustc --version)), library built from source, C and linking by zig"
	# A target folder of its own: the two compilers would otherwise throw away each other's work.
	RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$target/debian \
		RUSTFLAGS="-C link-self-contained=no -C target-feature=+crt-static" \
		"$cargo" zigbuild --release --locked $build_std --target "$triple" &&
		mkdir -p "${out%/*}" && cp "$target/debian/$triple/release/ec2fleetd" "$out"
}

# Prints what the binary says of itself, run where there is no other file: no libc, no resolv.conf, no CA bundle.
in_empty_root() {
	root=$(mktemp -d)
	trap 'rm -rf "$root"' EXIT
	cp "$out" "$root/ec2fleetd"
	run="/ec2fleetd"
	if [ "$arch" != "$(uname -m)" ]; then
		qemu=$(command -v "qemu-$arch-static" || command -v "qemu-$arch") && file -L "$qemu" | grep -q static ||
			{ say "not run: no static qemu-$arch here (apt-get install qemu-user-static)"; return; }
		cp "$qemu" "$root/qemu"
		run="/qemu /ec2fleetd"
	fi
	if [ "$(id -u)" = 0 ]; then
		said=$(env -i "$(command -v chroot || echo /usr/sbin/chroot)" "$root" $run --version </dev/null)
	elif unshare -r true 2>/dev/null; then
		said=$(env -i unshare -r "$(command -v chroot || echo /usr/sbin/chroot)" "$root" $run --version </dev/null)
	else
		say "not run in an empty root: neither root nor user namespaces here"
		return
	fi || die "does not run in an empty root"
	version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
	case $said in *"$version"*) say "runs in an empty root: $said" ;; *) die "in an empty root it said '$said', not version $version" ;; esac
}

# A way that builds the library from source comes first: only such a binary is small enough.
ways="rustup debian"
[ "$way" = any ] || ways=$way
[ "$ways" != "rustup debian" ] || have_source || ways="debian rustup"
built=no
for way in $ways; do
	if "by_$way"; then
		built=yes
		break
	fi
done
[ $built = yes ] || die "no way to build for $triple worked; each said why above"

what=$(file -b "$out")
case $what in
*"static-pie linked"* | *"statically linked"*) say "${what%%, BuildID*}" ;;
*) die "not static: $what" ;;
esac
in_empty_root
size=$(stat -c %s "$out")
say "$out: $size bytes, limit $limit"
if [ "$size" -gt $limit ] && [ $way = rustup ] && [ -z "$std" ]; then
	say "larger than it need be: the compiler's own library came along; rustup component add rust-src makes it small"
elif [ "$size" -gt $limit ]; then
	die "too big by $((size - limit)) bytes"
fi
