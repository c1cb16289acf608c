#!/bin/sh
# The main use, from end to end: a broker runs as root, and an unprivileged user gets what the policy allows.
# `make demo` runs this in namespaces of its own (tests/private-host), so nothing remains afterwards.
set -eu
cd "$(dirname "$0")/.."
bin=$(readlink -f "${VENV:-.venv}")/bin
work=$(mktemp -d)
export NSBROKER_ADDRESS=unix:/run/nsbroker-demo/socket

bold() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
as_user() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
python() { printf '\033[32mnobody$\033[0m %s\n' "python $*"; as_user "$bin/python" "$@"; }
user() { printf '\033[32mnobody$\033[0m %s\n' "nsbroker $(printf '%s ' "$@")"; as_user "$bin/nsbroker" "$@"; }
started=
cleanup() {
    for pid in $started; do kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done
    ip netns del blue 2>/dev/null || true
    crun delete --force web 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT INT TERM

bold 'The policy: everyone may open the namespaces of their own processes; the user nobody also named networks, and one container, in which it may have some sockets made'
cat > "$work/nsbroker.toml" <<X
[[allow]]
name = "own"
who = "everyone"
targets = ["own"]
namespaces = ["*"]

[[allow]]
name = "networks"
who = ["user:65534"]
targets = ["name:*", "crun:web"]
namespaces = ["net"]

[[allow]]
name = "tools"
who = ["user:65534"]
targets = ["crun:web"]
sockets = ["inet:stream", "netlink:raw", "packet:raw"]
files = ["resolv.conf", "hosts", "net/dev"]
X
cat "$work/nsbroker.toml"

bold "The broker, as root"
"$bin/nsbroker" serve --config "$work/nsbroker.toml" 2> "$work/log" & started="$!"
n=0; until grep -q listening "$work/log"; do n=$((n + 1)); [ $n -lt 200 ] || { cat "$work/log"; exit 1; }; sleep 0.05; done
cat "$work/log"

bold "Three things to open: a process of nobody in namespaces of its own, the network 'blue', a container"
unshare --net --uts --ipc setpriv --reuid=65534 --regid=65534 --clear-groups sleep 1000 & process=$!; started="$started $process"
ip netns add blue
ip netns set blue 7
n=0; until [ "$(stat -c %u "/proc/$process")" = 65534 ]; do n=$((n + 1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done
mkdir -p "$work/bundle/root/bin" "$work/bundle/root/proc" "$work/bundle/root/sys" "$work/bundle/root/dev" "$work/bundle/root/www" "$work/bundle/root/etc"
echo "127.0.0.1 web" > "$work/bundle/root/etc/hosts"
: > "$work/bundle/root/etc/resolv.conf"
cp /bin/busybox "$work/bundle/root/bin"
echo "requests_total 42: from the loopback of 'web'" > "$work/bundle/root/www/metrics"
(cd "$work/bundle" && crun spec && sed -i -e 's/"terminal": true/"terminal": false/' -e 's/"path": "rootfs"/"path": "root"/' \
    -e '/"rlimits"/,/\]/d' -e 's/"sh"/"\/bin\/busybox", "httpd", "-f", "-p", "127.0.0.1:8080", "-h", "\/www"/' config.json)
crun run --detach --bundle "$work/bundle" web < /dev/null > /dev/null 2>&1
web=$(crun state web | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
n=0; until grep -q '0100007F:1F90 00000000' "/proc/$web/net/tcp"; do n=$((n + 1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done
echo "process $process; $(ip netns); the container 'web', whose web server listens on its loopback"

bold "Any program of nobody, in the network of root's container: its sockets are made inside, and nothing else changes"
# Linux 5.14 or later can do this.
via() {
    if command -v "$1" > /dev/null; then user via crun:web -- "$@" || echo "exit code $?"; else echo "$1 is not installed: left out"; fi
}
via curl -sS http://127.0.0.1:8080/metrics
via busybox wget -qO- http://web:8080/metrics
via ss -tln
if command -v tcpdump > /dev/null; then
    via timeout 20 tcpdump -nlt -i lo -c 4 tcp > "$work/packets" 2>&1 & tcpdump="$!"; started="$started $tcpdump"
    n=0; until grep -q 'listening on\|exit code' "$work/packets"; do n=$((n + 1)); [ $n -lt 200 ] || break; sleep 0.05; done
    as_user "$bin/nsbroker" via crun:web -- busybox wget -qO- http://127.0.0.1:8080/metrics > /dev/null || true
    wait "$tcpdump" || true
    cat "$work/packets"
else
    echo "tcpdump is not installed: left out"
fi
user cat crun:web net/dev

bold "The same in a network in which the policy allows no sockets: refused, in one line, and the program gets the error EACCES"
user via name:blue -- busybox wget -qO- http://127.0.0.1:8080/metrics || echo "exit code $?"

bold "What the broker recorded of it"
grep '^{.*\(OpenSocket\|OpenFile\)' "$work/log"

bold "Who are we, as the broker sees it?"
user whoami

bold "The namespaces of our process"
user show "pid:$process"

bold "The network 'blue': an unprivileged process gets a descriptor of it, with the same inode"
user open name:blue -- sh -c 'echo "descriptor 3 is $(readlink /proc/self/fd/3); /run/netns/blue is $(stat -c %i /run/netns/blue)"'

bold "...and asks the kernel which number its own network has for it (RTM_GETNSID, which takes no privilege)"
user open name:blue -- "$bin/python" "$PWD/examples/nsid.py"

bold "A container of root, by its name: crun runs it, and the policy lets the user nobody open its network"
user ps
user show crun:web --type net
user open container:web -- sh -c 'echo "descriptor 3 is $(readlink /proc/self/fd/3)"'
echo "and crun says the same: process $web, $(readlink "/proc/$web/ns/net")"

bold "The shell that runs this demo belongs to root: refused, in one line"
user show "pid:$$" || echo "exit code $?"

bold "A page of a server that listens only on the loopback of the container, over a socket that the broker opened inside"
python examples/scrape_metrics.py crun:web 8080 /metrics

bold "A packet socket, which would see all traffic of the container, takes another permission: refused, in one line"
python examples/count_packets.py crun:web || echo "exit code $?"

bold "What the broker recorded of all this"
grep '^{' "$work/log"

bold "Cleaned up"
