#!/bin/bash
# The package on a laptop that has had none: installed, upgraded, downgraded and interrupted
# while an agent tries both hosts all the time.
cd "$(dirname "$0")/.." || exit 1
. lib/prove.sh
. lib/scene.sh
. lib/tries.sh
export DEBIAN_FRONTEND=noninteractive

scene
# What the scripts before have laid by hand.
systemctl unmask --runtime --quiet exeat
systemctl stop exeat 2>/dev/null
"$EXEAT" teardown --kill >/dev/null 2>&1
# What the audit log has said is not to be taken back.
chattr -R -a /var/lib/exeat/audit
rm -rf {/etc,/usr/lib}/systemd/system/{exeat,courier}.service /etc/exeat /var/lib/exeat /usr/bin/exeat \
    /usr/lib/systemd/system-generators/exeat-generator
systemctl daemon-reload
EXEAT=/usr/bin/exeat
state=$(systemctl is-system-running)

# --- a fresh installation ---------------------------------------------------------------
prove "the package is installed" dpkg -i /payload/old.deb
prove "its daemon runs" systemctl is-active exeat
prove "it will at the next boot" systemctl is-enabled exeat
prove "alice reaches the other host: nothing is governed" as_alice $(page other.example)
refuted "there is no agent before a policy names one" alice_agent true

cat >/etc/exeat/policy.d/worker.yaml <<'POLICY'
version: 1
agents:
  worker:
    mode: enforce
    allow:
      - host: allowed.example
        ports: [80]
        http: none
        reason: the one that is allowed
    limits: { pids: 64 }
  courier:
    mode: enforce
    match: [{unit: courier.service}]
    allow:
      - host: allowed.example
        ports: [80]
        http: none
        reason: the one that is allowed
POLICY
prove "a policy is put in force" systemctl reload exeat
prove "alice's agent reaches the allowed host, by its name" alice_agent $(page allowed.example)
refuted "alice's agent does not reach the other host" alice_agent $(page $OTHER)

tries=$(tries_file)
systemd-run --quiet --machine=alice@ --user --working-directory=$PROJECT --unit=trier -- \
    "$EXEAT" run --agent worker -- bash -c "$TRIES" - "$tries"
phase "$tries" "as installed"
same "the agent is a scope, with its limit" 64 \
    "$(systemctl show -P TasksMax exeat:worker.scope)"

# --- other versions, under load ---------------------------------------------------------
version() { dpkg-query -W -f '${Version}' exeat; }
old=$(version)
prove "the package is upgraded" dpkg -i /payload/new.deb
phase "$tries" "after the upgrade"
refuted "it is another version" test "$(version)" = "$old"
prove "the package is downgraded" dpkg --force-downgrade -i /payload/old.deb
phase "$tries" "after the downgrade"
same "it is the version of before" "$old" "$(version)"
# Killed while it unpacks, or configures.
for patience in 0.5 2; do
    dpkg -i /payload/new.deb >/dev/null 2>&1 &
    installer=$!
    sleep $patience
    kill -KILL $installer 2>/dev/null
    wait $installer
    phase "$tries" "after an upgrade that was killed at $patience s"
    rm -f /var/lib/dpkg/updates/tmp.i
    dpkg --configure -a >/dev/null 2>&1
    prove "the upgrade is made up for" dpkg -i /payload/new.deb
done
phase "$tries" "after that"
never "$tries" OUT "in all that time the other host was not reached once"
prove "status says that enforcement is up" "$EXEAT" status

# --- the clock ----------------------------------------------------------------------------
date -s '+3 days' >/dev/null
phase "$tries" "three days later, as the clock says"
date -s '-6 days' >/dev/null
phase "$tries" "three days before"
date -s '+3 days' >/dev/null
prove "status says that enforcement is up still" "$EXEAT" status

# --- what is adopted at the next boot -----------------------------------------------------
printf '#!/bin/bash\n%s\n' "$TRIES" >/usr/local/bin/courier
chmod 755 /usr/local/bin/courier
cat >/etc/systemd/system/courier.service <<'UNIT'
[Service]
ExecStart=/usr/local/bin/courier /var/lib/courier
[Install]
WantedBy=multi-user.target
UNIT
systemctl enable --quiet courier
systemctl daemon-reload
same "the system is as it was" "$state" "$(systemctl is-system-running)"
mkdir -p /run/exeat-vm && touch /run/exeat-vm/reboot
