/usr/lib/exeat/setup configure
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload >/dev/null 2>&1 || :
fi
if [ "$1" -eq 1 ]; then
    systemctl --no-reload preset exeat.service >/dev/null 2>&1 || :
    if [ -d /run/systemd/system ] && systemctl --quiet is-enabled exeat.service; then
        systemctl --no-block start exeat.service >/dev/null 2>&1 || :
    fi
elif [ -d /run/systemd/system ]; then
    # Programs stay attached meanwhile.
    systemctl try-restart exeat.service >/dev/null 2>&1 || :
fi
exit 0
