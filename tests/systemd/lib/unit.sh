# Sourced by tests that run the daemon: a unit as an administrator writes it
# today (docs/operations.md), until packages bring one.

# install_unit: configuration, policy and unit; started, and ready when this ends.
install_unit() {
    mkdir -p /etc/exeat/policy.d
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
POLICY
    # Where packages lay it: what is masked in /run would not be above /etc.
    cat >/usr/lib/systemd/system/exeat.service <<UNIT
[Unit]
Description=Egress enforcement for agents
After=nss-lookup.target

[Service]
Type=notify
ExecStart=$EXEAT daemon
ExecReload=$EXEAT reload
Restart=always
RestartSec=1
FileDescriptorStoreMax=1024
TimeoutStartSec=$((30 * PATIENCE))

[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
    systemctl start exeat || {
        journalctl --no-pager -n 40 -u exeat
        fail "systemd cannot start the daemon"
    }
}
