# SPDX-License-Identifier: GPL-2.0
"""`make run`, `make shell`: the user's program, or a prompt, in the guest."""

import os
import shlex
import sys

import judge
import machine
from boot import say, where

PROG_FD = 8  # scripts/run opens the user's program: its path does not exist in the root
# Exit statuses of `make run` that are not the program's.
STATUS_TIME_LIMIT = 124
STATUS_GUEST_FAILED = 125


def _job(run, *command):
    """A guest with the devices, driver and QEMU arguments that the user named."""
    job = run.job(run.target, *command, driver=os.environ.get("DRIVER", ""))
    job.devices = (os.environ.get("DEVICES") or "edu").split()
    job.qemu_args = shlex.split(os.environ.get("QEMU_ARGS", ""))
    job.bind = True
    job.stdin = 0
    return job


def _write(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def program(run):
    """Runs the user's program and exits with its status."""
    name = os.environ.get("PROG", "")
    if not name:
        raise machine.Unusable('nothing to run: make run PROG=./program [ARGS="..."]')
    job = _job(run, name, *shlex.split(os.environ.get("ARGS", "")))
    if os.path.exists(f"/proc/self/fd/{PROG_FD}"):
        path = f"/dev/fd/{PROG_FD}"
        loader = machine.interpreter(path)
        if loader:
            say(f"warning: {name} is not a static binary: the guest has no {loader}")
        job.command[0] = f"/root/{os.path.basename(name)}"
        job.files[job.command[0]] = path
    job.terminal = sys.stdin.isatty() and sys.stdout.isatty()
    result = machine.run(job, _write)
    bad = judge.splats(result.kernel_log())
    for lines in bad.values():
        say("warning: the kernel log has a splat:")
        print("\n".join(lines[:40]), file=sys.stderr)
    if result.problem:
        say(f"{result.problem}; {where(result)}")
        if not bad and not result.timed_out:
            print("\n".join(result.kernel_log()[-8:]), file=sys.stderr)
        return STATUS_TIME_LIMIT if result.timed_out else STATUS_GUEST_FAILED
    return result.status


def shell(run):
    """A prompt with the driver loaded and the devices bound."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise machine.Unusable("make shell needs a terminal; for a script use make run PROG=sh")
    job = _job(run, "sh")
    job.terminal, job.seconds = True, 0
    job.env.update(TERM=os.environ.get("TERM", "vt100"), PS1="guest# ")
    say("the guest boots in a few seconds; exit or Ctrl-D powers it off, Ctrl-] kills it")
    say(f"$BDF0, $GROUP0, ... name the devices ({' '.join(job.devices)})")
    result = machine.run(job, _write)
    say(result.problem or "the guest powered off")
    say(where(result))
    return 0
