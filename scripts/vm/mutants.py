# SPDX-License-Identifier: GPL-2.0
"""`make mutants`: changes the module, one place at a time, and looks which case notices.

Each mutant first meets KUnit (for src/pure) and the cases that are likely to notice; once all have,
the ones that are left meet the whole suite. A guest stops at the first failure. Results go to
build/mutants.jsonl, one line each: the next run goes on where this one stops.
"""

import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
import threading
import time

import boot
import judge
import machine
import mutant
import suite
from arch import BUILD, RELEASE, RUNS
from boot import say
from mutant import KILLED, PASSED, SURVIVED, UNBUILDABLE

TABLES = "/src/tests/mutants"
RESULTS = f"{BUILD}/mutants.jsonl"
# What the module is made of, and what its outcome depends on besides.
MODULE = ["Kbuild", "include", "rust", "src", "tests/kunit", "tests/modules"]
TESTS = ["tests/qemu", "tools"]
CRATES = {"src": "dmabuf_vfio_pci.rs", "rust": "kernel_ext.rs"}
GENERATOR = "25.3.1"  # of cargo-mutants: newer ones may want a newer rustc than Debian's
# A guest without a result for so many seconds hangs: a case ends after 120 s at the latest.
STALLED = 600
# So much longer than the slowest case of the module itself, a likely case hangs, too.
SLOWEST = 4


@dataclasses.dataclass(frozen=True)
class Broken(boot.Run):
    """A run with the modules of one worker."""

    folder: str = ""

    @property
    def modules(self):
        return f"{self.folder}/module"


class Watch:
    """Ends a guest at the first failed case, at the first splat, or when it hangs."""

    def __init__(self, log, limit):
        self.log, self.rest, self.failed, self.position = log, "", "", 0
        self.limit, self.last, self.slowest, self.begun = limit, time.monotonic(), 0, False

    def on_line(self, line):
        """Gets each line of the suite's output."""
        now = time.monotonic()
        if line.startswith(("ok ", "not ok ")):
            if self.begun:
                self.slowest = max(self.slowest, now - self.last)
            self.last, self.begun = now, True
        if line.startswith("not ok "):
            self.failed = line

    def __call__(self):
        if self.failed:
            return "a case has failed"
        limit = self.limit if self.begun else STALLED
        if time.monotonic() - self.last > limit:
            return f"no result for {int(limit)} s"
        if os.path.exists(self.log):
            with open(self.log, errors="replace") as file:
                file.seek(self.position)
                lines = (self.rest + file.read()).split("\n")
                self.position = file.tell()
            self.rest = lines.pop()
            if any(judge.SPLAT.search(line) for line in lines):
                return "the kernel log has a splat"
        return ""


def killer(cases, log):
    """The case that noticed, of a run that ended early; "" if none did.

    A case that is skipped has noticed, too: the machine lacks nothing.
    """
    for case in cases:
        is_case = case.name.isidentifier() and case.name != "plan"
        if is_case and case.status in ("failed", "skipped"):
            return case.name
    if not judge.any_failed(cases):
        return ""
    marks = [mark[2] for mark in map(judge.MARK.search, log) if mark and mark[1] == "begin"]
    return marks[-1] if marks else "the boot"


class Worker:
    """Builds and boots mutants, one after the other, in a folder of its own."""

    def __init__(self, run, number, jobs):
        self.folder = f"/tmp/mutants-{number}"
        self.run = Broken(**{**vars(run), "folder": self.folder})
        self.jobs, self.changed, self.watch = jobs, None, None
        for path in MODULE:
            target = f"{self.folder}/source/{path}"
            if os.path.isdir(f"/src/{path}"):
                shutil.copytree(f"/src/{path}", target)
            else:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy(f"/src/{path}", target)
        os.mkdir(self.run.modules)

    def build(self, change=None):
        """Builds the module, with a mutant or without; returns whether that worked."""
        if self.changed:
            shutil.copy(f"/src/{self.changed}", f"{self.folder}/source/{self.changed}")
        self.changed = change and change.file
        if change:
            with open(f"{self.folder}/source/{change.file}", "w") as file:
                file.write(change.text)
        tree = f"{self.run.kernel}/build"
        with open(f"{tree}/include/config/auto.conf") as file:
            llvm = ["LLVM=1"] if "\nCONFIG_CC_IS_CLANG=y\n" in file.read() else []
        command = ["make", "-s", f"-j{max(1, os.cpu_count() // self.jobs)}", "-C", tree,
                   f"M={self.folder}/source", f"MO={self.run.modules}", *llvm, "modules"]
        with open(f"{self.folder}/build.log", "w") as log:
            return subprocess.run(command, stdout=log, stderr=log, check=False).returncode == 0

    def kunit(self):
        """The KUnit case that fails, or ""."""
        result = self._boot(suite.kunit_job(self.run))
        failed = [case.name for case in suite.judge_kunit(result) if case.status == "failed"]
        return f"KUnit: {failed[0]}" if failed else ""

    def suite(self, patterns, skipped=(), limit=STALLED):
        """The case of the suite that fails, or "", and the names of those that passed."""
        job = suite.suite_job(self.run, *patterns)
        job.env["SUITE_EXCEPT"] = " ".join({*suite.ELSEWHERE, *skipped})
        result = self._boot(job, limit)
        log = result.kernel_log()
        cases = judge.judge(result.lines(), log, result.status, result.problem)
        passed = [case.name for case in cases if case.status == "passed"]
        return killer(cases, log), passed

    def _boot(self, job, limit=STALLED):
        job.folder = machine.new_log_dir("mutant")
        job.watch = self.watch = Watch(f"{job.folder}/kernel.log", limit)
        return machine.run(job, boot.by_line(self.watch.on_line))


class Campaign:
    """All mutants, their results so far, and the workers."""

    def __init__(self, run, mutants, sources):
        self.run, self.mutants, self.sources = run, mutants, sources
        self.lock = threading.Lock()
        self.results, passed = {}, {}
        if os.path.exists(RESULTS):
            with open(RESULTS) as file:
                self.results, passed = mutant.read_results(file)
        self.passed, slowest = passed.get(sources, (set(), 0))
        self.limit = max(60, SLOWEST * slowest)
        listed = subprocess.check_output([*RUNS, f"{BUILD}/guest/{RELEASE}/suite", "--list"],
                                         text=True)
        self.all_cases = set(listed.split()) - suite.ELSEWHERE

    def outcome(self, one):
        """What became of a mutant; "" if nothing yet."""
        if one.equivalent:
            return "equivalent"
        return self.results.get(mutant.key(one, self.sources), {}).get("outcome", "")

    def record(self, line):
        """Keeps a result."""
        with self.lock, open(RESULTS, "a") as file:
            file.write(json.dumps(line) + "\n")
            if "key" in line:
                self.results[line["key"]] = line

    def matching(self, patterns):
        """The names of the cases that the suite would run."""
        return {name for name in self.all_cases if any(pattern in name for pattern in patterns)}

    def check_baseline(self, worker, todo):
        """Fails unless the unchanged module passes the likely cases of all."""
        patterns, kunit = mutant.without_kunit({name for one in todo for name in one.cases})
        lost = [pattern for pattern in sorted(patterns) if not self.matching([pattern])]
        if lost:
            raise machine.Unusable(f"tests/mutants: no case of the suite matches {lost[0]}")
        if not worker.build():
            raise machine.Unusable("the unchanged module does not build")
        failed, passed, slowest = "", [], 0
        if kunit and mutant.KUNIT not in self.passed:
            say("mutants: the module itself, KUnit")
            failed, passed = worker.kunit(), [mutant.KUNIT]
        missing = self.matching(patterns) - self.passed
        if missing and not failed:
            say(f"mutants: the module itself, {len(missing)} cases")
            failed, names = worker.suite(sorted(missing))
            passed, slowest = passed + sorted(names), int(worker.watch.slowest)
        if failed:
            raise machine.Unusable(f"the unchanged module fails: {failed}")
        if passed:
            self.record({"baseline": self.sources, "cases": passed, "slowest": slowest})
            self.limit = max(self.limit, SLOWEST * slowest)

    def judge(self, worker, one):
        """Lets a mutant meet its cases; returns its result."""
        patterns, kunit = mutant.without_kunit(one.cases)
        if not worker.build(one):
            return {"outcome": UNBUILDABLE, "stage": "build"}
        if self.outcome(one) == PASSED:
            return self._whole(worker, patterns)
        if kunit and (failed := worker.kunit()):
            return {"outcome": KILLED, "killer": failed, "stage": "kunit"}
        failed = worker.suite(patterns, (), self.limit)[0] if patterns else ""
        if failed:
            return {"outcome": KILLED, "killer": failed, "stage": "likely"}
        return {"outcome": PASSED, "stage": "likely"}

    def _whole(self, worker, patterns):
        failed, _ = worker.suite((), self.matching(patterns))
        if not failed:
            return {"outcome": SURVIVED, "stage": "whole"}
        # Another look at a case that nobody expected to fail: the machine may just be busy.
        if failed in self.all_cases and not worker.suite([failed])[0]:
            failed += ", once in two runs"
        return {"outcome": KILLED, "killer": failed, "stage": "whole"}

    def work(self, worker, queue, total):
        """Takes mutants from the queue until it is empty."""
        while True:
            with self.lock:
                if not queue:
                    return
                one = queue.pop(0)
                number = total - len(queue)
            begin = time.monotonic()
            result = self.judge(worker, one)
            result["seconds"] = int(time.monotonic() - begin)
            result |= {"key": mutant.key(one, self.sources), "name": one.name, "file": one.file}
            self.record(result)
            killer_ = f" by {result['killer']}" if "killer" in result else ""
            say(f"{number}/{total} {result['outcome']}{killer_}: {one.name}")

    def go_on(self, limit, jobs):
        """Runs what has no result yet: the likely cases of all, then the whole suite."""
        workers = []
        for outcome in ("", PASSED):
            todo = [one for one in self.mutants if self.outcome(one) == outcome]
            todo = todo if limit is None else todo[:limit]
            if not todo:
                continue
            if limit is not None:
                limit -= len(todo)
            if not workers:
                workers = [Worker(self.run, number, jobs) for number in range(jobs)]
                self.check_baseline(workers[0], todo)
            queue, total = list(todo), len(todo)
            threads = [threading.Thread(target=self.work, args=(worker, queue, total), daemon=True)
                       for worker in workers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


def _files(folders):
    """{path: bytes} of the files of folders and files, without what a build leaves."""
    found = {}
    for path in folders:
        walk = os.walk(f"/src/{path}") if os.path.isdir(f"/src/{path}") else [("/src", [], [path])]
        for folder, subfolders, files in walk:
            subfolders[:] = sorted(set(subfolders) - {"target"})
            for name in sorted(files):
                with open(f"{folder}/{name}", "rb") as file:
                    found[f"{folder}/{name}"[len("/src/"):]] = file.read()
    return found


def _generator():
    """The program cargo-mutants, built once and kept in the cache."""
    root = f"/cache/cargo-mutants-{GENERATOR}"
    with open(f"{root}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another checkout may be at it
        if not os.path.exists(root):
            say(f"mutants: cargo install cargo-mutants {GENERATOR}")
            shutil.rmtree(f"{root}.new", ignore_errors=True)
            subprocess.run(["cargo", "install", "--quiet", "--locked", "--version", GENERATOR,
                            "--root", f"{root}.new", "cargo-mutants"], check=True)
            os.rename(f"{root}.new", root)
    return f"{root}/bin/cargo-mutants"


def _listing(crate):
    """What cargo-mutants finds in a crate: it parses the sources and builds nothing."""
    folder = f"/tmp/generate-{crate}"
    shutil.copytree(f"/src/{crate}", f"{folder}/{crate}")
    with open(f"{folder}/Cargo.toml", "w") as file:
        file.write(f'[package]\nname = "{crate}"\nversion = "0.0.0"\nedition = "2021"\n'
                   f'[lib]\npath = "{crate}/{CRATES[crate]}"\n')
    command = [_generator(), "mutants", "--list", "--json", "--diff", "--no-config", "-d", folder]
    return subprocess.check_output(command, text=True)


def _table(name):
    with open(f"{TABLES}/{name}.toml") as file:
        return file.read()


def collect(texts):
    """The mutants of both sources; `texts` are those of the files of the module."""
    likely = mutant.tomllib.loads(_table("cases"))
    found = mutant.semantic(_table("semantic"), texts, likely)
    if not os.environ.get("SEMANTIC"):
        for crate in CRATES:
            found += mutant.generated(_listing(crate), _table("equivalent"), texts, likely)
    return found


def mutants(run):
    """Runs up to N mutants of the files that FILE matches, and prints what became of all."""
    files = _files(MODULE + TESTS)
    sources = mutant.digest(*files, *(data.decode(errors="replace") for data in files.values()))
    texts = {path: data.decode() for path, data in files.items() if path.endswith(".rs")}
    limit = os.environ.get("N")
    jobs = int(os.environ.get("JOBS") or 2)
    try:
        chosen = mutant.selected(collect(texts), os.environ.get("PART"),
                                 os.environ.get("FILE", ""))
    except mutant.Stale as stale:
        raise machine.Unusable(str(stale)) from stale
    campaign = Campaign(run, chosen, sources)
    campaign.go_on(int(limit) if limit else None, jobs)
    lines, good = mutant.report(chosen, campaign.results, sources)
    print("\n".join(lines), flush=True)
    return 0 if good else 1
