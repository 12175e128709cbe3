# SPDX-License-Identifier: GPL-2.0
"""Compares the table of targets with its users; run by `make check`."""

import os
import re
import unittest

import boot
import run

SCRIPTS = f"{os.path.dirname(os.path.abspath(__file__))}/../.."


class Targets(unittest.TestCase):
    """TARGETS"""

    def setUp(self):
        with open(f"{SCRIPTS}/../Makefile") as file:
            self.makefile = file.read()

    def test_make_has_rule_and_help_of_each(self):
        for name in run.TARGETS:
            self.assertRegex(self.makefile, rf"(?m)^[^#\n]*(?<![\w-]){name}(?![\w-])")
            self.assertRegex(self.makefile, rf"(?m)^#: make {name if name != 'module' else ' '}")

    def test_make_has_no_others(self):
        lists = re.findall(r"(?m)^(?:plain|debian) [:+]= (.*)$", self.makefile)
        self.assertLessEqual(set(" ".join(lists).split()), set(run.TARGETS))

    def test_kernels_have_a_configuration(self):
        for target in run.TARGETS.values():
            path = f"{SCRIPTS}/kernel/{target.flavour}.config"
            self.assertTrue(not target.flavour or os.path.exists(path), path)

    def test_dkms_names_the_tested_series(self):
        with open(f"{SCRIPTS}/debian/dkms-build") as file:
            self.assertIn(f"SERIES='{' and '.join(sorted(run.STOCK_SERIES))}'", file.read())

    def test_modules_of_flavours_do_not_mix(self):
        flavours = ["test", "bench", "debug", "kcsan", "stock-7.2", "stock-7.3", "deb-7.3"]
        folders = {boot.Run("soak", flavour, "", 0).modules for flavour in flavours}
        self.assertEqual(len(folders), len(flavours))


if __name__ == "__main__":
    unittest.main()
