#!/bin/bash
# Names under a real systemd: an agent's only resolver is the gate, and what it
# asks while the daemon is away is answered when it is back.
cd "$(dirname "$0")" || exit 1
. lib/prove.sh
. lib/scene.sh
. lib/unit.sh
. lib/tries.sh

scene
install_unit

# --- the other doors ---------------------------------------------------------
# Whether a Unix socket can be reached, by a name that no link changes.
REACH='
import socket, sys
socket.socket(socket.AF_UNIX).connect(sys.argv[1])
'
for door in /run/systemd/resolve/io.systemd.Resolve /run/dbus/system_bus_socket; do
    prove "alice reaches $door" as_alice python3 -c "$REACH" $door
    refuted "alice's agent does not reach $door" alice_agent python3 -c "$REACH" $door
    # The user's manager is a process of the same user outside.
    outside=$(systemctl show -P MainPID "user@$(id -u alice)")
    refuted "nor by the folders of another process" \
        alice_agent python3 -c "$REACH" "/proc/$outside/root$door"
done
prove "alice asks systemd-resolved" as_alice resolvectl query other.example
refuted "alice's agent cannot" alice_agent resolvectl query other.example
systemctl restart systemd-resolved
refuted "nor when it has been restarted" \
    alice_agent python3 -c "$REACH" /run/systemd/resolve/io.systemd.Resolve

# --- the gate ------------------------------------------------------------------
# A question by UDP to a server that does not exist; prints the answer's code.
ASK='
import socket, struct, sys
name = b"".join(bytes([len(l)]) + l.encode() for l in sys.argv[1].split(".")) + b"\0"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[2]))
s.connect(("203.0.113.53", 53))
s.send(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1))
print(s.recv(512)[3] & 15)
'
ask() { alice_agent python3 -c "$ASK" "$1" $((10 * PATIENCE)); }
same "the gate answers for the allowed name" 0 "$(ask allowed.example)"
same "the gate refuses the other" 5 "$(ask other.example)"
kept() { [ "$(systemctl show -P NFileDescriptorStore exeat)" -ge 2 ]; }
prove "systemd keeps the gate's sockets" kept

# An agent that is there before the daemon is killed, and asks when it is gone.
mark=$(mktemp -u -p $PROJECT)
answers=$(tries_file)
systemd-run --quiet --machine=alice@ --user --working-directory=$PROJECT --unit=asker -- \
    "$EXEAT" run --agent worker -- bash -c '
        echo ready >>"$1"
        until [ -e "$2" ]; do sleep 0.1; done
        for name in allowed.example other.example; do
            python3 -c "$3" $name "$4" >>"$1" 2>&1
        done
        echo done >>"$1"' - "$answers" "$mark" "$ASK" $((30 * PATIENCE))
until_true 10 grep -q ready "$answers" || fail "the asker does not start"
pid=$(systemctl show -P MainPID exeat)
systemctl kill -s KILL exeat
touch "$mark"
another() { [ "$(systemctl show -P MainPID exeat)" != "$pid" ] && systemctl is-active exeat; }
until_true 30 another || fail "systemd did not start the daemon anew"
until_true 30 grep -q done "$answers" || fail "the agent was not answered: $(cat "$answers")"
same "what was asked after kill -9 is answered by the next daemon" "ready 0 5 done" \
    "$(paste -s -d' ' "$answers")"
