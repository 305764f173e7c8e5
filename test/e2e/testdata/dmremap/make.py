#!/usr/bin/env python3
"""Makes images of a disk and its spare device as dm-remap, version 4 of its metadata, leaves them.

It shares no code with ublk-remap. Run it here; it writes the files beside it, always the same.
"""
import gzip
import json
import struct
import zlib

SECTOR = 512
MAIN = 32768            # sectors: 16 MiB
SPARE = 4096            # sectors: 2 MiB
COPIES = [0, 131072, 262144, 393216, 524288]
SIZE = 84288
ACTIVE, PENDING = 2, 1


def kernel_crc32(data, crc=0):
    """crc32(crc, data) of the kernel: no inversion at the start, none at the end."""
    return ~zlib.crc32(data, ~crc & 0xffffffff) & 0xffffffff


def copy(sequence, time, index, entries, main=MAIN, spare=SPARE, sector=SECTOR, version=4):
    b = bytearray(SIZE)
    struct.pack_into('<IIQQ', b, 0, 0x444D5234, version, sequence, time)
    struct.pack_into('<III', b, 28, index, SIZE, 0)
    struct.pack_into('<QQ', b, 120, main, spare)
    struct.pack_into('<II', b, 136, sector, 2048)
    b[144:176] = bytes(range(32))
    b[176:176 + 12] = b'ST1000DM0031'
    struct.pack_into('<QQ', b, 240, time, time + 86400)
    struct.pack_into('<6I', b, 256, 92, 100, 3, 0, 24, 1)
    struct.pack_into('<4I', b, 280, 5, 3, 0, 0)
    struct.pack_into('<4I', b, 296, sum(1 for e in entries if e[2] & ACTIVE), 2048, 0, 1)
    for i, (original, place, flags) in enumerate(entries):
        struct.pack_into('<QQQIIHH', b, 312 + 40 * i, original, place, time * 10**9, 7, 1, 1, flags)
    struct.pack_into('<II', b, 82232, 1, 2048)
    struct.pack_into('<I', b, 24, kernel_crc32(bytes(b[28:]), kernel_crc32(bytes(b[:24]))))
    return b


def text(what, sector):
    return (b'%s %08d; ' % (what, sector) * SECTOR)[:SECTOR]


def damaged(b, at):
    b = bytearray(b)
    b[at] ^= 0x10
    return b


# What the newest copy says: original, spare, flags.
entries = [
    (3, 2000, ACTIVE),                    # in the head of the set
    (9, 2001, ACTIVE | PENDING),
    (20000, 2002, ACTIVE),                # alone in its 4 KiB
    *[(20480 + i, 2100 + i, ACTIVE) for i in range(8)],  # a whole unit
    (20482, 2200, ACTIVE),                # once more: the first counts
    (21000, 2003, PENDING),               # active with the next start
    (21001, 2004, 0),                     # neither: never used
    (22000, 700, ACTIVE),                 # the spare sector lies within the metadata
    (22100, 1279, ACTIVE),                # the last one that does
    (22200, 1280, ACTIVE),                # the first one that does not
    (23000, 2300, ACTIVE),                # two have one spare sector
    (23100, 2300, ACTIVE),
    (24000, SPARE, ACTIVE),               # past the end of the spare device
    (24100, 2**54, ACTIVE),
    (MAIN - 1, SPARE - 1, ACTIVE),        # the last of both
]
older = [(3, 2000, ACTIVE), (25000, 2400, ACTIVE)]
oldest = [(3, 2500, ACTIVE)]

main = bytearray(MAIN * SECTOR)
touched = {s for s in range(0, MAIN, 64)}
for original, _, _ in entries + older:
    touched |= {s for s in range(original - 9, original + 10) if 0 <= s < MAIN}
for s in touched:
    main[s * SECTOR:(s + 1) * SECTOR] = text(b'home', s)

sectors = bytearray(SPARE * SECTOR)
for _, place, _ in entries + older + oldest:
    if place < SPARE:
        sectors[place * SECTOR:(place + 1) * SECTOR] = text(b'spare', place)


def spare(copies):
    image = bytearray(sectors)
    for at, b in zip(COPIES, copies):
        image[at:at + len(b)] = b
    return image


now = 1700000000
new2, new3 = copy(42, now, 2, entries), copy(42, now, 3, entries)
stale1, stale4 = copy(41, now + 100, 1, oldest), copy(42, now - 60, 4, older)
spares = {
    # The newest copy is neither the first nor the last; two have it.
    'spare': [damaged(copy(43, now, 0, older), 50000), stale1, new2, new3, stale4],
    'damaged': [damaged(copy(42, now, i, entries), 24 + 3000 * i) for i in range(5)],
    # Two copies of one sequence and time say different things.
    'contradiction': [new2, copy(42, now, 1, older), new2, new3, stale4],
    'outside': [copy(42, now, i, entries + [(MAIN, 2600, ACTIVE)]) for i in range(5)],
    'other-main': [copy(42, now, i, entries, main=MAIN + 8) for i in range(5)],
    'other-spare': [copy(42, now, i, entries, spare=SPARE + 8) for i in range(5)],
    'other-sectors': [copy(42, now, i, entries, sector=4096) for i in range(5)],
    'other-version': [copy(42, now, i, entries, version=5) for i in range(5)],
}

# What dm-remap showed, as far as it is known: a sector of the spare device by number, or null.
shown, uses = {}, {}
for original, place, flags in entries:
    if flags & (ACTIVE | PENDING) and original not in shown:
        shown[original] = place
        uses[place] = uses.get(place, 0) + 1
shown = {o: p if 1280 <= p < SPARE and uses[p] == 1 else None for o, p in shown.items()}


def write(name, data):
    with open(name, 'wb') as f, gzip.GzipFile('', 'wb', 9, f, mtime=0) as z:
        z.write(data)


write('main.img.gz', main)
for name, copies in spares.items():
    write(name + '.img.gz', spare(copies))
with open('shown.json', 'w') as f:
    json.dump({str(o): p for o, p in sorted(shown.items())}, f, indent=1)
    f.write('\n')
