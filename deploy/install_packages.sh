#!/usr/bin/env bash
# install_packages.sh PACKAGE...: install Debian packages as root without starting any service.
#
# Debian starts a service as soon as its package is installed. A policy-rc.d that forbids it is put in
# place for that moment; the one that was there before comes back exactly as it was, also after an
# interrupt. An Orthanc that is already installed or running is not touched.

set -euo pipefail
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1

policy=/usr/sbin/policy-rc.d
saved=/usr/sbin/policy-rc.d.strokecore-saved
signature='# temporary, by StrokeCore: no service starts while its packages are installed'

is_ours() { [ -f "$policy" ] && [ ! -L "$policy" ] && grep -qxF -- "$signature" "$policy"; }

restore() {
    if is_ours; then rm -f -- "$policy"; fi
    if [ -e "$saved" ] || [ -L "$saved" ]; then mv -f -- "$saved" "$policy"; fi
}

# One installation at a time on this machine; a folder can be locked without leaving a file behind.
exec 7</usr/sbin
flock 7

restore # what an earlier run that was killed left behind
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

had_orthanc=$(dpkg-query -W -f '${db:Status-Status}' orthanc 2>/dev/null || true)

if [ -e "$policy" ] || [ -L "$policy" ]; then mv -- "$policy" "$saved"; fi
printf '#!/bin/sh\n%s\nexit 101\n' "$signature" >"$policy"
chmod 755 "$policy"

install=(apt-get install --yes --no-install-recommends --no-upgrade --no-remove -o DPkg::Lock::Timeout=300)
"${install[@]}" "$@" || { apt-get update && "${install[@]}" "$@"; }

# Freshly installed, Debian's own Orthanc would start with the next boot and accept images from anybody.
if [ "$had_orthanc" != installed ] && command -v systemctl >/dev/null && [ -e /lib/systemd/system/orthanc.service ]; then
    systemctl disable orthanc.service || true
fi
