#!/bin/sh
# tests/venv.sh DIR: makes DIR/bin/python, a Python with tests/requirements.txt installed. Called by the Makefile, once.
set -eu
dir=$1
cd "$(dirname "$0")/.."
command -v python3 >/dev/null || { echo "tests need Python 3: apt-get install python3 python3-venv" >&2; exit 1; }

rm -rf "$dir"
mkdir -p "$(dirname "$dir")"
if python3 -m venv "$dir" >"$dir.log" 2>&1; then
	rm -f "$dir.log"
	exec "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r tests/requirements.txt
fi

# Debian splits ensurepip off into python3-venv. Where only pip is there, a folder on PYTHONPATH does as well.
tail -n 3 "$dir.log" >&2
rm -rf "$dir" "$dir.log"
if ! python3 -m pip --version >/dev/null 2>&1; then
	echo "cannot make a Python environment for the tests: apt-get install python3-venv" >&2
	exit 1
fi
echo "python3 -m venv does not work here (apt-get install python3-venv): using pip install --target" >&2
mkdir -p "$dir/bin"
python3 -m pip install --quiet --disable-pip-version-check --no-input --target "$dir/lib" -r tests/requirements.txt
cat >"$dir/bin/python" <<END
#!/bin/sh
PYTHONPATH='$dir/lib' exec python3 "\$@"
END
chmod 0755 "$dir/bin/python"
