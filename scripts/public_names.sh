#!/usr/bin/env bash
# Compares the crate's public names (items, their methods, fields and variants, what the prelude brings) with
# tests/public_names.txt, so that none comes or goes unnoticed: CPython's test_all.
#
#   scripts/public_names.sh            shows the names that differ and fails if there are any
#   scripts/public_names.sh --update   writes the list anew
set -euo pipefail
cd "$(dirname "$0")/.."

list=tests/public_names.txt
target=$(cargo metadata --no-deps --format-version 1 | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
docs=$target/doc/socketserver
# As .ci/run has it, which makes this second run free.
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet

# The ids with one of these prefixes in a page of rustdoc, up to where it lists implementations of traits.
ids() { # PAGE PREFIXES
    tr '\n' ' ' <"$1" |
        sed -E 's/ id="(trait-implementations|synthetic-implementations|blanket-implementations|foreign-impls|implementors)".*//' |
        { grep -oE " id=\"($2)\.[^\"]+" || true; } | sed -E 's/.*\.//'
}

names() {
    local page path kind name
    { grep -oE '<li><a href="[a-z][^"]+\.html"' "$docs/all.html" || true; } | cut -d'"' -f2 | while read -r page; do
        path=${page%.html} # such as signal/constant.SIGTERM
        kind=${path##*/} && kind=${kind%%.*}
        name=${path/$kind./} && name=${name//\//::}
        echo "$kind $name"
        case $kind in
            struct | enum | union | trait)
                ids "$docs/$page" '(ty)?method|structfield|variant|associatedtype|associatedconstant' |
                    sed "s/^/$kind $name::/" ;;
        esac
    done
    ids "$docs/prelude/index.html" reexport | sed 's/^/use prelude::/'
}

found=$(names | LC_ALL=C sort -u)
if ! grep -q '^trait BaseServer::serve_forever$' <<<"$found"; then
    echo "$docs/all.html does not list BaseServer::serve_forever: rustdoc's pages look different from what $0 reads"
    exit 1
fi
if [[ ${1-} == --update ]]; then
    echo "$found" >"$list"
elif ! diff --unified=0 --label "$list" --label "the public names now" "$list" <(echo "$found"); then
    echo
    echo "The public names have changed. If that is meant, run scripts/public_names.sh --update and commit $list;"
    echo "what users notice of it goes into CHANGELOG.md."
    exit 1
fi
