#!/usr/bin/env bash
# Installs the clients that the tests talk to (Debian's packages, where missing) and passes the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

# What is run, and the package that brings it.
clients=(
    "nc netcat-openbsd"
    "socat socat"
    "curl curl"
    "openssl openssl"
    "python3 python3"
    "strace strace"
    "faketime faketime"
    "unshare util-linux"
    "ip iproute2"
)
missing=()
for client in "${clients[@]}"; do
    read -r program package <<<"$client"
    command -v "$program" >/dev/null || missing+=("$package")
done
# CPython's own tests of its module, whose client side talks to our servers; Debian packs them apart.
if ! python3 -c 'import test.test_socketserver' 2>/dev/null; then
    missing+=(python3 libpython3-testsuite)
fi
if ((${#missing[@]})); then
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        echo "missing: ${missing[*]} (Debian's names). Installing them takes root and apt-get;" >&2
        echo "plain cargo test passes without them and says what it skipped" >&2
        exit 1
    fi
    echo "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# A test that finds no client fails now, instead of saying that it was skipped.
export SOCKETSERVER_TEST_CLIENTS=required
cargo test --quiet
