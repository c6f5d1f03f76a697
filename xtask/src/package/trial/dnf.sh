srv=/srv/trial
# No registry carries a distribution with rpm: this is dnf and rpm on Debian's files, and a
# package without files that says that glibc is there.
# What scripts call is noted in /var: rpm gives them a /tmp of their own.
mkdir -p /tmp/base /etc/yum.repos.d
printf 'Name: base\nVersion: 1\nRelease: 1\nSummary: what Debian has\nLicense: MIT\nBuildArch: noarch\nProvides: glibc = 2.41 libgcc = 14 shadow-utils = 4 systemd = 257 /bin/sh\n%%description\nSays so.\n%%files\n' >/tmp/base.spec
prove "a package that stands for Debian's files" rpmbuild -bb --define '_rpmdir /tmp/base' /tmp/base.spec
rpm --import $srv/exeat.asc
prove "it is installed" rpm -i --nosignature /tmp/base/noarch/base-1-1.noarch.rpm
printf '[exeat]\nname=Exeat\nbaseurl=file://%s/dnf\nenabled=1\ngpgcheck=1\nrepo_gpgcheck=1\ngpgkey=file://%s/exeat.asc\n' $srv $srv \
    >/etc/yum.repos.d/exeat.repo
dnf_() { dnf --assumeyes --releasever=1 --setopt=cachedir=/tmp/dnf --setopt=metadata_expire=0 "$@"; }

cp $srv/dnf/repodata/repomd.xml /tmp/repomd.xml
echo '<!-- forged -->' >>$srv/dnf/repodata/repomd.xml
refuted "dnf refuses a forged list" dnf_ install exeat
cp /tmp/repomd.xml $srv/dnf/repodata/repomd.xml
rm -rf /tmp/dnf
prove "install, signatures checked" dnf_ install exeat
installed
rpm=$(ls $srv/dnf/exeat-*."$(uname -m)".rpm | tail -n 1)
prove "the package's signature is good" rpm -K "$rpm"

echo 'metrics: off' >>/etc/exeat/config.yaml
mv /usr/bin/exeat /usr/bin/exeat.real
printf '#!/bin/sh\necho "$@" >>/var/called\nexec /usr/bin/exeat.real "$@"\n' >/usr/bin/exeat
chmod 755 /usr/bin/exeat
: >/var/called
prove "upgrade (the same again)" rpm -U --force "$rpm"
refuted "an upgrade takes nothing down" grep -q teardown /var/called
prove "the administrator's configuration is kept" grep -q 'metrics: off' /etc/exeat/config.yaml
mv /usr/bin/exeat /usr/bin/exeat.real
printf '#!/bin/sh\necho "$@" >>/var/called\nexec /usr/bin/exeat.real "$@"\n' >/usr/bin/exeat
chmod 755 /usr/bin/exeat
prove "remove" dnf_ remove exeat
prove "a removal takes enforcement down" grep -q teardown /var/called
refuted "the program is gone" test -e /usr/lib/systemd/system/exeat.service
