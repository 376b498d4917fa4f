/* What the parts of init know of each other. Contract: docs/spec/guest-abi.md. */
#pragma once
#define _GNU_SOURCE

#include "command.h"

#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/capability.h>
#include <linux/fib_rules.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/landlock.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MUST(condition) do { if (!(condition)) power_off(); } while (0)
_Noreturn void power_off(void);  /* in PID 1; any other process exits, and PID 1 powers off for it */

struct sha256 { uint32_t state[8]; uint64_t length; uint8_t block[64]; };
void sha256_start(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const void *data, size_t size);
void sha256_finish(struct sha256 *hash, uint8_t digest[32]);

/* True if every entry below the working directory is as `listing` says, and nothing else is there. */
bool tree_matches(const char *listing, size_t size);
bool read_file(const char *path, char *buffer, size_t capacity, size_t *size);  /* false if it does not fit */

/* In network byte order, router 0 if there is none; also the 12 bytes that the DHCP child hands over. */
struct lease { uint32_t address, mask, router; };
bool lease_is_sane(const struct lease *lease);

enum { CONFIG_CAPACITY = 4096, ARGUMENTS = 16, SLOTS = 16 };
/* `arguments` point into `text` and end with NULL. */
struct config {
    struct lease lease;
    uint64_t port, memory, seconds, concurrency;
    bool dhcp;
    char *arguments[ARGUMENTS + 1], text[CONFIG_CAPACITY];
};
bool parse_config(struct config *config, const char *text, size_t size);

void set_up_address(int netlink, const struct lease *lease, uint16_t port, uint32_t index);
void set_up_network(struct config *config);
int open_listener(uint16_t port);

struct dhcp_query { uint32_t transaction, server; uint8_t type, hardware[6]; struct lease lease; };
enum { DHCP_DISCOVER = 1, DHCP_OFFER = 2, DHCP_REQUEST = 3, DHCP_ACK = 5, DHCP_MESSAGE = 300 };
void dhcp_write(const struct dhcp_query *query, uint8_t message[DHCP_MESSAGE]);
/* True if `message` answers `query`; then `answer` holds its type, server and lease. */
bool dhcp_parse(const struct dhcp_query *query, const uint8_t *message, size_t size, struct dhcp_query *answer);
void dhcp_ask(struct lease *lease);

/* Read all filters, before anything else is started; a process then has every one that its children need. */
enum filter { SOCKET_RULE, CHILD_FILTER, INIT_FILTER, DHCP_FILTER, LAUNCHER_FILTER, WORKLOAD_FILTER, FILTERS };
void load_filters(const char *directory);
void install_filter(enum filter filter);
void empty_bounding_set(void);
void keep_capabilities(uint32_t low_mask);
void become(uid_t id);
void limit(int resource, uint64_t value);
void confine_files(const char *root);

_Noreturn void run_launcher(const struct config *config, const char *root, int gate);
