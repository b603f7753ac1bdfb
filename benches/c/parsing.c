/* Packets parsed by hand, for `compare micro`: what one writes without a library, with bounds checked.
 *
 * Standard input begins with the packets: how many (a 32-bit number of this machine's), and each one's
 * length (the same) and bytes. They come to lie in slots as those of a DPDK mempool, SLOT bytes apart,
 * packet i in slot i * STEP modulo their number: a receive ring is in no order either. Lines of
 * `PASSES CASE` follow; each is answered with `NANOSECONDS SUM`, where the sum is that of both ports
 * and the bytes of payload of every packet. */

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SLOT 2368
#define STEP 7919
#define HUGE_PAGE ((size_t)2 << 20)
/* How many packets ahead are prefetched. */
#define AHEAD 16
/* Seconds after which a case has hung. */
#define PATIENCE 120

struct packet {
	const uint8_t *bytes;
	uint32_t length;
};

static struct packet *packets;
static uint32_t count;

static inline uint16_t be16(const uint8_t *bytes)
{
	return bytes[0] << 8 | bytes[1];
}

/* RFC 1071: all ones if the checksum is right. */
static inline uint16_t ones_sum(const uint8_t *bytes, uint32_t length)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i + 1 < length; i += 2)
		sum += be16(bytes + i);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Both ports and the bytes of payload; 0 for whatever is malformed or not known. */
static inline uint64_t parse(struct packet packet, bool verify)
{
	const uint8_t *at = packet.bytes;
	uint32_t left = packet.length, header, total;
	uint16_t kind;
	uint8_t protocol;

	if (left < 14)
		return 0;
	kind = be16(at + 12);
	at += 14, left -= 14;
	if (kind == 0x8100) {
		if (left < 4)
			return 0;
		kind = be16(at + 2);
		at += 4, left -= 4;
	}
	if (kind == 0x0800) {
		if (left < 20 || at[0] >> 4 != 4)
			return 0;
		header = (at[0] & 15) * 4;
		total = be16(at + 2);
		if (header < 20 || total < header || total > left)
			return 0;
		if (verify && ones_sum(at, header) != 0xffff)
			return 0;
		protocol = at[9];
	} else if (kind == 0x86dd) {
		if (left < 40 || at[0] >> 4 != 6)
			return 0;
		header = 40;
		total = 40 + be16(at + 4);
		if (total > left)
			return 0;
		protocol = at[6];
	} else {
		return 0;
	}
	at += header, left = total - header;
	if (protocol == 17) {
		if (left < 8 || be16(at + 4) < 8 || be16(at + 4) > left)
			return 0;
		return be16(at) + be16(at + 2) + be16(at + 4) - 8;
	}
	if (protocol == 6) {
		if (left < 20)
			return 0;
		header = (at[12] >> 4) * 4;
		if (header < 20 || header > left)
			return 0;
		return be16(at) + be16(at + 2) + left - header;
	}
	return 0;
}

static inline uint64_t pass(bool verify, bool prefetch)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++) {
		if (prefetch && i + AHEAD < count) {
			__builtin_prefetch(packets[i + AHEAD].bytes);
			__builtin_prefetch(packets[i + AHEAD].bytes + 64);
		}
		sum += parse(packets[i], verify);
	}
	return sum;
}

static uint64_t plain(void)
{
	return pass(false, false);
}

static uint64_t prefetching(void)
{
	return pass(false, true);
}

static uint64_t verified(void)
{
	return pass(true, false);
}

static uint64_t verified_prefetching(void)
{
	return pass(true, true);
}

/* The names are those in src/micro/parsing.rs. */
static const struct {
	const char *name;
	uint64_t (*pass)(void);
} cases[] = {
	{ "plain", plain },
	{ "prefetching", prefetching },
	{ "verified", verified },
	{ "verified, prefetching", verified_prefetching },
};

static void fail(const char *what)
{
	fprintf(stderr, "parsing: %s\n", what);
	exit(1);
}

static void *memory(size_t bytes)
{
	size_t length = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
	void *memory = aligned_alloc(HUGE_PAGE, length);

	if (memory == NULL)
		fail("no memory");
	/* Where the system has no huge pages, all sides do without. */
	madvise(memory, length, MADV_HUGEPAGE);
	return memory;
}

static uint32_t number(void)
{
	uint32_t number;

	if (fread(&number, sizeof(number), 1, stdin) != 1)
		fail("a number is missing");
	return number;
}

static void read_packets(void)
{
	count = number();
	packets = memory(count * sizeof(*packets));
	uint8_t *slots = memory((size_t)count * SLOT);
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *slot = slots + (uint64_t)i * STEP % count * SLOT;
		uint32_t length = number();

		if (length > SLOT || fread(slot, 1, length, stdin) != length)
			fail("a packet is too long, or cut off");
		packets[i] = (struct packet){ slot, length };
	}
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * UINT64_C(1000000000) + time.tv_nsec;
}

static void answer(uint64_t times, const char *name)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		if (strcmp(cases[i].name, name) != 0)
			continue;
		uint64_t sum = 0, start = now();
		while (times-- > 0) {
			sum += cases[i].pass();
			/* So that no pass is hoisted out of the loop. */
			__asm__ volatile("" : : "g"(packets) : "memory");
		}
		printf("%" PRIu64 " %" PRIu64 "\n", now() - start, sum);
		fflush(stdout);
		return;
	}
	fail("there is no such case");
}

int main(void)
{
	char line[128];

	read_packets();
	printf("cc " __VERSION__ "\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin) != NULL) {
		uint64_t times;
		int name;

		line[strcspn(line, "\n")] = '\0';
		if (sscanf(line, "%" SCNu64 " %n", &times, &name) != 1)
			fail("not a line of a number and a case");
		alarm(PATIENCE);
		answer(times, line + name);
		alarm(0);
	}
	return 0;
}
