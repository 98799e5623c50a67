# In place of SeaweedFS's image, where it cannot be pulled: Ceph of Debian, with the same variables, port and health page.
FROM registry.example.com/ssd:0.2.0
USER 0:0
RUN apt-get update && apt-get install --yes --no-install-recommends radosgw ceph-mon ceph-osd wget \
    && rm -rf /var/lib/apt/lists/* && install --directory --owner=1000 --group=1000 /data
COPY infra/local/ceph.py /app/infra/local/ceph.py
COPY tests/infra/standins/s3.py /app/s3.py
USER 1000:1000
ENTRYPOINT ["python", "/app/s3.py"]
