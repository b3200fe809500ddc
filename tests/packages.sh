# shellcheck shell=bash
# Debian packages that tests need. Sourced by the setup scripts.

# Installs what is missing of the packages in $1: a line each, with a command that succeeds where it isn't needed any more.
# Where that can't be, tells $2, with their names in place of MISSING, and exits with $3.
install_packages() {
    local package check missing=()
    while read -r package check; do
        [ -z "$package" ] || sh -c "$check" >/dev/null 2>&1 || missing+=("$package")
    done <<<"$1"
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "$0: ${2//MISSING/${missing[*]}}" >&2
        exit "$3"
    fi
    echo "installing ${missing[*]} …"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" >/dev/null
}
