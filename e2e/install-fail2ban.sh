#!/bin/sh
# Installs Debian's fail2ban for TestRealFail2ban, and nftables and ipset for
# TestBlocklist, where they are missing, and sees to it that no service is
# started: the tests run a server and firewalls of their own.
#
# It acts only as root with apt-get, and leaves a machine that systemd runs
# alone unless CI is set: there the service would start with the next boot.
set -eu

PATH=$PATH:/usr/sbin:/sbin # where a user's own path lacks them
missing=
command -v fail2ban-server >/dev/null || missing="$missing fail2ban"
command -v nft >/dev/null || missing="$missing nftables"
command -v ipset >/dev/null || missing="$missing ipset"
[ -n "$missing" ] || exit 0

leave() { echo "not installed:$missing: $1; what tests it will ${CI:+fail}$([ -n "${CI:-}" ] || echo be skipped)" >&2; exit 0; }

command -v apt-get >/dev/null || leave "no apt-get here"
[ "$(id -u)" = 0 ] || leave "only root can"
[ -n "${CI:-}" ] || [ ! -d /run/systemd/system ] || leave "not onto a machine that systemd runs"

# What maintainer scripts ask before they start a service: 101 says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
fi

export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -q --no-install-recommends $missing >"$log" 2>&1; }
log=$(mktemp)
if ! install && ! { apt-get update -q >>"$log" 2>&1 && install; }; then
	tail -n 20 "$log" >&2
	rm -f "$log"
	leave "apt-get failed"
fi
rm -f "$log"

if grep -lx fail2ban-server /proc/[0-9]*/comm 2>/dev/null; then
	echo "the package has started its service" >&2
	exit 1
fi
