# debian.sh: makes fresh Debian systems. Sourced by bash scripts that run as root.
#
#   debian_make SUITE FOLDER [OPTION OF MMDEBSTRAP]...    SUITE: bookworm, trixie, sid
#
# By mmdebstrap from the mirror that this machine's apt uses, with its proxies and the like. Without
# options the system holds nothing but what Debian requires and apt. Returns 69 without a mirror.
# shellcheck shell=bash

# Which of apt's sources the Debian archive is, apt knows once it has read them.
debian_mirror()
{
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sed -n 1p
}

debian_make()
{
    local suite=$1 folder=$2 archive options
    shift 2
    archive=$(debian_mirror)
    if [[ -z $archive ]]; then
        apt-get -qq update
        archive=$(debian_mirror)
    fi
    [[ -n $archive ]] || {
        echo "the apt of this machine has no Debian archive among its sources" >&2
        return 69
    }
    apt-config dump | grep -E '^Acquire::(https?|Check-Valid-Until|Check-Date|Retries)\b' \
        >"$folder.apt" || true
    options=(--quiet --variant=minbase "--aptopt=$folder.apt")
    [[ $archive != https:* ]] || options+=(--include=ca-certificates)
    mmdebstrap "${options[@]}" "$@" "$suite" "$folder" "$archive"
    cp -L /etc/resolv.conf "$folder/etc/resolv.conf"
}
