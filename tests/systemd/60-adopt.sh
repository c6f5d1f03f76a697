#!/bin/bash
# What the launcher did not start: a scope of the plain user's own manager, and a container of
# podman, which are governed where they are.
cd "$(dirname "$0")" || exit 1
. lib/prove.sh
. lib/scene.sh
. lib/unit.sh
. lib/tries.sh

scene
install_unit
# The allowed host resolves for every agent that may reach it.
for agent in "assistant {unit: assistant.scope}" "box {container: box}"; do
    cat >"/etc/exeat/policy.d/${agent%% *}.yaml" <<POLICY
version: 1
agents:
  ${agent%% *}:
    mode: enforce
    match: [${agent#* }]
    allow:
      - host: allowed.example
        ports: [80]
        http: none
        reason: the one that is allowed
POLICY
done
prove "the policy is in force" "$EXEAT" reload

adopted() { "$EXEAT" status --output json | grep -q "$1"; }

# --- a scope of alice's manager ------------------------------------------------------
scope=$(tries_file)
systemd-run --quiet --machine=alice@ --user --working-directory=$PROJECT --unit=terminal -- \
    systemd-run --user --scope --unit=assistant bash -c "$TRIES" - "$scope"
until_true 20 adopted assistant.scope || fail "nobody governs the scope"
phase "$scope" "alice's scope"
same "it is where systemd has put it" "app.slice/assistant.scope" \
    "$(as_alice systemctl --user show -P ControlGroup assistant.scope | grep -o 'app.slice/.*')"
systemctl restart exeat
phase "$scope" "alice's scope, after a restart of the daemon"
as_alice systemctl --user stop assistant.scope

# --- a container of podman --------------------------------------------------------------
mkdir -p /srv/box/{usr,etc,proc,sys,dev,tmp,run}
for part in bin lib lib64 sbin; do ln -sfn usr/$part /srv/box/$part; done
box=$(tries_file)
prove "podman starts a container" podman run --detach --name box --network host \
    --volume /usr:/usr:ro --volume "$box:/tries" --rootfs /srv/box bash -c "$TRIES" - /tries
until_true 20 adopted libpod- || fail "nobody governs the container"
phase "$box" "the container"
systemctl kill -s KILL exeat
phase "$box" "the container, after kill -9"
prove "podman ends it" podman rm --force --time 1 box
rm /etc/exeat/policy.d/{assistant,box}.yaml
until_true 30 "$EXEAT" status || fail "the daemon is not back"
prove "the policy is as it was" "$EXEAT" reload
