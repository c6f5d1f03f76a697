#!/bin/bash
# The machine comes up, before anything of ours is there. The other scripts
# begin where this one ends.
cd "$(dirname "$0")" || exit 1
. lib/prove.sh

state=$(systemctl is-system-running --wait)
[ "$state" = running ] || systemctl --failed --no-legend --plain
same "the machine is up and nothing has failed" running "$state"
prove "systemd-resolved runs" systemctl is-active systemd-resolved
prove "it is a cgroup2 machine" test -e /sys/fs/cgroup/cgroup.controllers
