/* DPDK's packet buffers, for `compare micro`: mempools with the usual cache for each core, no device,
 * no huge pages. It reads lines of `OPERATIONS CASE` from standard input and answers each with
 * `NANOSECONDS BUFFERS`, where the second are those still in use: there must be none. */

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_ring.h>
#include <rte_version.h>

#define BUFFERS 8191
#define CACHE 256
#define BURST 32
#define FLIGHT 1024
#define SEGMENT 300
/* Seconds after which a case has hung. */
#define PATIENCE 120

/* The pool of small buffers (128 bytes of data), of 2 KiB, and of those without data, which are what
 * clones are made of. */
static struct rte_mempool *small, *large, *clones;
static struct rte_ring *ring;
static char payload[SEGMENT];

/* What the compiler must believe that somebody looks at. */
#define SEEN(pointer) __asm__ volatile("" : : "g"(pointer) : "memory")

static struct rte_mbuf *some(struct rte_mbuf *buffer)
{
	if (buffer == NULL)
		rte_exit(1, "no buffers\n");
	SEEN(buffer);
	return buffer;
}

static struct rte_mbuf *filled(unsigned bytes)
{
	struct rte_mbuf *buffer = some(rte_pktmbuf_alloc(large));
	memcpy(rte_pktmbuf_append(buffer, bytes), payload, bytes);
	return buffer;
}

static void one(struct rte_mempool *pool, uint64_t times)
{
	while (times-- > 0)
		rte_pktmbuf_free(some(rte_pktmbuf_alloc(pool)));
}

static void one_small(uint64_t times)
{
	one(small, times);
}

static void one_large(uint64_t times)
{
	one(large, times);
}

static void many(struct rte_mempool *pool, unsigned n, uint64_t times)
{
	struct rte_mbuf *buffers[FLIGHT];

	while (times-- > 0) {
		for (unsigned i = 0; i < n; i++)
			buffers[i] = some(rte_pktmbuf_alloc(pool));
		for (unsigned i = 0; i < n; i++)
			rte_pktmbuf_free(buffers[i]);
	}
}

static void burst(uint64_t times)
{
	many(small, BURST, times);
}

static void burst_bulk(uint64_t times)
{
	struct rte_mbuf *buffers[BURST];

	while (times-- > 0) {
		if (rte_pktmbuf_alloc_bulk(small, buffers, BURST) != 0)
			rte_exit(1, "no buffers\n");
		SEEN(buffers);
		rte_pktmbuf_free_bulk(buffers, BURST);
	}
}

static void flight(uint64_t times)
{
	many(large, FLIGHT, times);
}

static void prepend(uint64_t times)
{
	struct rte_mbuf *buffer = filled(64);

	while (times-- > 0) {
		memcpy(rte_pktmbuf_prepend(buffer, 14), payload, 14);
		SEEN(buffer);
		SEEN(rte_pktmbuf_adj(buffer, 14));
	}
	rte_pktmbuf_free(buffer);
}

static void append(uint64_t times)
{
	struct rte_mbuf *buffer = filled(64);

	while (times-- > 0) {
		memcpy(rte_pktmbuf_append(buffer, 64), payload, 64);
		SEEN(buffer);
		SEEN(rte_pktmbuf_trim(buffer, 64));
	}
	rte_pktmbuf_free(buffer);
}

static void share(uint64_t times)
{
	struct rte_mbuf *buffer = filled(64);

	while (times-- > 0)
		rte_pktmbuf_free(some(rte_pktmbuf_clone(buffer, clones)));
	rte_pktmbuf_free(buffer);
}

static void share_both(uint64_t times)
{
	while (times-- > 0) {
		struct rte_mbuf *buffer = filled(64);
		struct rte_mbuf *clone = some(rte_pktmbuf_clone(buffer, clones));

		rte_pktmbuf_free(buffer);
		rte_pktmbuf_free(clone);
	}
}

static struct rte_mbuf *chain_of_four(void)
{
	struct rte_mbuf *chain = filled(SEGMENT);

	for (int i = 0; i < 3; i++)
		if (rte_pktmbuf_chain(chain, filled(SEGMENT)) != 0)
			rte_exit(1, "a chain of four is too long\n");
	return chain;
}

static void chain(uint64_t times)
{
	while (times-- > 0)
		rte_pktmbuf_free(some(chain_of_four()));
}

static void linearize(uint64_t times)
{
	while (times-- > 0) {
		struct rte_mbuf *packet = chain_of_four();

		if (rte_pktmbuf_linearize(packet) != 0)
			rte_exit(1, "no room to linearize\n");
		rte_pktmbuf_free(some(packet));
	}
}

/* The other core's part: to free so many. */
static int free_all(void *times)
{
	struct rte_mbuf *buffers[BURST];

	for (uint64_t left = *(uint64_t *)times; left > 0;) {
		unsigned n = rte_ring_sc_dequeue_burst(ring, (void **)buffers, BURST, NULL);

		for (unsigned i = 0; i < n; i++)
			rte_pktmbuf_free(buffers[i]);
		left -= n;
		if (n == 0)
			rte_pause();
	}
	return 0;
}

static void across(uint64_t times)
{
	struct rte_mbuf *buffers[BURST];
	unsigned worker = rte_get_next_lcore(-1, 1, 0);
	uint64_t all = times;

	if (rte_eal_remote_launch(free_all, &all, worker) != 0)
		rte_exit(1, "the other core is busy\n");
	while (times > 0) {
		unsigned n = times < BURST ? times : BURST;

		for (unsigned i = 0; i < n; i++)
			buffers[i] = some(rte_pktmbuf_alloc(large));
		while (rte_ring_sp_enqueue_bulk(ring, (void **)buffers, n, NULL) == 0)
			rte_pause();
		times -= n;
	}
	rte_eal_wait_lcore(worker);
}

/* The names are those in src/micro/buffers.rs. */
static const struct {
	const char *name;
	void (*run)(uint64_t times);
} cases[] = {
	{ "one small buffer", one_small },
	{ "one 2 KiB buffer", one_large },
	{ "32 at once", burst },
	{ "32 at once, bulk", burst_bulk },
	{ "1,024 in flight", flight },
	{ "prepend 14, trim 14", prepend },
	{ "append 64, trim 64", append },
	{ "share, drop the share", share },
	{ "allocate, share, drop both", share_both },
	{ "chain of four", chain },
	{ "chain of four, linearized", linearize },
	{ "freed on the other core", across },
};

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * UINT64_C(1000000000) + time.tv_nsec;
}

static void answer(uint64_t times, const char *name)
{
	for (size_t i = 0; i < RTE_DIM(cases); i++) {
		if (strcmp(cases[i].name, name) != 0)
			continue;
		uint64_t start = now();
		cases[i].run(times);
		uint64_t end = now();
		printf("%" PRIu64 " %u\n", end - start,
		       rte_mempool_in_use_count(small) + rte_mempool_in_use_count(large) +
			       rte_mempool_in_use_count(clones));
		fflush(stdout);
		return;
	}
	rte_exit(1, "there is no case `%s`\n", name);
}

int main(int argc, char **argv)
{
	char line[128];

	if (rte_eal_init(argc, argv) < 0)
		rte_exit(1, "rte_eal_init failed\n");
	small = rte_pktmbuf_pool_create("small", BUFFERS, CACHE, 0, RTE_PKTMBUF_HEADROOM + 128, 0);
	large = rte_pktmbuf_pool_create("large", BUFFERS, CACHE, 0, RTE_PKTMBUF_HEADROOM + 2048, 0);
	clones = rte_pktmbuf_pool_create("clones", BUFFERS, CACHE, 0, 0, 0);
	ring = rte_ring_create("ring", FLIGHT, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
	if (small == NULL || large == NULL || clones == NULL || ring == NULL)
		rte_exit(1, "no memory for the pools\n");
	memset(payload, 7, sizeof(payload));

	printf("%s\n", rte_version());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin) != NULL) {
		uint64_t times;
		int name;

		line[strcspn(line, "\n")] = '\0';
		if (sscanf(line, "%" SCNu64 " %n", &times, &name) != 1)
			rte_exit(1, "not a line of a number and a case: %s\n", line);
		alarm(PATIENCE);
		answer(times, line + name);
		alarm(0);
	}
	return 0;
}
