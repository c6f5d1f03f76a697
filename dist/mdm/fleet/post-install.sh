#!/bin/sh
# Fleet runs this as root after install.sh, and rolls the installation back when it fails. So it
# fails only for what makes an installation useless: the daemon does not answer, or does not
# enforce. A laptop without a policy yet, or without its network, is well installed.
#
#     post-install.sh [PROGRAM [OPTION...]]      for a program elsewhere, and options of it
# EXEAT_TRIES seconds (30) are waited for the daemon.
exeat=${1:-/usr/bin/exeat}
[ $# -eq 0 ] || shift

tries=${EXEAT_TRIES:-30}
while :; do
    "$exeat" "$@" health --ignore policy,policy_load,other
    code=$?
    # 4: it has not started yet.
    [ $code -eq 4 ] && [ $tries -gt 0 ] || break
    tries=$((tries - 1))
    sleep 1
done
case $code in
4 | 10) exit $code ;;
*) exit 0 ;;
esac
