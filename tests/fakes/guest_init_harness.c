/* Runs the parts of init on a workstation: frames of a 4-byte big-endian length and bytes in, the same out. */
#include "init.h"

#include <stdlib.h>

static uint8_t input[1 << 20], output[1 << 20];

_Noreturn void power_off(void) { _exit(9); }

static size_t on_sha256(const uint8_t *frame, size_t size)
{
    struct sha256 hash;
    size_t step = frame[0] ? frame[0] : 1;
    sha256_start(&hash);
    for (size_t at = 1; at < size; at += step)
        sha256_add(&hash, frame + at, size - at < step ? size - at : step);
    sha256_finish(&hash, output);
    return 32;
}

/* Empty if refused, else the settings written out again. */
static size_t on_config(const uint8_t *frame, size_t size)
{
    static struct config config;
    char *text = malloc(size + 1), *at = (char *)output;  /* a copy of its own size, for the sanitizer */
    memcpy(text, frame, size);
    bool good = parse_config(&config, text, size);
    free(text);
    if (!good)
        return 0;
    uint8_t a[4], r[4];
    memcpy(a, &config.lease.address, 4);
    memcpy(r, &config.lease.router, 4);
    at += sprintf(at, "blindbuild-init 1\n");
    if (config.dhcp)
        at += sprintf(at, "network dhcp\n");
    else
        at += sprintf(at, "network static %d.%d.%d.%d %d %d.%d.%d.%d\n", a[0], a[1], a[2], a[3],
                      __builtin_popcount(config.lease.mask), r[0], r[1], r[2], r[3]);
    at += sprintf(at, "port %lu\nmemory %lu\nseconds %lu\nconcurrency %lu\n", config.port, config.memory,
                  config.seconds, config.concurrency);
    for (char **argument = config.arguments; *argument; argument++)
        at += sprintf(at, "arg %s\n", *argument);
    return (size_t)(at + sprintf(at, "end\n") - (char *)output);
}

enum { QUERY = 19 };  /* type, transaction, hardware, server, address */

static struct dhcp_query query_from(const uint8_t *frame)
{
    struct dhcp_query query = {.type = frame[0]};
    memcpy(&query.transaction, frame + 1, 4);
    memcpy(query.hardware, frame + 5, 6);
    memcpy(&query.server, frame + 11, 4);
    memcpy(&query.lease.address, frame + 15, 4);
    return query;
}

static size_t on_dhcp_write(const uint8_t *frame, size_t size)
{
    struct dhcp_query query = query_from(frame);
    (void)size;
    dhcp_write(&query, output);
    return DHCP_MESSAGE;
}

static size_t on_dhcp_parse(const uint8_t *frame, size_t size)
{
    struct dhcp_query query = query_from(frame), answer;
    uint8_t *message = malloc(size - QUERY + 1);
    memcpy(message, frame + QUERY, size - QUERY);
    bool good = dhcp_parse(&query, message, size - QUERY, &answer);
    free(message);
    if (!good)
        return 0;
    memcpy(output, &answer.server, 4);
    memcpy(output + 4, &answer.lease, sizeof answer.lease);
    return 16;
}

/* All rtnetlink requests, each answered as done by a child that stands in for the kernel. */
static size_t on_network(const uint8_t *frame, size_t size)
{
    struct { struct nlmsghdr header; struct nlmsgerr error; } done = {.header = {
        .nlmsg_len = sizeof done, .nlmsg_type = NLMSG_ERROR}};
    struct lease lease;
    int pair[2], result[2];
    size_t at = 0;
    (void)size;
    memcpy(&lease, frame, 12);
    MUST(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) && !pipe(result));
    if (fork() == 0) {
        close(pair[0]);
        for (ssize_t got; (got = recv(pair[1], output + at, sizeof output - at, 0)) > 0; at += (size_t)got)
            MUST(send(pair[1], &done, sizeof done, 0) == sizeof done);
        _exit(write(result[1], output, at) != (ssize_t)at);
    }
    close(pair[1]);
    close(result[1]);
    set_up_address(pair[0], &lease, (uint16_t)(frame[12] << 8 | frame[13]), frame[14]);
    close(pair[0]);
    for (ssize_t got; (got = read(result[0], output + at, sizeof output - at)) > 0;)
        at += (size_t)got;
    close(result[0]);
    wait(NULL);
    return at;
}

static size_t on_tree(const uint8_t *frame, size_t size)
{
    char path[4096];
    static char listing[1 << 20];
    size_t length;
    memcpy(path, frame, size);
    path[size] = '\0';
    MUST(!chdir(path));
    output[0] = read_file(".blindbuild.tree", listing, sizeof listing, &length) && tree_matches(listing, length);
    return 1;
}

/* What main.c does before and around the launcher; descriptor 3 is the gate's side of the contract. */
static _Noreturn void launch(const char *root, const char *conf, const char *programs)
{
    static struct config config;
    static char text[CONFIG_CAPACITY];
    size_t size;
    MUST(read_file(conf, text, sizeof text, &size) && parse_config(&config, text, size));
    load_filters(programs);
    MUST(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_DUMPABLE, 0));
    empty_bounding_set();
    install_filter(SOCKET_RULE);
    install_filter(CHILD_FILTER);
    run_launcher(&config, root, 3);
}

/* The network as main.c sets it up, in whatever network namespace this is; then wait to be ended. */
static _Noreturn void serve(const char *conf, const char *programs)
{
    static struct config config;
    static char text[CONFIG_CAPACITY];
    size_t size;
    MUST(read_file(conf, text, sizeof text, &size) && parse_config(&config, text, size));
    load_filters(programs);
    MUST(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    set_up_network(&config);
    open_listener((uint16_t)config.port);
    MUST(write(1, "serving\n", 8) == 8);
    for (;;)
        pause();
}

static bool transfer(int descriptor, void *data, size_t size, bool out)
{
    for (ssize_t got; size; data = (char *)data + got, size -= (size_t)got)
        if ((got = out ? write(descriptor, data, size) : read(descriptor, data, size)) <= 0)
            return false;
    return true;
}

int main(int count, char **arguments)
{
    static const struct { const char *name; size_t (*run)(const uint8_t *, size_t); size_t least; } modes[] = {
        {"sha256", on_sha256, 1}, {"config", on_config, 0}, {"dhcp-write", on_dhcp_write, QUERY},
        {"dhcp-parse", on_dhcp_parse, QUERY}, {"network", on_network, 15}, {"tree", on_tree, 1},
    };
    if (count == 5 && !strcmp(arguments[1], "launch"))
        launch(arguments[2], arguments[3], arguments[4]);
    if (count == 4 && !strcmp(arguments[1], "serve"))
        serve(arguments[2], arguments[3]);
    if (count == 3 && !strcmp(arguments[1], "load"))
        return load_filters(arguments[2]), 0;
    for (size_t i = 0; count == 2 && i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(arguments[1], modes[i].name))
            for (uint32_t length; transfer(0, &length, 4, false);) {
                if (ntohl(length) < modes[i].least || ntohl(length) > sizeof input
                    || !transfer(0, input, ntohl(length), false))
                    return 2;
                size_t size = modes[i].run(input, ntohl(length));
                length = htonl((uint32_t)size);
                if (!transfer(1, &length, 4, true) || !transfer(1, output, size, true))
                    return 2;
            }
    return 0;
}
