# Sourced by what runs in a root: /srv has the repositories.
exec 2>&1
passed() { echo "  ok: $1"; }
fail() { echo "  FAILED: $1"; exit 1; }
prove() { local what=$1; shift; "$@" >/tmp/said 2>&1 || { cat /tmp/said; fail "$what"; }; passed "$what"; }
refuted() { local what=$1; shift; ! "$@" >/tmp/said 2>&1 || { cat /tmp/said; fail "$what"; }; passed "$what"; }

# What an installed package is, whoever installed it.
installed() {
    prove "the program runs" exeat --version
    prove "there is the group exeat" getent group exeat
    prove "the unit is whole" systemd-analyze verify --man=no /usr/lib/systemd/system/exeat.service
    prove "the unit is enabled" systemctl is-enabled exeat.service
    prove "there is a page of the manual" test -s /usr/share/man/man1/exeat.1.gz
    prove "there is a list of what it is made of" grep -q CycloneDX /usr/share/doc/exeat/sbom.cdx.json
    prove "licences of others are there" sh -c 'zcat /usr/share/doc/exeat/third-party-licenses.gz | grep -q "^tokio "'
    prove "stock policies are there" test -s /usr/share/exeat/policies/claude-code.yaml
    prove "no policy is in force" sh -c 'test -z "$(ls -A /etc/exeat/policy.d)"'
    prove "stock policies are sound" exeat check /usr/share/exeat/policies/claude-code.yaml
}
