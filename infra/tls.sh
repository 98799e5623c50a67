#!/bin/sh
# Certificates for Ray's own traffic: infra/tls.sh FOLDER NAME…
# Writes ca.crt, node.crt and node.key, for the names and addresses that nodes are reached by. Each node gets the three,
# and with them RAY_USE_TLS=1, RAY_TLS_CA_CERT, RAY_TLS_SERVER_CERT and RAY_TLS_SERVER_KEY; so does a driver outside.
# Whoever has node.key is let in. The key of the authority is thrown away: for other nodes, make all anew.
set -eu
umask 077
folder=$1
shift
mkdir -p "$folder"
names=DNS:localhost,IP:127.0.0.1
for name in "$@"; do
    case $name in
    *[!0-9.]*) names=$names,DNS:$name ;;
    *) names=$names,IP:$name ;;
    esac
done
trap 'rm -f "$folder/ca.key"' EXIT
new="openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365"
$new -subj /CN=ssd-ray-authority -addext keyUsage=critical,keyCertSign -keyout "$folder/ca.key" -out "$folder/ca.crt"
$new -subj /CN=ssd-ray-node -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -addext "subjectAltName=$names" \
    -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=serverAuth,clientAuth \
    -keyout "$folder/node.key" -out "$folder/node.crt"
