# SPDX-License-Identifier: GPL-2.0
"""Gives the judge of `make apps-test` the output of broken runs; run by `make check`."""

import struct
import tempfile
import unittest

import apps

BDFS = ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0", "0000:04:00.0"]


def owners(driver, *devices):
    """The guest's lines about the drivers of devices."""
    return "".join(f"driver of {device}: {driver}\n" for device in devices)


def forward(first, second):
    """testpmd's output when it stops: (received, sent) of each port."""
    text = "".join(
        f"  ---- Forward statistics for port {port}  ----\n"
        f"  RX-packets: {numbers[0]}   RX-dropped: 0\n  TX-packets: {numbers[1]}  TX-dropped: 0\n"
        for port, numbers in enumerate((first, second))
    )
    return text + "  +++ Accumulated forward statistics for all ports+++\n"


def total(first, second):
    """testpmd's output about the devices."""
    return "".join(
        f"  #### NIC statistics for port {port}  ####\n"
        f"  RX-packets: {numbers[0]}   RX-missed: 0\n  TX-packets: {numbers[1]}  TX-errors: 0\n"
        for port, numbers in enumerate((first, second))
    )


NESTED = (
    "nested: edu at 0000:00:01.0: id register 0x010000ed\nnested: inverter 0xedcba987\n"
    "nested: peer at 0000:00:02.0: 1024 of 1024 words arrived at 0xc0000000\nnested: OK\n"
)
# By iommufd, without core_dmabuf.
ALONE = f"{apps.REFUSED}\n" + NESTED.replace("1024 of", "0 of")
FIRST = forward((320, 320), (320, 320)) + total((320, 320), (320, 320))
GOOD = {
    "load": "module of vfio-pci: dmabuf_vfio_pci\n",
    "devbind": "\nNetwork devices using DPDK-compatible driver\n=====\n"
    + "".join(f"{bdf} '82576' drv=vfio-pci unused=\n" for bdf in BDFS)
    + "\n" + owners("vfio-pci", *BDFS) + owners("", *BDFS),
    "testpmd-igb": FIRST + forward((9, 9), (9, 9)) + total((900, 1000), (1000, 900)),
    "testpmd-e1000e": FIRST + forward((9, 9), (9, 9)) + total((900, 1000), (1000, 900)),
    "driverctl": owners("virtio-pci", BDFS[0]) + owners("vfio-pci", BDFS[0])
    + f"{BDFS[0]} vfio-pci\n" * 2 + owners("virtio-pci", BDFS[0]),
    "qemu-group": NESTED,
    "qemu-peers": NESTED,
}


def sections(texts, mode="as-vfio-pci", status=0):
    """The guest's output."""
    return "".join(
        f"section: begin {mode}:{what}\n{text}\nsection: end {mode}:{what} {status}\n"
        for what, text in texts.items()
    )


def failed(text, mode="as-vfio-pci", sent=(1000, 900)):
    """The names of the failed cases."""
    found = apps.cases(mode, text.split("\n"), lambda _kind, port: sent[port])
    return [case.name.partition(":")[2] for case in found if case.status != "passed"]


class Judge(unittest.TestCase):
    """cases()"""

    def broken(self, what, old, new):
        """A change of one text fails its case."""
        self.assertIn(old, GOOD[what])
        text = sections(GOOD | {what: GOOD[what].replace(old, new)})
        self.assertEqual(failed(text), [what])

    def test_good(self):
        self.assertEqual(failed(sections(GOOD)), [])

    def test_nothing_ran(self):
        self.assertEqual(failed(""), list(GOOD))

    def test_status(self):
        self.assertEqual(failed(sections(GOOD, status=1)), list(GOOD))

    def test_case_that_did_not_end(self):
        text = sections(GOOD)
        self.assertEqual(failed(text[: text.rindex("section: end")]), ["qemu-peers"])

    def test_wrong_module(self):
        self.broken("load", "dmabuf_vfio_pci", "vfio_pci")

    def test_devices_that_are_not_bound(self):
        self.broken("devbind", "of 0000:03:00.0: vfio-pci", "of 0000:03:00.0: ")
        self.broken("devbind", "0000:03:00.0 '82576' drv=vfio-pci", "0000:03:00.0 '82576' drv=x")

    def test_devices_that_stay_bound(self):
        self.broken("devbind", "of 0000:03:00.0: \n", "of 0000:03:00.0: vfio-pci\n")
        again = GOOD["driverctl"].replace("0000:01:00.0: virtio-pci", "0000:01:00.0: vfio-pci")
        self.broken("driverctl", GOOD["driverctl"], again)

    def test_override_that_is_not_saved(self):
        self.broken("driverctl", "0000:01:00.0 vfio-pci\n" * 2, "0000:01:00.0 vfio-pci\n")

    def test_no_packets(self):
        nothing = forward((0, 320), (0, 320)) + total((0, 320), (0, 320))
        text = sections(GOOD | {"testpmd-igb": nothing * 2})
        self.assertIn("testpmd-igb", failed(text, sent=(320, 320)))

    def test_packets_one_way_only(self):
        self.broken("testpmd-igb", forward((320, 320), (320, 320)), forward((320, 320), (0, 320)))
        self.broken("testpmd-igb", total((900, 1000), (1000, 900)), total((900, 1000), (0, 900)))

    def test_more_packets_received_than_sent(self):
        self.broken("testpmd-igb", total((900, 1000), (1000, 900)), total((901, 1000), (1000, 900)))

    def test_packets_that_qemu_did_not_see(self):
        pair = ["testpmd-igb", "testpmd-e1000e"]
        self.assertEqual(failed(sections(GOOD), sent=(1000, 899)), pair)
        self.assertEqual(failed(sections(GOOD), sent=(0, 0)), pair)

    def test_traffic_that_stopped(self):
        still = FIRST + forward((0, 0), (0, 0)) + total((320, 320), (320, 320))
        text = sections(GOOD | {"testpmd-igb": still, "testpmd-e1000e": still})
        self.assertEqual(failed(text, sent=(320, 320)), ["testpmd-igb", "testpmd-e1000e"])

    def test_no_statistics(self):
        self.broken("testpmd-e1000e", GOOD["testpmd-e1000e"], "No probed ethernet devices\n")

    def test_wrong_register(self):
        self.broken("qemu-group", "0x010000ed", "0xffffffff")

    def test_peer_that_is_not_reached(self):
        self.broken("qemu-group", "1024 of", "1023 of")
        self.broken("qemu-peers", "1024 of", "0 of")

    def test_own_name(self):
        good = {"load": "module of dmabuf-vfio-pci: dmabuf_vfio_pci\n",
                "no-port": "TELEMETRY: No legacy callbacks\nNo probed ethernet devices\n",
                "driverctl": GOOD["driverctl"].replace("vfio-pci", "dmabuf-vfio-pci"),
                "qemu-iommufd": ALONE, "qemu-peers": NESTED}
        self.assertEqual(failed(sections(good, "own"), "own"), [])
        for what, text in {"no-port": "Configuring Port 0\n", "qemu-peers": ALONE,
                           "qemu-iommufd": ALONE.replace(apps.REFUSED, "")}.items():
            self.assertEqual(failed(sections(good | {what: text}, "own"), "own"), [what])
        reached = sections(good | {"qemu-iommufd": NESTED + apps.REFUSED}, "own")
        self.assertEqual(failed(reached, "own"), ["qemu-iommufd"])

    def test_in_tree_peers(self):
        good = GOOD | {"load": "module of vfio-pci: vfio_pci\n"}
        del good["qemu-group"]
        self.assertEqual(failed(sections(good, "in-tree"), "in-tree"), [])
        text = sections(good | {"qemu-peers": ALONE}, "in-tree")
        self.assertEqual(failed(text, "in-tree"), ["qemu-peers"])


class Pcap(unittest.TestCase):
    """senders()"""

    def test_frames_are_counted_by_sender(self):
        frame = bytes(6) + bytes([0x52, 0x54, 0, 0, 1, 1]) + bytes(20)
        other = bytes(12) + bytes(52)
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(24))
            for data in (frame, other, frame):
                file.write(struct.pack("<IIII", 0, 0, len(data), len(data)) + data)
            file.flush()
            counts = {"52:54:00:00:01:01": 2, "00:00:00:00:00:00": 1}
            self.assertEqual(apps.senders(file.name), counts)
        self.assertEqual(apps.mac("e1000e", 1), "52:54:00:00:01:01")


if __name__ == "__main__":
    unittest.main()
