# Only a removal takes enforcement down: an upgrade swaps programs within their links.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl --no-reload disable --now exeat.service >/dev/null 2>&1 || :
    else
        systemctl --no-reload disable exeat.service >/dev/null 2>&1 || :
    fi
    /usr/lib/exeat/setup remove
fi
exit 0
