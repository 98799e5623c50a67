# In place of the official image, where it cannot be pulled: PostgreSQL of Debian, with the same variables.
FROM python:3.11.14-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql \
    && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/15 \
    && ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ \
    && install --directory --owner=postgres --group=postgres --mode=700 /var/lib/postgresql/data
COPY postgres.sh /
USER postgres
ENTRYPOINT ["/postgres.sh"]
