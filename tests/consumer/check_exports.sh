#!/usr/bin/env bash
# Fails unless a shared library exports the names that a file lists, and no others.
#
#   check_exports.sh LIBRARY LIST            compare
#   check_exports.sh LIBRARY LIST --update   write the list anew, after a change of the public headers
#
# Names are without their parameters. Left out are templates of the standard library, which its headers make visible, and
# the locks of OpenMP's named critical sections, which are global by definition.
set -euo pipefail

if (($# < 2 || $# > 3)) || { (($# == 3)) && [[ $3 != --update ]]; }; then
  printf 'usage: %s LIBRARY LIST [--update]\n' "$0" >&2
  exit 2
fi
library=$1
list=$2

# nm prints "0123 T exactnorm::version[abi:cxx11](int)".
exported() {
  nm -DC --defined-only "$library" | sed -nE 's/^[0-9a-f]+ [A-Za-z] //p' |
    grep -vE '^((typeinfo |typeinfo name |vtable |guard variable )for )?(std|__gnu_cxx)::|^\.gomp_critical_user_' |
    sed -E 's/\[abi:[a-z0-9]+\]//; s/\(.*//; s/^(vtable|typeinfo name) for/typeinfo for/' | LC_ALL=C sort -u
}

if (($# == 3)); then
  exported >"$list"
else
  diff -u "$list" <(exported) || {
    echo "$library exports other names than $list lists (+ too many, - missing)" >&2
    exit 1
  }
fi
