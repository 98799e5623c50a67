"""A disk that is really full: a small tmpfs in a mount namespace of its own, where the kernel lets users have one."""

import shlex
import subprocess

import pytest

from tests.conftest import ROOT


def run_on_small_disk(folder, size, command, environment=None):
    """Run a command (in the project's folder) with a tmpfs of `size` over `folder`; `find` its files afterwards.

    Returns:
        the finished process; the last line of its stdout lists the files that were left, by spaces.
    """
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    try:
        probe = subprocess.run([*namespace, f"mount -t tmpfs -o size=64k none {shlex.quote(str(folder))}"])
    except FileNotFoundError:
        pytest.skip("needs `unshare` (util-linux)")
    if probe.returncode:
        pytest.skip("needs user namespaces that may mount (sysctl kernel.unprivileged_userns_clone, no AppArmor limit)")
    place = shlex.quote(str(folder))
    script = f"mount -t tmpfs -o size={size} none {place} && {shlex.join(command)}; code=$?; cd {place}; "
    script += "find . -type f -size +0 | sort | tr '\\n' ' '; exit $code"
    return subprocess.run([*namespace, script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
