# Sourced: starts the gateway of the release build on the load's own mesh, and ends it with the script.
# $gateway is its process; arguments are added to its command line.
programs=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/release
scratch=$(mktemp -d)
gateway=
trap 'kill $gateway 2>/dev/null || true; rm -rf "$scratch"' EXIT

start_gateway() {
  "$programs/eastgate-loadtest" mesh --dir "$scratch/mesh" --origin 127.0.0.1:8443 >/dev/null
  start_gateway_of --mesh-dir "$scratch/mesh" "$@"
}

# The same with another source, which the arguments name.
start_gateway_of() {
  [ -z "$gateway" ] || { kill "$gateway" && wait "$gateway" || true; }
  "$programs/eastgate" run "$@" --access-log '' --log-level warn --threads 1 --admin 127.0.0.1:15900 --readiness '' &
  gateway=$!
  until curl -fs -o /dev/null http://127.0.0.1:15900/ready; do
    kill -0 "$gateway" || { echo "the gateway did not start" >&2; exit 1; }
    sleep 0.1
  done
}
