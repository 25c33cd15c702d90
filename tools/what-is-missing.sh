#!/bin/sh
# Say plainly what this machine lacks for the whole of the tests. In CI a missing engine is an error.
set -u
missing=""
if ! curl -sf --max-time 5 --unix-socket /var/run/docker.sock http://engine/_ping >/dev/null 2>&1 &&
  ! docker version >/dev/null 2>&1; then
  missing="${missing}  a container engine: tests marked 'engine' are left out\n"
  engine=no
else
  engine=yes
fi
[ "$(id -u)" = 0 ] || missing="${missing}  root: tests marked 'root' are left out\n"
command -v docker-registry >/dev/null 2>&1 ||
  missing="${missing}  docker-registry (Debian package): tests that pull from a registry are left out\n"
command -v podman >/dev/null 2>&1 && command -v runc >/dev/null 2>&1 ||
  missing="${missing}  podman and runc (Debian packages): the engine tests on Podman are left out\n"
command -v pebble >/dev/null 2>&1 ||
  missing="${missing}  pebble (Debian package): tests that order certificates by ACME are left out\n"
command -v busybox >/dev/null 2>&1 ||
  missing="${missing}  a static busybox (Debian package busybox-static): tests that make images are left out\n"
command -v cc >/dev/null 2>&1 ||
  missing="${missing}  a C compiler (cc): tests that break a real disk or clock are left out\n"
for tool in ip iptables nsenter tc; do
  command -v "$tool" >/dev/null 2>&1 ||
    missing="${missing}  $tool: tests in network namespaces are left out\n"
done
[ -z "$missing" ] || printf 'This machine lacks:\n%b' "$missing"
if [ "$engine" = no ] && [ -n "${CI:-}" ]; then
  echo "error: in CI a container engine must answer at /var/run/docker.sock" >&2
  exit 1
fi
