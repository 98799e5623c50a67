#!/bin/bash
# Make the database at the first start, then run the server in the foreground.
set -euo pipefail
data=/var/lib/postgresql/data/main
if [ ! -e "$data/ready" ]; then
    rm -rf "$data"
    initdb --pgdata "$data" --username "$POSTGRES_USER" --encoding UTF8 --no-locale --auth-host scram-sha-256 --auth-local trust \
        --pwfile <(echo "$POSTGRES_PASSWORD") --no-sync
    echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_USER" | postgres --single -D "$data" postgres
    touch "$data/ready"
fi
exec postgres -D "$data" -c "listen_addresses=*"
