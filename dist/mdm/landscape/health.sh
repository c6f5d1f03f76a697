#!/bin/sh
# Script for Landscape (or anything else that runs a script on many machines and keeps its output
# and its exit code): run as any user. The exit code is that of `exeat health`, see docs/health.md.
#
#     health.sh [PROGRAM [OPTION...]]      for a program elsewhere, and options of it
exeat=${1:-/usr/bin/exeat}
[ $# -eq 0 ] || shift
exec "$exeat" "$@" health
