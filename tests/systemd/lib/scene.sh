# Sourced by tests that need hosts to reach: two of them in a network namespace
# of their own, at addresses that are nobody's (RFC 5737), and their names in
# /etc/hosts, which systemd-resolved answers from. Nothing leaves the machine.

ALLOWED=203.0.113.10
OTHER=203.0.113.20
# Where agents work: what a sandbox opens to them.
PROJECT=/home/alice/project

# scene: brings both hosts up, HTTP on port 80, and logs alice in for good: her
# user manager stays when no session of hers is left.
scene() {
    loginctl enable-linger alice
    install -d -o alice -g alice $PROJECT
    [ ! -e /run/netns/outside ] || return 0
    ip netns add outside
    ip link add laptop type veth peer name router netns outside
    ip address add 198.51.100.2/24 dev laptop
    ip link set laptop up
    ip -n outside link set lo up
    ip -n outside address add 198.51.100.1/24 dev router
    ip -n outside link set router up
    for host in $ALLOWED $OTHER; do
        ip -n outside address add "$host/32" dev lo
        # A service: what a script starts itself ends with the script.
        systemd-run --quiet --unit="host-$host" ip netns exec outside \
            python3 -m http.server --bind "$host" --directory "$(mktemp -d)" 80
    done
    ip route add 203.0.113.0/24 via 198.51.100.1
    printf '%s allowed.example\n%s other.example\n' $ALLOWED $OTHER >>/etc/hosts
    until_true 10 reach allowed.example || fail "the scene: the allowed host does not serve"
    until_true 10 reach other.example || fail "the scene: the other host does not serve"
}

# reach HOST: asks for a page, quickly.
reach() {
    curl -sS --max-time "$((3 * PATIENCE))" --noproxy '*' --output /dev/null "http://$1/"
}

# As the plain user, in a service of their own user manager, reached through PAM
# as a login is: nothing of root's environment comes along.
as_alice() {
    systemd-run --quiet --machine=alice@ --user --working-directory=$PROJECT \
        --pipe --wait --collect -- "$@"
}

# The same as an agent.
alice_agent() {
    as_alice "$EXEAT" run --agent worker -- "$@"
}

# Arguments of a curl that a stranger to this script can run.
page() {
    echo "/usr/bin/curl -sS --max-time $((3 * PATIENCE)) --noproxy * --output /dev/null http://$1/"
}
