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
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}
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

# With what passing tests print: the matrices and crowds count. Tests let the daemons' clocks run fast; where the machine
# stands still for a moment, such a clock runs away. So what fails beside others is run once more, one by one, and that
# counts; it is named. More than a few are no accident.
rust() {
	local first=$logs/first.log names
	"$cargo" test --locked --no-fail-fast -- --show-output >"$first" 2>&1 && { cat "$first"; return; }
	names=$(awk '/^failures:$/ { on = 1; next } /^test result/ { on = 0 } on && /^    [a-z_]+::/ { print $1 }' "$first" | sort -u)
	if [ -z "$names" ] || [ "$(wc -l <<<"$names")" -gt 6 ]; then
		cat "$first"
		return 1
	fi
	sed -E 's/^test result: FAILED\. ([0-9]+) passed; [0-9]+ failed/test result: ok. \1 passed; 0 failed/' "$first"
	printf '\nonce more, one by one:\n%s\n' "$names"
	# shellcheck disable=SC2086
	"$cargo" test --locked --no-fail-fast -- --exact --test-threads=1 $names
}
step "cargo test" rust
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
