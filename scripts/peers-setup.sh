#!/bin/sh
# Installs what the tests of other people's SPDY stacks need, and only what is missing:
# Debian's Go with the spdystream framer, Node, Python, and npm's spdy-transport.
# Everything that is built lands below the target folder, nothing in the source tree.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
peers=$target/peers
gopath=/usr/share/gocode
framer=$gopath/src/github.com/docker/spdystream/spdy

packages=
command -v go >/dev/null || packages="$packages golang-go"
[ -d "$framer" ] || packages="$packages golang-github-docker-spdystream-dev"
command -v node >/dev/null || packages="$packages nodejs"
command -v npm >/dev/null || packages="$packages npm"
command -v python3 >/dev/null || packages="$packages python3"
if [ -n "$packages" ]; then
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        as_root="sudo -n"
        command -v sudo >/dev/null || {
            echo "peers-setup: run as root: apt-get install$packages" >&2
            exit 1
        }
    fi
    echo "peers-setup: installing$packages" >&2
    $as_root apt-get update -qq >/dev/null
    # shellcheck disable=SC2086 # a list of packages
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

mkdir -p "$peers/node"
if [ ! -f "$peers/node/node_modules/spdy-transport/package.json" ]; then
    cp "$root/tests/peers/node/package.json" "$peers/node/package.json"
    (cd "$peers/node" && npm install --no-audit --no-fund --no-package-lock --silent)
fi

build() {
    (cd "$root/tests/peers/$1" && GO111MODULE=off GOPATH=$gopath GOFLAGS= \
        go build -o "$peers/$2" .)
}
build go spdy-peer-go
build zlib read-blocks-go
