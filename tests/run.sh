#!/bin/bash
# Runs every test and adds up what they counted. `make test` calls it with CARGO, PYTHON and CARGO_TARGET_DIR set.
#
# A step is cargo's tests or one Python check: any tests/*/check_*.py, and tests/moto/run.py. Checks find what they test
# in EC2FLEETD and FAKEAWS, close with a line 'N passed, N failed', and exit 1 if one failed. All steps run, whatever fails.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
target=${CARGO_TARGET_DIR:-$PWD/target}
cargo=${CARGO:-cargo} python=${PYTHON:-$target/venv/bin/python}
logs=$target/test-logs
rm -rf "$logs"
mkdir -p "$logs"
export EC2FLEETD=$target/debug/ec2fleetd FAKEAWS=$target/debug/examples/fakeaws PYTHONDONTWRITEBYTECODE=1
# Most of their time tests wait for a daemon: some for each core.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((3 * $(nproc)))}
passed=0 failed=0 skipped=0 summary="" counts=""

# Sums 'test result: ok. 3 passed; 0 failed; 1 ignored' (cargo) and '3 passed, 0 failed, 1 skipped' (checks).
count() {
	awk '
		/^test result:/ { gsub(/[;,]/, ""); for (i = 2; i <= NF; i++) n[$i] += $(i - 1) }
		/^([A-Za-z]+: )?[0-9]+ passed, [0-9]+ failed/ { gsub(/,/, ""); for (i = 2; i <= NF; i++) n[$i] += $(i - 1) }
		END { print n["passed"] + 0, n["failed"] + 0, n["ignored"] + n["skipped"] + 0 }
	' "$1"
}

step() { # step NAME COMMAND...
	local name=$1 log status p f s began=$SECONDS
	log=$logs/${name//[^a-zA-Z0-9_.-]/_}.log
	shift
	printf '\n== %s\n' "$name"
	"$@" 2>&1 </dev/null | tee "$log"
	status=${PIPESTATUS[0]}
	read -r p f s < <(count "$log")
	# A step that ended badly without saying which test it was counts as one.
	[ "$status" -ne 0 ] && [ "$f" -eq 0 ] && f=1
	[ "$status" -eq 0 ] && [ "$((p + f))" -eq 0 ] && p=1
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	counts+=$(grep -E '^(kill matrix|fault matrix|crowd|soak|properties)[:,]' "$log" | sed 's/^/  /')$'\n'
	summary+=$(printf '  %-34s %5d passed %4d failed %4d skipped %5d s' "$name" "$p" "$f" "$s" "$((SECONDS - began))")$'\n'
}

# With what passing tests print: the matrices and crowds count.
step "cargo test" "$cargo" test --locked --no-fail-fast -- --show-output
# The checks run these two, which `cargo test` alone need not have built.
if "$cargo" build --locked --bins --examples; then
	for check in tests/*/check_*.py tests/moto/run.py; do
		[ -f "$check" ] && step "$check" "$python" "$check"
	done
else
	failed=$((failed + 1))
fi

printf '\n%s\n%s\n%d passed, %d failed, %d skipped\n' "$(grep . <<<"$counts")" "$summary" "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
