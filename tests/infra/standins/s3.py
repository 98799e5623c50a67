"""Ceph's S3 gateway as a container's only service: variables, port and health page are those of SeaweedFS's image."""

import os
import signal
import sys
import time
from pathlib import Path

import boto3

from infra.local.ceph import Ceph


def main():
    """Run until SIGTERM; what dies is started again."""
    keys = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    ceph = Ceph(Path("/data/ceph"), address="0.0.0.0", port=8333, keys=keys)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        ceph.start()
        client = boto3.client("s3", endpoint_url="http://127.0.0.1:8333", region_name="us-east-1")
        client.create_bucket(Bucket=os.environ["S3_BUCKET"])
        # an empty bucket that anyone may list stands for the page that the health check asks for
        client.create_bucket(Bucket="healthz", ACL="public-read")
        while True:
            time.sleep(1)
            if any(process.poll() is not None for process in ceph.processes.values()):
                ceph.start()
    finally:
        ceph.stop()


if __name__ == "__main__":
    main()
