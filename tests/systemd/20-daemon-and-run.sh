#!/bin/bash
# The daemon under a real systemd, and an agent of the plain user alice: what is
# confined, what is left alone, and that enforcement outlives every way in which
# systemd ends a service.
cd "$(dirname "$0")" || exit 1
. lib/prove.sh
. lib/scene.sh
. lib/unit.sh
. lib/tries.sh

SLICE=/sys/fs/cgroup/exeat.slice

# What a service is: the same process since the same moment, in the same cgroup.
identity() {
    systemctl show -p MainPID,ActiveState,NRestarts,InvocationID,ControlGroup "$@"
}

state=$(systemctl is-system-running)
scene

# --- before ------------------------------------------------------------------
prove "alice reaches the allowed host" as_alice $(page allowed.example)
prove "alice reaches the other host" as_alice $(page other.example)
before=$(identity systemd-resolved dbus systemd-logind user@"$(id -u alice)")
# Of a login that is there before the daemon is.
as_alice systemd-run --quiet --user --unit=browser sleep infinity

# --- the daemon ----------------------------------------------------------------
install_unit
prove "the daemon is ready and enforces" "$EXEAT" status
same "it adopts nothing: no process is in its slice" "" \
    "$(find $SLICE -name cgroup.procs -exec cat {} +)"
prove "alice's own services run where they ran" as_alice systemctl --user is-active browser
prove "alice reaches the other host still" as_alice $(page other.example)

# --- an agent of the plain user ----------------------------------------------
prove "alice's agent reaches the allowed host, by its name" alice_agent $(page allowed.example)
refuted "alice's agent does not resolve the other host's name" alice_agent $(page other.example)
refuted "alice's agent does not reach the other host by address" alice_agent $(page $OTHER)
same "alice's agent is alice" "alice" "$(alice_agent id -un)"
# Agents see a tree of cgroups of their own, so it is looked at from outside.
place() { cut -d: -f3- "/proc/$(pgrep -x -f "sleep $1")/cgroup" | sed 's,/run-[0-9]*$,,'; }
sleeps() { pgrep -x -f "sleep $1"; }
systemd-run --quiet --machine=alice@ --user --working-directory=$PROJECT --unit=sleeper -- \
    "$EXEAT" run --agent worker -- sleep 4711
until_true 20 sleeps 4711 || fail "alice's agent does not sleep"
same "alice's agent is in the slice" "/exeat.slice/exeat:worker.scope" "$(place 4711)"
su - alice -c "cd $PROJECT && exec $EXEAT run --agent worker -- sleep 4712" &
until_true 20 sleeps 4712 || fail "an agent from a login shell does not sleep"
same "an agent from a login shell (su) is in the slice too" "/exeat.slice/exeat:worker.scope" \
    "$(place 4712)"
same "systemd knows the scope" active "$(systemctl is-active exeat:worker.scope)"
kill "$(sleeps 4711)" "$(sleeps 4712)"
wait

# --- the rest of the laptop -----------------------------------------------------
prove "systemd-resolved answers for the other host" resolvectl query other.example
same "systemd-resolved, D-Bus, logind and alice's manager are the processes that they were" \
    "$before" "$(identity systemd-resolved dbus systemd-logind user@"$(id -u alice)")"

# --- enforcement outlives the daemon -------------------------------------------
tries=$(tries_file)
systemd-run --quiet --machine=alice@ --user --working-directory=$PROJECT --unit=trier -- \
    "$EXEAT" run --agent worker -- bash -c "$TRIES" - "$tries"
phase "$tries" "while the daemon runs"
systemctl stop exeat
phase "$tries" "after systemctl stop"
systemctl start exeat
phase "$tries" "after systemctl start"
pid=$(systemctl show -P MainPID exeat)
systemctl kill -s KILL exeat
phase "$tries" "after kill -9"
another() { [ "$(systemctl show -P MainPID exeat)" != "$pid" ] && systemctl is-active exeat; }
until_true 20 another || fail "systemd did not start the daemon anew"
phase "$tries" "after systemd started it anew"
systemctl restart exeat
phase "$tries" "after systemctl restart"
systemctl daemon-reload
phase "$tries" "after systemctl daemon-reload"
systemctl daemon-reexec
phase "$tries" "after systemctl daemon-reexec"
prove "status says that enforcement is up" "$EXEAT" status
as_alice systemctl --user stop trier browser
same "the system is as it was" "$state" "$(systemctl is-system-running)"
