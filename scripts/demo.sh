#!/usr/bin/env bash
# Starts the threaded echo server, lets a real client talk to it, and stops it with SIGTERM.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --quiet --example echo
log=$(mktemp)
# cargo becomes the server, wherever it has built it.
cargo run --quiet --example echo -- --transport tcp --strategy threading --address 127.0.0.1:0 >"$log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -f "$log"' EXIT
until grep -q '^listening on' "$log"; do
    kill -0 "$server" 2>/dev/null || exit 1 # it has said why
    sleep 0.05
done
cat "$log"

port=$(sed -n 's/^listening on .*://p' "$log")
exec 3<>"/dev/tcp/127.0.0.1/$port" # bash itself is the client
for line in hello world egon; do
    echo "$line" >&3
    read -r answer <&3
    echo "client sent '$line' and got '$answer'"
done
exec 3>&-

kill -TERM "$server"
wait "$server"
tail -n 1 "$log"
