#!/usr/bin/env bash
# Runs the README's two commands in a fresh Debian, as a stranger would, and times them.
#
#   scripts/fresh-debian.sh [--keep] [run|test|both]
#
# Needs root, debootstrap and a Rust toolchain under ~/.rustup and ~/.cargo. The chroot gets git, make and a
# C compiler, as anyone with a Rust toolchain has them, and nothing else: no libclang, no RocksDB.
set -euo pipefail

keep=no
what=both
for arg in "$@"; do
    case "$arg" in
        --keep) keep=yes ;;
        run | test | both) what=$arg ;;
        *) echo "usage: $0 [--keep] [run|test|both]" >&2; exit 2 ;;
    esac
done
[ "$(id -u)" = 0 ] || { echo "$0: needs root for debootstrap and chroot" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "$0: install debootstrap first" >&2; exit 2; }

repo=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
root=$(mktemp -d "${TMPDIR:-/var/tmp}/quorate-fresh.XXXXXX")

clean_up() {
    for mount in proc dev home/stranger/.rustup home/stranger/.cargo/bin; do
        umount -l "$root/$mount" 2>/dev/null || true
    done
    [ "$keep" = yes ] && { echo "kept: $root"; return; }
    rm -rf --one-file-system "$root"
}
trap clean_up EXIT

echo "== a fresh Debian in $root"
debootstrap --variant=minbase --include=ca-certificates,git,make,gcc,libc6-dev bookworm "$root" >"$root.log" 2>&1 \
    || { tail -20 "$root.log" >&2; exit 1; }
rm -f "$root.log"
cp /etc/resolv.conf "$root/etc/resolv.conf"
# Behind a proxy with a certificate of its own, trust what this machine trusts.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
home=/home/stranger
mkdir -p "$root$home/.rustup" "$root$home/.cargo/bin"
mount --bind "${RUSTUP_HOME:-$HOME/.rustup}" "$root$home/.rustup"
mount --bind "${CARGO_HOME:-$HOME/.cargo}/bin" "$root$home/.cargo/bin"
git clone -q --no-hardlinks "$repo" "$root$home/quorate"
log=$root$home/run.log

inside() {
    chroot "$root" /usr/bin/env -i HOME=$home PATH=$home/.cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive bash -c "cd $home/quorate && $1"
}

if [ "$what" != test ]; then
    echo "== make run"
    began=$SECONDS
    inside 'make run' >"$log" 2>&1 &
    job=$!
    # Up when the cluster file names the nodes; the table with the commands follows at once.
    until grep -q "quorate query" "$log"; do
        kill -0 "$job" 2>/dev/null || { tail -40 "$log" >&2; exit 1; }
        sleep 1
    done
    echo "make run: the cluster was up after $((SECONDS - began)) s"
    tail -40 "$log"
    pkill -INT -f "^$home/.cache/quorate/target/debug/quorate dev" || true
    wait "$job" || true
fi
if [ "$what" != run ]; then
    echo "== make test"
    began=$SECONDS
    inside 'make test' 2>&1 | tail -15
    echo "make test: $((SECONDS - began)) s"
fi
