#!/bin/sh
# Fleet runs this as root. Removal takes enforcement down; records and configuration stay.
set -eu
if command -v dpkg >/dev/null && dpkg-query -W exeat >/dev/null 2>&1; then
    DEBIAN_FRONTEND=noninteractive exec apt-get remove --yes exeat
fi
exec rpm --erase exeat
