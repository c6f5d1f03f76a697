# Sourced by tests that watch an agent over time: it tries both hosts over and over and writes
# down what came of it, and every claim is of what it wrote since the claim began.

# The program, for bash: `bash -c "$TRIES" - FILE`.
TRIES='
try() { (exec 3<>"/dev/tcp/$1/80") 2>/dev/null; }
while sleep 0.2; do
    try '$ALLOWED' && echo allowed || echo "allowed refused"
    try '$OTHER' && echo OUT || echo refused
done >>"$1"'

# A file that everybody can write into, where agents can too.
tries_file() {
    local file
    file=$(mktemp -p $PROJECT)
    chmod 666 "$file"
    echo "$file"
}

# More than COUNT lines are there than were: at_least FILE LINES COUNT.
at_least() { [ "$(wc -l <"$1")" -ge $(($2 + $3)) ]; }

# phase FILE WHEN: from now on the allowed host is reached and the other one is not. The first
# two lines may be of what was tried before.
phase() {
    local file=$1 when=$2 lines since
    lines=$(wc -l <"$file")
    until_true 20 at_least "$file" "$lines" 8 || fail "$when: the agent tries no more"
    since=$(tail -n +"$((lines + 3))" "$file" | sort | uniq -c | tr -s ' \n' ' ')
    case $since in
    *OUT*) fail "$when: the agent reached the other host ($since)" ;;
    *"allowed refused"*) fail "$when: the agent lost the allowed host ($since)" ;;
    esac
    passed "$when: the allowed host is reached, the other is not"
}

# never FILE WORD WHEN: no line of the whole file is this one.
never() {
    ! grep -qx "$2" "$1" || fail "$3: \`$2\` $(grep -cx "$2" "$1") times"
    passed "$3"
}
