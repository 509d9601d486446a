#!/usr/bin/env bash
# Installs what is missing to build, test or benchmark Quorate, and nothing else:
#
#   scripts/setup.sh [build|test|bench]      default: test, which includes build; bench includes both
#
# Says nothing and takes no time when nothing is missing. On Debian and its kin it installs with apt-get,
# as root or through sudo; elsewhere it names what is missing and fails. Starts no service, not even those
# of the packages it installs, neither now nor at the next boot.
set -euo pipefail

PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
need="${1:-test}"
case "$need" in
    build | test | bench) ;;
    *)
        echo "usage: scripts/setup.sh [build|test|bench]" >&2
        exit 2
        ;;
esac

missing=() # what it is, for people
packages=() # what Debian calls it

want() { # want COMMAND PACKAGE: the command, or else the package
    command -v "$1" >/dev/null && return
    missing+=("$1")
    packages+=("$2")
}

# RocksDB's bindings are generated from its headers: that takes libclang and the headers that come with
# the compiler (stddef.h and such). LIBCLANG_PATH, if set, is believed.
have_libclang() {
    [[ -n "${LIBCLANG_PATH:-}" ]] && return
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null ||
        compgen -G '/usr/lib*/libclang*.so*' >/dev/null ||
        compgen -G '/usr/lib/*-linux-gnu/libclang*.so*' >/dev/null ||
        return
    compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null ||
        compgen -G '/usr/lib*/clang/*/include/stddef.h' >/dev/null
}

# Cargo checks crates.io's certificate.
have_certificates() {
    [[ -n "${SSL_CERT_FILE:-}${CARGO_HTTP_CAINFO:-}" || -s /etc/ssl/certs/ca-certificates.crt ]] ||
        [[ -s /etc/pki/tls/certs/ca-bundle.crt || -s /etc/ssl/ca-bundle.pem || -s /etc/ssl/cert.pem ]]
}

# The toolchain comes from rustup, or wherever it came from: distributions' own are mostly too old.
check_rust() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if ! command -v cargo >/dev/null || ! have=$(rustc --version 2>/dev/null); then
        echo "Rust $wanted or newer is missing. Install it from https://rustup.rs, then run this again." >&2
        exit 1
    fi
    have=$(cut -d' ' -f2 <<<"$have")
    if [[ "$(printf '%s\n' "$wanted" "${have%%-*}" | sort -V | head -n1)" != "$wanted" ]]; then
        echo "Rust $wanted or newer is needed, but rustc is $have. Run 'rustup update stable'." >&2
        exit 1
    fi
}

as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    else
        sudo --non-interactive -- "$@"
    fi
}

give_up() {
    echo "Missing: ${missing[*]}. On Debian: apt-get install ${packages[*]}" >&2
    [[ $# -eq 0 ]] || echo "$1" >&2
    exit 1
}

# dpkg asks this file whether a package may start its service; 101 is no. One that is there already, in
# containers mostly, is left as it is.
readonly policy=/usr/sbin/policy-rc.d
forbid_services() {
    [[ -e $policy ]] && return
    trap 'as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
}

# What `systemctl disable` does, also where there is no systemctl.
keep_from_starting() {
    as_root rm -f "/etc/systemd/system/multi-user.target.wants/$1.service"
}

install_packages() {
    command -v apt-get >/dev/null || give_up
    if [[ $EUID -ne 0 ]]; then
        command -v sudo >/dev/null || give_up "Or run this as root."
        echo "Installing ${packages[*]} takes root's rights." >&2
        if [[ -t 0 ]]; then sudo --validate; fi || give_up
    fi
    echo "Installing ${packages[*]}" >&2
    forbid_services
    local log apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    log=$(mktemp)
    as_root "${apt[@]}" update >>"$log" 2>&1 ||
        echo "Can't refresh the package lists; trying with the old ones." >&2
    if ! as_root "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >>"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        give_up
    fi
    rm -f "$log"
    local package
    for package in "${packages[@]}"; do
        case "$package" in
            prometheus | prometheus-node-exporter | victoria-metrics) keep_from_starting "$package" ;;
        esac
    done
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
check_rust
want make make
want cc gcc
want c++ g++
have_libclang || {
    missing+=(libclang)
    packages+=(libclang-dev)
}
have_certificates || {
    missing+=("certificate authorities")
    packages+=(ca-certificates)
}
if [[ $need != build ]]; then
    want prometheus prometheus
    want prometheus-node-exporter prometheus-node-exporter
    # Nodes in network namespaces with disks of their own, see jepsen-like-tests/src/bed.
    want ip iproute2
    want nft nftables
    want mkfs.ext4 e2fsprogs
    want losetup mount
    want nsenter util-linux
fi
if [[ $need == bench ]]; then
    want victoria-metrics victoria-metrics
fi
[[ ${#packages[@]} -eq 0 ]] || install_packages
