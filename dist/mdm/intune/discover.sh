#!/bin/sh
# Discovery script of a custom compliance policy of Microsoft Intune for Linux. Intune wants one
# line of JSON on standard output and exit code 0, whatever is found; what is compliant is decided
# by the rules in compliance.json. Needs no root: every local user may ask for the status.
#
#     discover.sh [PROGRAM [OPTION...]]      for a program elsewhere, and options of it
exeat=${1:-/usr/bin/exeat}
[ $# -eq 0 ] || shift

line=$("$exeat" "$@" health --flat 2>/dev/null)
case $line in
'{'*'}') printf '%s\n' "$line" ;;
# Not installed, or it could not even read its configuration. A rule on a name that is not here
# would be an error of the script instead of a device that is not compliant.
*) printf '%s\n' '{"exeat_healthy":false,"exeat_exit":127,"exeat_version":"0.0.0","exeat_check_daemon":"fail","exeat_check_walls":"unknown","exeat_check_policy":"unknown","exeat_check_policy_load":"unknown","exeat_check_audit":"unknown"}' ;;
esac
exit 0
