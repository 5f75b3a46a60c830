#!/usr/bin/env python3
"""Makes `country.mmdb`, the database that is compiled in, of two packages of npm.

    control/data/build.py FOLDER OUTPUT

FOLDER holds both packages, unpacked: `geo-whois-asn-country` (who says what of a network) and `asn-country` (to whom
the registries gave it). The same packages give the same bytes. What is mended, and why, stands in `README.md`.
"""

import csv
import ipaddress
import struct
import sys
from pathlib import Path

# 17 June 2026, the day of the packages. It is part of the file, so it is not the day of the build.
BUILT = 1781654400

# Networks that a registry got to give them out, and describes in its own data base as its own, with the country where
# the registry is. What is left of that in the source is no place of anybody's: the registries' lists say better.
KEPT = {
    # APNIC is in Australia. Its networks in 2001::/16, as IANA gave them, and what it holds back of IPv4.
    "AU": [
        "2001:200::/23", "2001:c00::/23", "2001:e00::/23", "2001:4400::/23",
        "2001:8000::/19", "2001:a000::/20", "2001:b000::/20",
    ],
    # AFRINIC is on Mauritius. 154.0.0.0/8 was given out by others before it was AFRINIC's.
    "MU": ["154.0.0.0/8", "2001:4200::/23"],
}


# What sources say that is no country: the Netherlands Antilles, which are three by now, and areas.
NO_COUNTRY = {"AN", "AP", "EU"}


def rows(path):
    """The lines of a list: first address, last address, country. None overlaps another: where some do in the list, what
    is said of fewer addresses is more exact."""
    with open(path, newline="") as file:
        lines = [(int(low), int(high), country) for low, high, country in csv.reader(file)]
    lines.sort(key=lambda line: (line[0], -line[1]))
    flat, around, at = [], [], 0

    def upto(end):
        """Everything before `end` that is not said yet, by the innermost range around it."""
        nonlocal at
        while around and at < end:
            high, country = around[-1]
            if at <= high:
                flat.append((at, min(high, end - 1), country))
            at = max(at, min(high + 1, end))
            if high < end:
                around.pop()

    for low, high, country in lines:
        upto(low)
        at = max(at, low)
        around.append((high, country))
    upto(1 << 128)
    return flat


def kept(version):
    """First address, last address and country of what registries keep, in one family."""
    networks = ((ipaddress.ip_network(text), country) for country, texts in KEPT.items() for text in texts)
    return [
        (int(network.network_address), int(network.broadcast_address), country)
        for network, country in networks
        if network.version == version
    ]


def overlaps(ours, theirs):
    """Every piece of a range of `ours` that lies in one of `theirs`, both in order."""
    at = 0
    for low, high, country in ours:
        while at < len(theirs) and theirs[at][1] < low:
            at += 1
        here = at
        while here < len(theirs) and theirs[here][0] <= high:
            yield max(low, theirs[here][0]), min(high, theirs[here][1]), country, theirs[here][2]
            here += 1


def mended(said, given, version):
    """What is said of networks, where the registries gave them to anybody at all."""
    own = kept(version)
    for low, high, country, holder in overlaps(said, given):
        cuts = {low, high + 1}
        for first, last, home in own:
            if home == country:
                cuts.update(cut for cut in (first, last + 1) if low < cut <= high)
        cuts = sorted(cuts)
        for begin, end in zip(cuts, cuts[1:]):
            inside = any(home == country and first <= begin <= last for first, last, home in own)
            yield begin, end - 1, holder if inside or country in NO_COUNTRY else country


def joined(ranges):
    """The same with neighbours of one country as one."""
    last = None
    for low, high, country in ranges:
        if last and last[2] == country and last[1] + 1 == low:
            last = (last[0], high, country)
            continue
        if last:
            yield last
        last = (low, high, country)
    if last:
        yield last


def networks(low, high, bits):
    """The networks that a range is made of: address and length of each."""
    while low <= high:
        free = (low & -low).bit_length() - 1 if low else bits
        size = min(free, (high - low + 1).bit_length() - 1)
        yield low, bits - size
        low += 1 << size


class Tree:
    """The search tree of a database: two children for each node, which are nodes, countries or nothing."""

    def __init__(self):
        self.left, self.right = [None], [None]

    def insert(self, address, length, country):
        """Networks do not overlap and come in order."""
        node = 0
        for bit in range(length):
            side = self.right if address >> (127 - bit) & 1 else self.left
            if bit == length - 1:
                side[node] = country
                return
            if side[node] is None:
                self.left.append(None)
                self.right.append(None)
                side[node] = len(self.left) - 1
            node = side[node]

    def write(self, countries):
        """The tree as bytes, and how many nodes it has."""
        count = len(self.left)
        assert count + 16 + 16 * len(countries) < 1 << 24, "records of 24 bits are enough"
        offsets, data = {}, bytearray()
        for country in sorted(countries):
            offsets[country] = len(data)
            data += value({"country_code": country})

        def record(child):
            if child is None:
                return count
            return child if isinstance(child, int) else count + 16 + offsets[child]

        tree = bytearray()
        for left, right in zip(self.left, self.right):
            tree += record(left).to_bytes(3, "big") + record(right).to_bytes(3, "big")
        return bytes(tree) + bytes(16) + bytes(data), count


class Unsigned:
    """A number with the width that the format wants."""

    def __init__(self, number, kind):
        self.number, self.kind = number, kind


def value(what):
    """A value in the format's encoding."""
    if isinstance(what, str):
        text = what.encode()
        assert len(text) < 285
        if len(text) < 29:
            return bytes([2 << 5 | len(text)]) + text
        return bytes([2 << 5 | 29, len(text) - 29]) + text
    if isinstance(what, dict):
        return bytes([7 << 5 | len(what)]) + b"".join(value(k) + value(v) for k, v in what.items())
    if isinstance(what, list):
        return bytes([len(what), 11 - 7]) + b"".join(map(value, what))
    number = what.number.to_bytes((what.number.bit_length() + 7) // 8, "big")
    if what.kind > 7:
        return bytes([len(number), what.kind - 7]) + number
    return bytes([what.kind << 5 | len(number)]) + number


def main(folder, output):
    tree, countries = Tree(), set()
    for version, bits in ((4, 32), (6, 128)):
        name = f"ipv{version}-num.csv"
        said = rows(folder / "geo-whois-asn-country" / f"geo-whois-asn-country-{name}")
        given = rows(folder / "asn-country" / f"asn-country-{name}")
        for low, high, country in joined(mended(said, given, version)):
            countries.add(country)
            for address, length in networks(low, high, bits):
                # IPv4 lives below ::/96.
                tree.insert(address, length + 128 - bits, country)
    body, count = tree.write(countries)
    metadata = {
        "binary_format_major_version": Unsigned(2, 5),
        "binary_format_minor_version": Unsigned(0, 5),
        "build_epoch": Unsigned(BUILT, 9),
        "database_type": "geo-whois-asn-country, mended",
        "description": {"en": "Countries by the Number Resource Organization's data, CC BY 4.0"},
        "ip_version": Unsigned(6, 5),
        "languages": ["en"],
        "node_count": Unsigned(count, 6),
        "record_size": Unsigned(24, 5),
    }
    output.write_bytes(body + b"\xab\xcd\xefMaxMind.com" + value(metadata))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
