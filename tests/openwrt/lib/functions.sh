# shellcheck shell=dash disable=SC3043,SC2329,SC2317 # ash has `local`; scripts call these
# Stand-in of OpenWrt's /lib/functions.sh for the tests: what our scripts use of it, written from its
# documentation. As there, settings are loaded by running the file's lines as the commands `config`,
# `option` and `list`: a script that gives these names to functions of its own breaks here, too.

config_load() {
	UCI_SECTIONS=""
	UCI_ANONYMOUS=0
	# shellcheck disable=SC1090
	[ ! -e "/etc/config/$1" ] || . "/etc/config/$1"
}

config() {
	UCI_ANONYMOUS=$((UCI_ANONYMOUS + 1))
	UCI_SECTION=${2:-cfg$UCI_ANONYMOUS}
	UCI_SECTIONS="$UCI_SECTIONS $UCI_SECTION"
	option TYPE "$1"
}

option() {
	eval "UCI_${UCI_SECTION}_$1=\$2"
}

list() {
	local count
	eval "count=\$((\${UCI_${UCI_SECTION}_$1_LENGTH:-0} + 1))"
	eval "UCI_${UCI_SECTION}_$1_LENGTH=$count UCI_${UCI_SECTION}_$1_ITEM$count=\$2"
	# Who asks for it as an option gets the items with spaces between.
	eval "UCI_${UCI_SECTION}_$1=\"\${UCI_${UCI_SECTION}_$1:+\$UCI_${UCI_SECTION}_$1 }\$2\""
}

# config_get VARIABLE SECTION OPTION [DEFAULT]
config_get() {
	eval "$1=\${UCI_$2_$3:-\$4}"
}

config_get_bool() {
	local word
	config_get word "$2" "$3" "$4"
	case "$word" in
	1 | on | true | yes | enabled) word=1 ;;
	0 | off | false | no | disabled) word=0 ;;
	*) word=$4 ;;
	esac
	eval "$1=$word"
}

# config_foreach FUNCTION TYPE
config_foreach() {
	local section kind
	for section in $UCI_SECTIONS; do
		config_get kind "$section" TYPE
		[ "$kind" != "$2" ] || "$1" "$section"
	done
}

# config_list_foreach SECTION LIST FUNCTION [ARGUMENT...]
config_list_foreach() {
	local section="$1" name="$2" call="$3" at=1 count value
	shift 3
	config_get count "$section" "${name}_LENGTH" 0
	while [ "$at" -le "$count" ]; do
		config_get value "$section" "${name}_ITEM$at"
		"$call" "$value" "$@"
		at=$((at + 1))
	done
}

# The package whose script calls, by the name of the script: /usr/lib/opkg/info/NAME.postinst.
services() {
	local name
	name=$(basename "${1%.*}")
	sed -n 's|^/etc/init.d/||p' "/usr/lib/opkg/info/$name.list"
}

default_postinst() {
	local service
	for service in $(services "$1"); do
		[ "$PKG_UPGRADE" = 1 ] || "/etc/init.d/$service" enable
		"/etc/init.d/$service" start
	done
	return 0
}

default_prerm() {
	local service
	for service in $(services "$1"); do
		[ "$PKG_UPGRADE" = 1 ] || "/etc/init.d/$service" disable
		"/etc/init.d/$service" stop
	done
	return 0
}
