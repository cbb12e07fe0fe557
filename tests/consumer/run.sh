#!/usr/bin/env bash
# Installs a build to a temporary prefix, and builds and runs a small project on it, by CMake and by pkg-config.
#
#   run.sh BUILD_DIR SOURCE_DIR            use the build in BUILD_DIR
#   run.sh BUILD_DIR SOURCE_DIR --shared   build a shared library in BUILD_DIR first
#
# Takes the compiler from CXX, or c++.
set -euo pipefail

if (($# < 2 || $# > 3)) || { (($# == 3)) && [[ $3 != --shared ]]; }; then
  printf 'usage: %s BUILD_DIR SOURCE_DIR [--shared]\n' "$0" >&2
  exit 2
fi
build=$1
source=$2
compiler=${CXX:-c++}
consumer=$source/tests/consumer
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix

if (($# == 3)); then
  # Without vectors, on which nothing depends that is looked at here, to build in less time.
  cmake -S "$source" -B "$build" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Release \
    -DBUILD_SHARED_LIBS=ON -DEXACTNORM_BUILD_TESTS=OFF \
    "-DEXACTNORM_DISABLED_TARGETS=|HWY_AVX3|HWY_AVX2|HWY_SSE4" >"$work/log" || {
    cat "$work/log"
    exit 1
  }
  cmake --build "$build" --parallel "${BUILD_JOBS:-$(nproc)}"
fi
cmake --install "$build" --prefix "$prefix" >/dev/null

# The installed files must stand alone.
if grep -rIlF -e "$source" -e "$build" "$prefix"; then
  echo 'the files above, as installed, name the build or source directory' >&2
  exit 1
fi

libraries=$(dirname "$(find "$prefix" -name 'libexactnorm.*' -print -quit)")
if [[ -e $libraries/libexactnorm.so ]]; then
  kind=shared static=
  "$consumer/check_exports.sh" "$libraries/libexactnorm.so" "$consumer/exports.txt"
  if [[ -e $libraries/libexactnorm_mpi.so ]]; then
    "$consumer/check_exports.sh" "$libraries/libexactnorm_mpi.so" "$consumer/exports_mpi.txt"
  fi
else
  kind=static static=--static
fi

echo "$kind library, by CMake:"
cmake -S "$consumer" -B "$work/build" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_PREFIX_PATH="$prefix" >"$work/log" || {
  cat "$work/log"
  exit 1
}
cmake --build "$work/build" >"$work/log" || {
  cat "$work/log"
  exit 1
}
"$work/build/consumer"
if [[ -e $prefix/include/exactnorm/mpi.h ]]; then
  "$work/build/ranks"
fi

echo "$kind library, by pkg-config:"
export PKG_CONFIG_PATH=$libraries/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
read -ra flags <<<"$(pkg-config --cflags --libs $static 'exactnorm >= 0.1')"
"$compiler" -std=c++20 -o "$work/consumer" "$consumer/main.cpp" "${flags[@]}"
LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$work/consumer"

# The command, where this build has one, must run from where it was installed.
if [[ -x $prefix/bin/exactnorm ]]; then
  "$prefix/bin/exactnorm" --version
fi
