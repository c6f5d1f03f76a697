#!/bin/sh
# Fleet runs this as root, with the downloaded package's path in INSTALLER_PATH.
set -eu
case $INSTALLER_PATH in
*.rpm) exec rpm --upgrade --replacepkgs "$INSTALLER_PATH" ;;
# What the administrator changed in /etc/exeat stays.
*) DEBIAN_FRONTEND=noninteractive exec dpkg --force-confdef --force-confold --install "$INSTALLER_PATH" ;;
esac
