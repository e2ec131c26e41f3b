#!/bin/sh
# Checks that the table of options in the README is the one that the program prints.
# usage: check_readme_options.sh DTRAIN README
set -u

fail()
{
    echo "check_readme_options.sh: $*" >&2
    exit 1
}

[ $# -eq 2 ] || fail "usage: check_readme_options.sh DTRAIN README"
dtrain=$1
readme=$2
[ -r "$readme" ] || fail "cannot read $readme"

folder=$(mktemp -d) || fail "cannot make a temporary folder"
trap 'rm -rf "$folder"' EXIT

"$dtrain" --help=markdown >"$folder/program" || fail "$dtrain --help=markdown failed"
[ -s "$folder/program" ] || fail "$dtrain --help=markdown printed nothing"

awk '
    $0 == "<!-- options end -->" { inside = 0; ends++ }
    inside { print }
    $0 == "<!-- options begin -->" { inside = 1; begins++ }
    END { exit inside || begins != 1 || ends != 1 }
' "$readme" >"$folder/readme" ||
    fail "$readme must hold one line '<!-- options begin -->' and, after it, one" \
        "'<!-- options end -->'"

diff -u "$folder/readme" "$folder/program" ||
    fail "put what '$dtrain --help=markdown' prints between the two lines in $readme"
