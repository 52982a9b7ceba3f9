#!/bin/sh
# Removes what install.sh installed: ./uninstall.sh [PREFIX] [--purge]
# The configuration and the token stay, unless --purge is given.
set -eu

prefix=/usr/local
config=/etc/spdy-agent
purge=
for word in "$@"; do
	case $word in
	--purge) purge=1 ;;
	/*) prefix=$word config=$word/etc/spdy-agent ;;
	*)
		echo "uninstall.sh: $word is neither --purge nor a folder that begins with /" >&2
		exit 64
		;;
	esac
done
[ -e "$prefix/bin/spdy-agent" ] || [ -e "$config" ] || {
	echo "uninstall.sh: nothing is installed in $prefix" >&2
	exit 1
}

if [ -x "$prefix/bin/spdy-agent-service" ]; then
	"$prefix/bin/spdy-agent-service" stop
fi
[ ! -e /etc/init.d/spdy-agent ] || {
	rm -f /etc/init.d/spdy-agent
	update-rc.d spdy-agent remove
}
rm -f "$prefix/bin/spdy-agent" "$prefix/bin/spdy-agent-service" \
	/usr/local/etc/rc.d/spdy-agent.sh /etc/init.d/S95spdy-agent
if [ -n "$purge" ]; then
	rm -rf "$config"
else
	echo "kept: $config"
fi
