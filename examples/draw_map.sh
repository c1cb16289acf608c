#!/bin/sh
# Draws examples/map.svg: a few real containers, a rootless process, a named network, and which namespaces they share.
# `make map` runs this in namespaces of its own (tests/private-host), so only the picture remains afterwards.
set -eu
[ "${1:-}" = inside ] || exec unshare --pid --fork --kill-child --mount-proc -- "$0" inside
cd "$(dirname "$0")/.."
nsbroker=$(readlink -f "${VENV:-.venv}")/bin/nsbroker
work=$(mktemp -d)
export NSBROKER_ADDRESS=unix:/run/nsbroker-map/socket
started=
cleanup() {
    podman rm --force --all --time 0 > /dev/null 2>&1 || true
    for name in web db; do crun delete --force "$name" 2> /dev/null || true; done
    for pid in $started; do kill "$pid" 2> /dev/null || true; wait "$pid" 2> /dev/null || true; done
    ip netns del blue 2> /dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT INT TERM

tree=$work/bundle/root
for folder in bin proc sys dev etc tmp run; do mkdir -p "$tree/$folder"; done
cp /bin/busybox "$tree/bin"
"$nsbroker" serve --config nsbroker/daemon/nsbroker.d/00-default.toml 2> "$work/log" & started=$!
n=0; until grep -q listening "$work/log"; do n=$((n + 1)); [ $n -lt 200 ] || { cat "$work/log"; exit 1; }; sleep 0.05; done

# crun: the container web, and db in the network of web.
cd "$work/bundle"
crun spec
sed -i -e 's/"terminal": true/"terminal": false/' -e 's/"path": "rootfs"/"path": "root"/' -e '/"rlimits"/,/\]/d' \
    -e 's/"sh"/"\/bin\/busybox", "sleep", "1000"/' config.json
crun run --detach web < /dev/null > /dev/null
web=$(crun state web | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
sed -i "s|\"type\": \"network\"|\"type\": \"network\", \"path\": \"/proc/$web/ns/net\"|" config.json
crun run --detach db < /dev/null > /dev/null

# podman: shop, and its metrics exporter, which shares namespaces with it as in a pod; and builder, with a user namespace.
cat > "$work/containers.conf" <<X
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
X
export CONTAINERS_CONF="$work/containers.conf"
tar -C "$tree" -cf "$work/busybox.tar" .
podman import -q "$work/busybox.tar" localhost/busybox > /dev/null
run() { podman --runtime crun run --detach "$@" localhost/busybox /bin/busybox sleep 1000 > /dev/null; }
run --name shop --network none --ipc shareable
run --name shop-metrics --network container:shop --ipc container:shop --uts container:shop
run --name builder --network none --uidmap 0:200000:65536

# A named network, and namespaces that an unprivileged user created.
ip netns add blue
setpriv --reuid=65534 --regid=65534 --clear-groups unshare --user --map-root-user --net --uts sleep 1000 & started="$started $!"
sleep 0.5

"$nsbroker" map "$work/map.svg"
cat "$work/map.svg" > "$OLDPWD/examples/map.svg"
