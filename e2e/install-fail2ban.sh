#!/bin/sh
# Installs Debian's fail2ban for TestRealFail2ban, where it is missing, and sees
# to it that its service is not started: the test runs a server of its own.
#
# It acts only as root with apt-get, and leaves a machine that systemd runs
# alone unless CI is set: there the service would start with the next boot.
set -eu

leave() { echo "fail2ban is not installed: $1; TestRealFail2ban will ${CI:+fail}$([ -n "${CI:-}" ] || echo be skipped)" >&2; exit 0; }

command -v fail2ban-server >/dev/null && exit 0
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
install() { apt-get install -y -q --no-install-recommends fail2ban >"$log" 2>&1; }
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
