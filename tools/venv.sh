#!/bin/sh
# Make a virtual environment with whichever tool can be had: venv, then virtualenv.
# usage: venv.sh PYTHON FOLDER
set -u
python=$1 folder=$2

if ! command -v "$python" >/dev/null 2>&1; then
  echo "error: $python was not found; install Python 3.11 or later, or name one: make PYTHON=python3.12" >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $($python --version 2>&1) is too old: Orca needs 3.11 or later (make PYTHON=…)" >&2
  exit 1
fi
[ -x "$folder/bin/python" ] && "$folder/bin/python" -m pip --version >/dev/null 2>&1 && exit 0
"$python" -m venv "$folder" >/dev/null 2>&1 && exit 0
rm -rf "$folder"
"$python" -m virtualenv --quiet "$folder" 2>/dev/null && exit 0
command -v virtualenv >/dev/null 2>&1 && virtualenv --quiet --python "$python" "$folder" && exit 0
echo "error: neither venv nor virtualenv works with $python." >&2
echo "On Debian and Ubuntu: apt-get install python3-venv; elsewhere: $python -m pip install virtualenv" >&2
exit 1
