/*
 * Copyright (C) 2026 the authors of ublk-remap
 *
 * This file may be redistributed under the terms of the
 * GNU Lesser General Public License.
 *
 * A disk of ublk-remap: its bad sectors are remapped to a spare region, and
 * /dev/ublkbN shows the result. The spare region may be on another device. All
 * numbers are little-endian. The format is described in metadata/FORMAT.md of
 * ublk-remap.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "superblocks.h"
#include "xxhash.h"

#define UBLK_REMAP_SIZE		4096
#define UBLK_REMAP_VERSION	4

struct ublk_remap_super_block {
	uint8_t		magic[8];	/* BLKRMPS4 */
	uint32_t	version;
	uint32_t	size;		/* of the superblock, 4096 */
	uint64_t	checksum;	/* xxhash64 of all, this taken as zero */
	uint8_t		set_uuid[16];	/* the same on all devices of the set */
	uint8_t		device_uuid[16];
	uint64_t	generation;
	uint8_t		unused1[44];
	uint32_t	device_index;	/* 0: the disk itself, others: spare devices */
	uint32_t	block_size;	/* of the device that is shown */
	uint32_t	atom_size;
	uint64_t	head_bytes;
	uint64_t	exported_bytes;
	uint8_t		unused2[24];
	uint8_t		name[64];	/* UTF-8, padded with zero bytes */
} __attribute__((packed));

static int probe_ublk_remap(blkid_probe pr, const struct blkid_idmag *mag)
{
	const struct ublk_remap_super_block *sb;
	const unsigned char *buf;
	unsigned char zeroes[sizeof(sb->checksum)] = { 0 };
	XXH64_state_t *state;
	uint64_t sum;

	buf = blkid_probe_get_sb_buffer(pr, mag, UBLK_REMAP_SIZE);
	if (!buf)
		return errno ? -errno : BLKID_PROBE_NONE;

	sb = (const struct ublk_remap_super_block *) buf;
	if (le32_to_cpu(sb->size) != UBLK_REMAP_SIZE)
		return BLKID_PROBE_NONE;

	state = XXH64_createState();
	if (!state)
		return -ENOMEM;
	XXH64_reset(state, 0);
	XXH64_update(state, buf, offsetof(struct ublk_remap_super_block, checksum));
	XXH64_update(state, zeroes, sizeof(zeroes));
	XXH64_update(state, sb->set_uuid, UBLK_REMAP_SIZE -
			offsetof(struct ublk_remap_super_block, set_uuid));
	sum = XXH64_digest(state);
	XXH64_freeState(state);

	if (!blkid_probe_verify_csum(pr, sum, le64_to_cpu(sb->checksum)))
		return BLKID_PROBE_NONE;

	if (blkid_probe_sprintf_version(pr, "%" PRIu32,
				le32_to_cpu(sb->version)) < 0)
		return -ENOMEM;

	/* in other versions the rest may be elsewhere */
	if (le32_to_cpu(sb->version) != UBLK_REMAP_VERSION)
		return BLKID_PROBE_OK;

	if (blkid_probe_set_uuid(pr, sb->set_uuid) < 0)
		return -ENOMEM;
	if (blkid_probe_set_uuid_as(pr, sb->device_uuid, "UUID_SUB") < 0)
		return -ENOMEM;
	if (blkid_probe_set_label(pr, sb->name, sizeof(sb->name)) < 0)
		return -ENOMEM;
	return BLKID_PROBE_OK;
}

const struct blkid_idinfo ublk_remap_idinfo =
{
	.name		= "ublk_remap_member",
	.usage		= BLKID_USAGE_RAID,
	.probefunc	= probe_ublk_remap,
	.magics		=
	{
		{ .magic = "BLKRMPS4", .len = 8 },
		{ .magic = "BLKRMPS4", .len = 8, .kboff = 32 },
		{ .magic = "BLKRMPS4", .len = 8, .kboff = 64 },
		{ NULL }
	}
};
