// SPDX-License-Identifier: GPL-2.0

//! KUnit suites of the pure files of `src/`, compiled here a second time.
