#!/bin/sh
# Gives each part of Tidemark a role and a database of its own, and nobody
# access to another's. Runs once, when the server's data directory is empty;
# running it again changes nothing but the passwords.
#
# Read from the environment: POSTGRES_USER and POSTGRES_DB (an administrator's
# connection), TIDEMARK_DB_PASSWORD (one password for all parts; a real
# deployment has one for each), and whatever else psql reads.
set -eu
: "${TIDEMARK_DB_PASSWORD:?set TIDEMARK_DB_PASSWORD}"
for part in order payment shipment timeline operations; do
	psql -v ON_ERROR_STOP=1 --quiet --no-psqlrc --username "${POSTGRES_USER:-postgres}" --dbname "${POSTGRES_DB:-postgres}" \
		-v role="tidemark_$part" -v password="$TIDEMARK_DB_PASSWORD" <<-'SQL'
		SELECT format('CREATE ROLE %I LOGIN', :'role')
		 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
		ALTER ROLE :"role" PASSWORD :'password';
		SELECT format('CREATE DATABASE %I OWNER %I', :'role', :'role')
		 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'role') \gexec
		REVOKE CONNECT, TEMPORARY ON DATABASE :"role" FROM PUBLIC;
	SQL
done
