srv=/srv/trial
cp $srv/exeat.gpg /usr/share/keyrings/exeat.gpg
printf 'Types: deb\nURIs: file:%s/apt\nSuites: stable\nComponents: main\nSigned-By: /usr/share/keyrings/exeat.gpg\n' $srv \
    >/etc/apt/sources.list.d/exeat.sources
# Nothing else: there is no network here.
: >/etc/apt/sources.list
mkdir -p /var/lib/apt/lists/partial
apt() { apt-get -q -o Acquire::Languages=none -o APT::Update::Error-Mode=any "$@"; }

prove "apt takes the signed repository" apt update
mv /usr/share/keyrings/exeat.gpg /tmp/right.gpg
cp /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/exeat.gpg
refuted "apt refuses it under another key" apt update
cp /tmp/right.gpg /usr/share/keyrings/exeat.gpg
cp $srv/apt/dists/stable/InRelease /tmp/InRelease
sed -i 's/^Suite: .*/Suite: forged/' $srv/apt/dists/stable/InRelease
refuted "apt refuses a forged list" apt update
cp /tmp/InRelease $srv/apt/dists/stable/InRelease
prove "apt takes it again" apt update

prove "install" apt install --yes exeat
installed
first=$(dpkg-query -W -f '${Version}' exeat)

# An administrator's own.
echo 'metrics: off' >>/etc/exeat/config.yaml
echo 'version: 1' >/etc/exeat/policy.d/own.yaml
# A removal would take the pins down; an upgrade must not even try.
dpkg-divert --quiet --local --rename --divert /usr/bin/exeat.real --add /usr/bin/exeat
printf '#!/bin/sh\necho "$@" >>/var/called\nexec /usr/bin/exeat.real "$@"\n' >/usr/bin/exeat
chmod 755 /usr/bin/exeat
deb=$(ls $srv/apt/pool/exeat_*_"$(dpkg --print-architecture)".deb | tail -n 1)
again() { # with another version of the same
    dpkg-deb -R "$deb" /tmp/tree
    sed -i "s/^Version: .*/Version: $1/" /tmp/tree/DEBIAN/control
    dpkg-deb --root-owner-group -Znone -b /tmp/tree "/tmp/exeat_$1.deb" >/dev/null
    rm -rf /tmp/tree
}
again 99.0-1
: >/var/called
prove "upgrade" dpkg -i --force-confdef --force-confold /tmp/exeat_99.0-1.deb
prove "the new version is there" sh -c 'dpkg-query -W -f "\${Version}" exeat | grep -qx 99.0-1'
refuted "an upgrade takes nothing down" grep -q teardown /var/called
prove "the administrator's configuration is kept" grep -q 'metrics: off' /etc/exeat/config.yaml
prove "the administrator's policy is kept" test -s /etc/exeat/policy.d/own.yaml

# Ends between laying out the files and setting them up.
prove "an upgrade that is interrupted" dpkg --unpack --force-confold /tmp/exeat_99.0-1.deb
refuted "it has taken nothing down" grep -q teardown /var/called
prove "is ended by the next run of dpkg" dpkg --configure -a --force-confold
prove "downgrade" dpkg -i --force-confold "$deb"
same=$(dpkg-query -W -f '${Version}' exeat)
[ "$same" = "$first" ] || fail "after the downgrade there is $same, not $first"
refuted "a downgrade takes nothing down" grep -q teardown /var/called

mkdir -p /var/lib/exeat/audit && : >/var/lib/exeat/audit/log
prove "remove" apt remove --yes exeat
prove "a removal takes enforcement down" grep -q teardown /var/called
prove "what was recorded is kept" test -e /var/lib/exeat/audit/log
prove "the configuration is kept" test -e /etc/exeat/config.yaml
prove "install again" dpkg -i --force-confold "$deb"
prove "purge" apt purge --yes exeat
refuted "nothing is left" sh -c 'ls -d /var/lib/exeat /etc/exeat 2>/dev/null | grep .'
