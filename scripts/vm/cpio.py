# SPDX-License-Identifier: GPL-2.0
"""Writes an initramfs: a cpio archive in the "newc" format.

It is not compressed: an emulated CPU copies faster than it decompresses.
"""

import os
import stat


class Archive:
    """A growing tree of files. add_*() also adds missing parent directories."""

    def __init__(self, path):
        self._file = open(path, "wb")
        self._known = set()
        self._inode = 0

    def add_data(self, name, data, mode=0o644):
        """A regular file with the bytes `data`."""
        self._add(name, stat.S_IFREG | mode, data)

    def add_link(self, name, target):
        """A symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def add_dir(self, name):
        """An empty directory."""
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def add_file(self, name, path):
        """A copy of the file `path`, with its mode."""
        with open(path, "rb") as file:
            self.add_data(name, file.read(), os.stat(path).st_mode & 0o777)

    def add_tree(self, name, path):
        """A copy of everything below the directory `path`."""
        for folder, subfolders, files in os.walk(path):
            for entry in subfolders + files:
                source = os.path.join(folder, entry)
                target = os.path.join(name, os.path.relpath(source, path))
                if os.path.islink(source):
                    self.add_link(target, os.readlink(source))
                elif os.path.isdir(source):
                    self.add_dir(target)
                else:
                    self.add_file(target, source)

    def close(self):
        """Completes the archive."""
        self._record("TRAILER!!!", 0, b"")
        self._file.close()

    def _add(self, name, mode, data):
        name = name.strip("/")
        if name in self._known:
            return
        parent = os.path.dirname(name)
        if parent:
            self.add_dir(parent)
        self._known.add(name)
        self._record(name, mode, data)

    def _record(self, name, mode, data):
        self._inode += 1
        links = 2 if stat.S_ISDIR(mode) else 1
        encoded = name.encode() + b"\0"
        #         inode     mode  uid gid links mtime size   dev (4 numbers) name length   checksum
        fields = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._file.write(_padded(header + encoded) + _padded(data))


def _padded(data):
    return data + b"\0" * (-len(data) % 4)
