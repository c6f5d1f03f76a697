#!/bin/bash
# The laptop has booted anew: what was enforced is, an adopted service was never free, and the
# package goes without a trace.
cd "$(dirname "$0")/.." || exit 1
. lib/prove.sh
. lib/scene.sh
. lib/tries.sh
export DEBIAN_FRONTEND=noninteractive
EXEAT=/usr/bin/exeat

state=$(systemctl is-system-running --wait)
[ "$state" = running ] || systemctl --failed --no-legend --plain
same "the machine is up and nothing has failed" running "$state"
prove "the daemon was started" systemctl is-active exeat
began() { systemctl show -P "$2" "$1"; }
prove "before the service that a policy adopts" test \
    "$(began exeat ActiveEnterTimestampMonotonic)" -lt \
    "$(began courier ExecMainStartTimestampMonotonic)"
scene
phase /var/lib/courier "the adopted service"
never /var/lib/courier OUT "since the boot it was not free once"
prove "alice's agent reaches the allowed host, by its name" alice_agent $(page allowed.example)
refuted "alice's agent does not reach the other host" alice_agent $(page $OTHER)

# --- remove --------------------------------------------------------------------------------
systemd-run --quiet --machine=alice@ --user --working-directory=$PROJECT --unit=left -- \
    "$EXEAT" run --agent worker -- sleep infinity
until_true 20 test -d /sys/fs/cgroup/exeat.slice/exeat:worker.scope ||
    fail "the agent does not start"
prove "the package is removed" dpkg -r exeat
gone() { ! systemctl is-active exeat:worker.scope >/dev/null; }
until_true 10 gone || fail "an agent outlived the package"
passed "no agent outlives the package"
refuted "nothing is pinned" test -e /sys/fs/bpf/exeat/links
prove "the configuration is kept" test -e /etc/exeat/config.yaml
same "no unit waits for a daemon that is not there" "" "$(systemctl show -P DropInPaths courier)"
systemctl restart courier
prove "the service is nobody's" systemctl is-active courier
free() { tail -n 2 /var/lib/courier | grep -qx OUT; }
until_true 20 free || fail "it does not reach the other host"
passed "and reaches the other host"
systemctl disable --quiet --now courier

# --- purge ----------------------------------------------------------------------------------
prove "the package is purged" dpkg -P exeat
for path in /etc/exeat /var/lib/exeat /run/exeat /usr/bin/exeat; do
    refuted "$path is gone" test -e $path
done
same "the system is as it was" "$state" "$(systemctl is-system-running)"
