# Sourced by every test: how it says what it proves, and how it fails.
#
# A test is a list of claims. `prove "the claim" command…` prints the claim and
# runs the command; the first one that does not hold ends the test, with what
# the command printed.

set -u -o pipefail
shopt -s inherit_errexit

# A factor on every time-out: an emulated machine is ten times slower.
PATIENCE=${EXEAT_PATIENCE:-1}
EXEAT=${EXEAT_BIN:?names the exeat binary}

proved=0

# The last line is as of Rust's tests, for `cargo xtask vm-test` to count.
finish() {
    local code=$?
    if [ $code -eq 0 ]; then
        echo "test result: ok. $proved passed; 0 failed"
    else
        echo "test result: FAILED. $proved passed; 1 failed"
    fi
}
trap finish EXIT

passed() {
    proved=$((proved + 1))
    echo "proved: $*"
}

fail() {
    # What the daemon and systemd said of it, for who reads the log.
    journalctl --no-pager -o short-monotonic -n 60 2>/dev/null | sed 's/^/    | /'
    echo "test $* ... FAILED"
    exit 1
}

# prove CLAIM COMMAND…: the command succeeds.
prove() {
    local claim=$1 said
    shift
    if said=$("$@" 2>&1); then
        passed "$claim"
    else
        local code=$?
        [ -z "$said" ] || printf '%s\n' "$said" | sed 's/^/    /'
        fail "$claim (\`$*\` ended with $code)"
    fi
}

# refuted CLAIM COMMAND…: the command fails. It must be one that `prove` has
# seen succeed under other circumstances, or it may fail for any reason.
refuted() {
    local claim=$1 said
    shift
    if said=$("$@" 2>&1); then
        [ -z "$said" ] || printf '%s\n' "$said" | sed 's/^/    /'
        fail "$claim (\`$*\` succeeded)"
    fi
    passed "$claim"
}

# same CLAIM EXPECTED FOUND: both texts are equal.
same() {
    [ "$2" = "$3" ] || fail "$1: expected \`$2\`, found \`$3\`"
    passed "$1"
}

# until_true SECONDS COMMAND…: waits for a condition, no longer than this many
# seconds times PATIENCE.
until_true() {
    local left=$(($1 * PATIENCE * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.1
    done
}
