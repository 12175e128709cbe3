# SPDX-License-Identifier: GPL-2.0
"""`make test-stress`: stress-ng in the guest, beside the suite."""

import os
import re
import subprocess

PROGRAM = "/usr/bin/stress-ng"
# Holds and writes most memory, and allocates, frees and migrates the rest, until 100 MB of 1 GiB
# are free. With less, the out-of-memory killer would act. Runs only while the suite leaves a CPU
# idle.
OPTIONS = (
    "--vm 2 --vm-bytes 85% --vm-keep --vm-populate --vm-hang 1 --vm-method write64 "
    "--brk 1 --brk-bytes 24M --bigheap 1 --bigheap-bytes 24M --madvise 1 --fork 1 "
    "--oom-avoid --oom-avoid-bytes 3% --sched idle"
)
# The command starts once memory is short. stress-ng must outlive it.
BESIDE = """
stress-ng $STRESS > /tmp/stress 2>&1 &
stress=$!
until awk '/MemFree/ { exit !($2 < 160000) }' /proc/meminfo; do sleep 1; done
while sleep 1; do grep -w MemFree /proc/meminfo; done > /tmp/free &
"$@"
status=$?
echo "# minimum: $(sort -n -k 2 /tmp/free | head -n 1)"
kill $stress || { echo "stress-ng has ended:"; cat /tmp/stress; status=1; }
exit $status
"""


def beside(job):
    """Runs a job's command beside stress-ng, and takes its libraries into the guest."""
    found = subprocess.run(["ldd", PROGRAM], capture_output=True, check=True, text=True)
    job.files["bin/stress-ng"] = PROGRAM
    for library in re.findall(r"(/\S+) \(0x", found.stdout):
        job.files[library.lstrip("/")] = os.path.realpath(library)
    job.env["STRESS"] = OPTIONS
    job.command = ["sh", "-c", BESIDE, "sh", *job.command]
