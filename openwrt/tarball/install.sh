#!/bin/sh
# Installs spdy-agent on a box without systemd and procd, or updates it (docs/other-nas.md):
#
#   ./install.sh [PREFIX]
#
# The program goes to PREFIX/bin (/usr/local/bin); the configuration to /etc/spdy-agent, or with a
# PREFIX to PREFIX/etc/spdy-agent: for boxes whose /etc is made anew at each start.
set -eu
cd "$(dirname "$0")"

prefix=${1:-/usr/local}
config=${1:+$1}/etc/spdy-agent/agent.conf
service=$prefix/bin/spdy-agent-service

case $prefix in
# It is written into scripts.
*[\'\"\`\$\&\|\\]*)
	echo "install.sh: $prefix has one of ' \" \` \$ & | \\" >&2
	exit 64
	;;
/*) ;;
*)
	echo "install.sh: $prefix must begin with /" >&2
	exit 64
	;;
esac
[ "$(id -u)" = 0 ] || {
	echo "install.sh: must be root" >&2
	exit 1
}
problem=$(./spdy-agent --version 2>&1) || {
	echo "install.sh: $problem" >&2
	echo "install.sh: this program does not run on this box ($(uname -m)): take another tarball," \
		"or unpack it where programs may run" >&2
	exit 1
}

umask 022
mkdir -p "$prefix/bin"
# Beside its place, then moved there: a full disk leaves the old program, and it running.
new=$prefix/bin/.spdy-agent.new
trap 'rm -f "$new" "$new.service"' EXIT
cp spdy-agent "$new"
sed -e "s|@PREFIX@|$prefix|" -e "s|@CONFIG@|$config|" spdy-agent-service >"$new.service"
chmod 755 "$new" "$new.service"
was=
if [ -x "$service" ]; then
	code=0
	"$service" status >/dev/null 2>&1 || code=$?
	[ "$code" = 3 ] || was=1
	"$service" stop
fi
mv "$new" "$prefix/bin/spdy-agent"
mv "$new.service" "$service"
if [ ! -e "$config" ]; then
	mkdir -p "${config%/*}"
	(umask 077 && cp agent.conf "$config")
fi

# Started with the box: Synology, busybox init, System V, in this order.
hook=
if [ -d /usr/local/etc/rc.d ]; then
	hook=/usr/local/etc/rc.d/spdy-agent.sh
elif [ -e /etc/init.d/rcS ] && ! command -v update-rc.d >/dev/null; then
	hook=/etc/init.d/S95spdy-agent
elif command -v update-rc.d >/dev/null; then
	hook=/etc/init.d/spdy-agent
fi
if [ -n "$hook" ]; then
	cat >"$hook" <<EOF
#!/bin/sh
### BEGIN INIT INFO
# Provides: spdy-agent
# Required-Start: \$network
# Required-Stop: \$network
# Default-Start: 2 3 4 5
# Default-Stop: 0 1 6
### END INIT INFO
exec "$service" "\$@"
EOF
	chmod 755 "$hook"
	[ "$hook" != /etc/init.d/spdy-agent ] || update-rc.d spdy-agent defaults
	echo "started with the box by $hook"
	[ $# = 0 ] || echo "if that is gone after the next start, have the box run '$service start'"
else
	echo "nothing known starts programs with this box: have it run '$service start'"
fi
if [ -n "$was" ]; then
	"$service" start
	echo "updated to $("$prefix/bin/spdy-agent" --version)"
else
	named=
	[ $# = 0 ] || named=" --config $config"
	case :$PATH: in
	*":$prefix/bin:"*) ;;
	*) echo "$prefix/bin is not in PATH here: type its programs with their folder" ;;
	esac
	echo "next: $prefix/bin/spdy-agent join$named; shares into $config; $service start"
fi
