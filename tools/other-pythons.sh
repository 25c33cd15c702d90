#!/bin/sh
# Run the unit tests on every other supported Python that is found on this machine.
# SUITES="tests/unit tests/api" runs more.
# usage: other-pythons.sh PYTHON-ALREADY-USED
set -eu
used=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for version in 3.11 3.12 3.13; do
  [ "$version" = "$used" ] && continue
  found=""
  for candidate in "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python; do
    if "$candidate" -c 'import sys, venv' >/dev/null 2>&1; then
      found=$candidate
      break
    fi
  done
  if [ -z "$found" ]; then
    echo "Python $version: not found here, left out"
    continue
  fi
  folder=.venv-$version
  sh "$(dirname "$0")/venv.sh" "$found" "$folder"
  if [ ! -e "$folder/.installed" ] || [ pyproject.toml -nt "$folder/.installed" ]; then
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[dev]'
    touch "$folder/.installed"
  fi
  echo "Python $version:"
  # Another interpreter changes nothing about what a disk may do or a stranger send: few states, no fuzzing.
  # shellcheck disable=SC2086
  "$folder/bin/python" -m pytest -q -n 4 --crash-states 1000 \
    --ignore tests/api/test_schemathesis.py ${SUITES:-tests/unit}
done
