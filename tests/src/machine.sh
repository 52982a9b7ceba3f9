#!/bin/sh
# Makes a machine of this one for tests/src/machine.rs: sh machine.sh FOLDER INIT, in a mount
# namespace of its own. FOLDER is a mount point; INIT is systemd, or none: then nothing runs there.
# Everything that is written stays in memory. Prints `ready`, and what fails before that.
set -eu
folder=$1 init=$2

if [ "${3:-}" != inside ]; then
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 machine "$folder"
    if [ "$init" = systemd ]; then
        # Its own part of the tree of control groups, named as its folder.
        mkdir "$folder/groups"
        mount -t cgroup2 groups "$folder/groups"
        mkdir -p "$folder/groups/${folder##*/}"
        echo $$ >"$folder/groups/${folder##*/}/cgroup.procs"
        set -- --cgroup
    else
        set --
    fi
    exec unshare "$@" --pid --net --uts --ipc --fork --kill-child=KILL \
        sh "$0" "$folder" "$init" inside
fi

cd "$folder"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=upper,workdir=work" root
cd root
mount -t proc proc proc
for place in run tmp dev; do
    mount -t tmpfs -o mode=755 "$place" "$place"
done
chmod 1777 tmp
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
ln -s /proc/self/fd dev/fd
mkdir dev/pts dev/shm run/lock
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
if [ "$init" = systemd ]; then
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 groups sys/fs/cgroup
fi
# No disk of this machine, no name server, nothing that keeps packages from starting services or
# from leaving their manuals.
: >etc/fstab
rm -f usr/sbin/policy-rc.d etc/dpkg/dpkg.cfg.d/*
hostname machine
mkdir old
pivot_root . old
echo ready
case $init in
    systemd)
        set -- /lib/systemd/systemd --unit=basic.target --log-target=null
        export container=lxc
        ;;
    *) set -- tail -f /dev/null ;;
esac
# systemd counts on mounts being shared, and gives services their credentials by them.
exec chroot . sh -c 'umount -l /old && rmdir /old && mount --make-rshared / &&
    exec "$@" </dev/null >/dev/null 2>&1' sh "$@"
