# shellcheck shell=dash disable=SC3043,SC2154,SC2329,SC2317 # ash has `local`; rc.common sets initscript
# Stand-in of procd for the tests: writes down what it is told in /tmp/procd/calls, a word in
# brackets each, and keeps one instance as it would: started anew only if its command changes. It
# does not start what ended by itself: that is procd's own.

PROCD=/tmp/procd
mkdir -p $PROCD

record() {
	printf '%s' "$1" >>$PROCD/calls
	shift
	for word in "$@"; do
		printf ' [%s]' "$word" >>$PROCD/calls
	done
	echo >>$PROCD/calls
}

is_alive() {
	[ -e $PROCD/pid ] && kill -0 "$(cat $PROCD/pid)" 2>/dev/null
}

end() {
	is_alive || return 0
	kill "$(cat $PROCD/pid)"
	while is_alive; do
		usleep 10000
	done
	rm -f $PROCD/pid $PROCD/running
}

procd_open_instance() {
	record open_instance "$@"
	: >$PROCD/wanted
}

procd_set_param() {
	record set_param "$@"
	[ "$1" = command ] || return 0
	shift
	: >$PROCD/wanted
	for word in "$@"; do
		printf '%s\n' "$word" >>$PROCD/wanted
	done
}

procd_close_instance() {
	record close_instance
}

procd_add_reload_trigger() {
	record add_reload_trigger "$@"
}

procd_running() {
	is_alive
}

procd_send_signal() {
	record send_signal "$@"
	kill "-$3" "$(cat $PROCD/pid)"
}

procd_kill() {
	record kill "$@"
	end
}

# What rc.common does after start_service.
procd_close_service() {
	service_triggers
	if [ ! -e $PROCD/wanted ]; then
		end
	elif ! is_alive || ! cmp -s $PROCD/wanted $PROCD/running; then
		end
		mv $PROCD/wanted $PROCD/running
		local IFS='
'
		set -f
		# shellcheck disable=SC2046 # a word a line
		set -- $(cat $PROCD/running)
		set +f
		unset IFS
		# As procd does: a session of its own. The agent finds the log by itself.
		setsid "$@" >/dev/null 2>&1 </dev/null &
		echo $! >$PROCD/pid
	fi
	rm -f $PROCD/wanted
}
