/* One DHCP exchange in a child that owns two UDP sockets and nothing else. Source: RFC 2131, RFC 2132.
 *
 * Only address, mask and router are taken. The child may send without an address only, so nothing but to where the
 * sending socket is connected: everybody on the link, port 67. Answers come from a server's own address, which that
 * socket would not take, so a second one hears them. */
#include "init.h"

/* Offsets in the message, RFC 2131 figure 1, and option codes, RFC 2132. */
enum { TRANSACTION = 4, FLAGS = 10, YOUR_ADDRESS = 16, HARDWARE = 28, COOKIE = 236, OPTIONS = 240 };
enum { PAD = 0, MASK = 1, ROUTER = 3, REQUESTED = 50, TYPE = 53, SERVER = 54, PARAMETERS = 55, END = 255 };
enum { CLIENT_PORT = 68, ROUNDS = 10, WAIT_S = 2, DATAGRAMS = 64, CHILD = 400, ANSWERS = 3, QUESTIONS = 4, CHILD_LIMIT_MS = 90000 };
static const uint8_t MAGIC[4] = {99, 130, 83, 99};
static const struct sockaddr_in EVERYBODY = {AF_INET, __builtin_bswap16(67), {INADDR_BROADCAST}, {0}};

static uint8_t *put(uint8_t *at, uint8_t code, const void *data, uint8_t size)
{
    at[0] = code;
    at[1] = size;
    return (uint8_t *)memcpy(at + 2, data, size) + size;
}

void dhcp_write(const struct dhcp_query *query, uint8_t message[DHCP_MESSAGE])
{
    static const uint8_t wanted[] = {MASK, ROUTER};
    uint8_t *at = message + OPTIONS;
    memset(message, 0, DHCP_MESSAGE);
    memcpy(message, "\1\1\6", 3);  /* a request, Ethernet, six bytes of address */
    memcpy(message + TRANSACTION, &query->transaction, 4);
    message[FLAGS] = 0x80;  /* answer by broadcast: there is no address yet */
    memcpy(message + HARDWARE, query->hardware, 6);
    memcpy(message + COOKIE, MAGIC, 4);
    at = put(at, TYPE, &query->type, 1);
    if (query->type == DHCP_REQUEST) {
        at = put(at, REQUESTED, &query->lease.address, 4);
        at = put(at, SERVER, &query->server, 4);
    }
    *put(at, PARAMETERS, wanted, sizeof wanted) = END;
}

/* Take the four options that count, none of them twice; a network may have no router, the others must be there. All
 * lengths must add up to the end mark. */
static bool take_options(const uint8_t *at, const uint8_t *end, struct dhcp_query *answer)
{
    uint64_t seen = 0;
    for (; at < end && *at != END; at += *at == PAD ? 1 : 2 + at[1]) {
        void *place = *at == TYPE ? (void *)&answer->type : *at == MASK ? &answer->lease.mask
                    : *at == ROUTER ? &answer->lease.router : *at == SERVER ? &answer->server : NULL;
        size_t size = *at == TYPE ? 1 : 4;
        if (*at != PAD && (end - at < 2 || end - at - 2 < at[1]))
            return false;
        if (place == NULL)
            continue;
        if ((seen & 1UL << *at) || at[1] < size || at[1] % size || (at[1] > size && *at != ROUTER))
            return false;
        memcpy(place, at + 2, size);
        seen |= 1UL << *at;
    }
    return at < end && (seen | 1UL << ROUTER) == (1UL << TYPE | 1UL << MASK | 1UL << ROUTER | 1UL << SERVER);
}

bool dhcp_parse(const struct dhcp_query *query, const uint8_t *message, size_t size, struct dhcp_query *answer)
{
    bool first = query->type == DHCP_DISCOVER;
    if (size <= OPTIONS || memcmp(message, "\2\1\6", 3) || memcmp(message + COOKIE, MAGIC, 4)
        || memcmp(message + TRANSACTION, &query->transaction, 4) || memcmp(message + HARDWARE, query->hardware, 6))
        return false;
    *answer = *query;
    memcpy(&answer->lease.address, message + YOUR_ADDRESS, 4);
    return take_options(message + OPTIONS, message + size, answer) && lease_is_sane(&answer->lease)
        && answer->type == (first ? DHCP_OFFER : DHCP_ACK)
        && (first || (answer->server == query->server && answer->lease.address == query->lease.address));
}

static bool exchange(const struct dhcp_query *query, struct dhcp_query *answer)
{
    uint8_t message[1500];
    dhcp_write(query, message);
    if (send(QUESTIONS, message, DHCP_MESSAGE, 0) < 0)
        return false;
    ssize_t got = 0;
    for (int i = 0; i < DATAGRAMS && (got = recv(ANSWERS, message, sizeof message, 0)) >= 0; i++)
        if (dhcp_parse(query, message, (size_t)got, answer))
            return true;
    return false;
}

static _Noreturn void ask_in_child(const int udp[2], int result, struct dhcp_query query)
{
    struct dhcp_query offer, confirmed;
    int high = fcntl(udp[1], F_DUPFD_CLOEXEC, 16);  /* out of the way of the other's final number */
    MUST(dup2(result, 1) == 1 && dup2(udp[0], ANSWERS) == ANSWERS && dup2(high, QUESTIONS) == QUESTIONS);
    MUST(!syscall(__NR_close_range, QUESTIONS + 1, ~0U, 0));
    MUST(!chroot("/aside") && !chdir("/"));
    become(CHILD);
    install_filter(DHCP_FILTER);
    for (int round = 0; round < ROUNDS; round++) {
        bool offered = exchange(&query, &offer);
        offer.type = DHCP_REQUEST;
        if (offered && exchange(&offer, &confirmed))
            _exit(write(1, &confirmed.lease, sizeof confirmed.lease) != sizeof confirmed.lease);
    }
    _exit(1);
}

static int open_client(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(CLIENT_PORT)};
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), on = 1;
    MUST(udp >= 0 && !setsockopt(udp, SOL_SOCKET, SO_BINDTODEVICE, "eth0", 5)
         && !setsockopt(udp, SOL_SOCKET, SO_BROADCAST, &on, sizeof on)
         && !setsockopt(udp, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)
         && !setsockopt(udp, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = WAIT_S}, sizeof(struct timeval))
         && !bind(udp, (struct sockaddr *)&any, sizeof any));
    return udp;
}

void dhcp_ask(struct lease *lease)
{
    struct ifreq interface = {.ifr_name = "eth0"};
    struct dhcp_query query = {.type = DHCP_DISCOVER};
    int udp[2] = {open_client(), open_client()}, ends[2];
    MUST(!connect(udp[1], (const struct sockaddr *)&EVERYBODY, sizeof EVERYBODY)
         && !ioctl(udp[0], SIOCGIFHWADDR, &interface) && !pipe2(ends, O_CLOEXEC)
         && getrandom(&query.transaction, 4, 0) == 4);
    memcpy(query.hardware, interface.ifr_hwaddr.sa_data, 6);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0)
        ask_in_child(udp, ends[1], query);
    close(udp[0]);
    close(udp[1]);
    close(ends[1]);
    bool ready = poll(&(struct pollfd){.fd = ends[0], .events = POLLIN}, 1, CHILD_LIMIT_MS) == 1;
    MUST(ready && read(ends[0], lease, sizeof *lease) == sizeof *lease && lease_is_sane(lease));
    MUST(!kill(child, SIGKILL) && waitpid(child, NULL, 0) == child);
    close(ends[0]);
}
