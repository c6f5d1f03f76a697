#!/bin/bash
# The kernel's limits (memory, processes, processor) on agents' cgroups: they
# can be set, they hold, and systemd, which owns the tree, does not take them
# back: the agent is a scope of its, which knows its limits.
cd "$(dirname "$0")" || exit 1
. lib/prove.sh
. lib/scene.sh
. lib/unit.sh

ROOT=/sys/fs/cgroup
SLICE=$ROOT/exeat.slice
AGENT=$SLICE/exeat:worker.scope

scene
install_unit

# An agent that stays, so that its cgroup does.
systemd-run --quiet --machine=alice@ --user --working-directory=$PROJECT --unit=holder -- \
    "$EXEAT" run --agent worker -- sleep infinity
until_true 10 test -d $AGENT || fail "there is no cgroup of the agent"

# Thirty processes that wait for their end, or the error that forbids one; none stays.
FORKS='
import os, signal
children = []
try:
    for _ in range(30):
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
finally:
    for child in children:
        os.kill(child, signal.SIGKILL)
'

prove "without limits an agent takes 256 MB" alice_agent python3 -c 'bytearray(256 << 20)'
prove "without limits an agent starts thirty processes" alice_agent python3 -c "$FORKS"

for controller in cpu memory pids; do
    grep -qw $controller $ROOT/cgroup.controllers || fail "this kernel has no $controller controller"
done
MEMORY=$((64 << 20))
cat >>/etc/exeat/policy.d/worker.yaml <<POLICY
    limits: { memory: 64MiB, swap: 0, pids: 12, cpu: 20% }
POLICY
prove "the policy's limits are put in force" "$EXEAT" reload
same "systemd knows them too" "MemoryMax=$MEMORY TasksMax=12 CPUQuotaPerSecUSec=200ms" \
    "$(systemctl show -p MemoryMax -p TasksMax -p CPUQuotaPerSecUSec exeat:worker.scope | sort -r -t= -k1,1 |
        awk '/Memory/ {m=$0} /Tasks/ {t=$0} /CPU/ {c=$0} END {print m, t, c}')"

limits() { (cd $AGENT && head -n1 memory.max pids.max cpu.max | paste -s -d' ') 2>&1; }
set=$(limits)
same "limits are what was set" \
    "==> memory.max <== $MEMORY  ==> pids.max <== 12  ==> cpu.max <== 20000 100000" "$set"

# hold WHEN: every limit takes effect.
hold() {
    prove "$1: a small program runs" alice_agent python3 -c 'bytearray(1 << 20)'
    refuted "$1: a program that takes 256 MB is ended" \
        alice_agent python3 -c 'bytearray(256 << 20)'
    refuted "$1: the thirteenth process is refused" \
        alice_agent python3 -c "$FORKS"
    local throttled
    throttled=$(awk '/nr_throttled/ { print $2 }' $AGENT/cpu.stat)
    alice_agent sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'
    more() { [ "$(awk '/nr_throttled/ { print $2 }' $AGENT/cpu.stat)" -gt "$throttled" ]; }
    prove "$1: a program that computes is slowed" more
}
hold "fresh"
systemctl daemon-reload
same "after daemon-reload limits are what was set" "$set" "$(limits)"
# Units that come and go make systemd count anew which controllers it needs.
systemd-run --quiet --wait -p CPUWeight=50 -p MemoryMax=1G -p TasksMax=100 true
systemctl daemon-reload
same "after a unit with limits came and went limits are what was set" "$set" "$(limits)"
systemctl daemon-reexec
same "after daemon-reexec limits are what was set" "$set" "$(limits)"
systemctl restart exeat
same "after a restart of the daemon limits are what was set" "$set" "$(limits)"
hold "after all that"
