# SPDX-License-Identifier: GPL-2.0
"""How the kernel's build has compiled a Rust object: for checks that run rustc once more."""

import os
import shlex
import sys


def command(objects, name):
    """The words and the environment of the rustc call that made NAME.o, without what it emits."""
    folder, base = os.path.split(name)
    try:
        with open(f"{objects}/{folder}/.{base}.o.cmd", encoding="utf-8") as file:
            line = file.readline()
    except FileNotFoundError:
        sys.exit(f"error: {name}.o was not compiled")
    words = shlex.split(line.split(":=", 1)[1].split(";")[0].replace("$(pound)", "#"))
    first = next(i for i, word in enumerate(words) if "=" not in word or word.startswith("-"))
    settings = dict(word.split("=", 1) for word in words[:first])
    words = ["rustc"] + [word for word in words[first + 1 :] if not word.startswith("--emit")]
    return words, dict(os.environ, RUSTC_BOOTSTRAP="1", **settings)
