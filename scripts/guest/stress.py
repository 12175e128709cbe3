# SPDX-License-Identifier: GPL-2.0
"""`make test-stress`: stress-ng in the guest, beside the suite."""

import os
import re
import subprocess

PROGRAM = "/usr/bin/stress-ng"
# Most memory is held and written to, what is left comes and goes and is moved about: in the end
# 100 MB of 1 GiB are free. No less, as the out-of-memory killer would have its say. It has what the
# suite leaves of the CPUs.
OPTIONS = (
    "--vm 2 --vm-bytes 85% --vm-keep --vm-populate --vm-hang 1 --vm-method write64 "
    "--brk 1 --brk-bytes 24M --bigheap 1 --bigheap-bytes 24M --madvise 1 --fork 1 "
    "--oom-avoid --oom-avoid-bytes 3% --sched idle"
)
# The command starts when memory is short; stress-ng must still be there when it ends.
BESIDE = """
stress-ng $STRESS > /tmp/stress 2>&1 &
stress=$!
until awk '/MemFree/ { exit !($2 < 160000) }' /proc/meminfo; do sleep 1; done
while sleep 1; do grep -w MemFree /proc/meminfo; done > /tmp/free &
"$@"
status=$?
echo "# least of all times: $(sort -n -k 2 /tmp/free | head -n 1)"
kill $stress || { echo "stress-ng has ended:"; cat /tmp/stress; status=1; }
exit $status
"""


def beside(job):
    """Lets a job's command run beside stress-ng, which is no static program."""
    found = subprocess.run(["ldd", PROGRAM], capture_output=True, check=True, text=True)
    job.files["bin/stress-ng"] = PROGRAM
    for library in re.findall(r"(/\S+) \(0x", found.stdout):
        job.files[library.lstrip("/")] = os.path.realpath(library)
    job.env["STRESS"] = OPTIONS
    job.command = ["sh", "-c", BESIDE, "sh", *job.command]
