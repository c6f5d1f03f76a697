#!/bin/bash
# A unit that a policy adopts never starts unfiltered: it waits in its own cgroup until that is
# governed, does not start where nobody governs it, and starts all the same where the kernel's
# command line says so.
cd "$(dirname "$0")" || exit 1
. lib/prove.sh
. lib/scene.sh
. lib/unit.sh

scene
install_unit

# A service whose first deed is to send.
cat >/etc/systemd/system/courier.service <<UNIT
[Service]
Type=oneshot
ExecStart=/bin/bash -c 'rm -f /run/courier; for host in $OTHER $ALLOWED; do \
    (exec 3<>/dev/tcp/\$host/80) 2>/dev/null && echo \$host out || echo \$host refused; done >/run/courier'
UNIT
systemctl daemon-reload
courier() {
    rm -f /run/courier
    systemctl start courier && paste -s -d' ' /run/courier
}
FREE="$OTHER out $ALLOWED out"
HELD="$OTHER refused $ALLOWED out"
same "without a policy it reaches both hosts" "$FREE" "$(courier)"

# --- as a package lays it ---------------------------------------------------------
ln -sf "$EXEAT" /usr/bin/exeat
install -m 755 /payload/dist/systemd/system-generators/exeat-generator \
    /usr/lib/systemd/system-generators/
cat >/etc/exeat/policy.d/courier.yaml <<'POLICY'
version: 1
agents:
  courier:
    mode: enforce
    match: [{unit: courier.service}]
    allow:
      - host: allowed.example
        ports: [80]
        http: none
        reason: the one that is allowed
POLICY
prove "the policy that adopts it is in force" "$EXEAT" reload
systemctl daemon-reload
same "it waits for the daemon" /run/systemd/generator/courier.service.d/50-exeat.conf \
    "$(systemctl show -P DropInPaths courier)"
same "what no policy adopts is left alone" "" "$(systemctl show -P DropInPaths dbus)"
for round in 1 2 3 4 5; do
    same "start $round: its first packet is filtered" "$HELD" "$(courier)"
done

# --- nobody governs it --------------------------------------------------------------
systemctl stop exeat
rm -f /run/courier
same "a daemon that is stopped is started for it" "$HELD" "$(courier)"
prove "the daemon runs again" systemctl is-active exeat
systemctl stop exeat
rm -f /run/courier
systemctl mask --runtime --quiet exeat
refuted "without a daemon it does not start" systemctl start courier
refuted "and has sent nothing" test -e /run/courier
same "it has failed, as systemd says" exit-code "$(systemctl show -P Result courier)"
systemctl unmask --runtime --quiet exeat

# A policy that cannot be read is no way out.
cp /etc/exeat/policy.d/courier.yaml /run/courier.yaml
echo 'agents: [' >/etc/exeat/policy.d/courier.yaml
systemctl daemon-reload
same "with a broken policy the last good one holds" "$HELD" "$(courier)"
cp /run/courier.yaml /etc/exeat/policy.d/courier.yaml
systemctl stop exeat

# --- the escape -----------------------------------------------------------------------
sed 's/$/ exeat.escape=1/' /proc/cmdline >/run/cmdline
mount --bind /run/cmdline /proc/cmdline
systemctl daemon-reload
same "the escape masks the daemon" masked "$(systemctl show -P LoadState exeat)"
same "and lets the unit start" "$FREE" "$(courier)"
umount /proc/cmdline
systemctl daemon-reload
same "without it everything is as before" "$HELD" "$(courier)"
prove "the daemon enforces" "$EXEAT" status
