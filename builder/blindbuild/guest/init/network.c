/* Address, routes and rules by rtnetlink, then the one listening socket. Source: rtnetlink(7), linux/fib_rules.h.
 *
 * Second layer behind the socket rule: the only rule besides the local table is for TCP from the served port, so
 * nothing else has a route, not even a reset or an ICMP error. */
#include "init.h"

enum { TABLE = 100, RULE_PRIORITY = 100, MAIN_PRIORITY = 32766, DEFAULT_PRIORITY = 32767 };
enum { NEW = NLM_F_CREATE | NLM_F_EXCL };
struct attribute {  /* struct rtattr with a value of up to four bytes; `size` counts the header's four */
    uint16_t size, type;
    uint32_t value;
};

/* Send one request with its attributes, and wait until the kernel has done it. */
static void request(int netlink, int type, int flags, const void *body, size_t size, struct attribute attributes[3])
{
    struct { struct nlmsghdr header; uint8_t rest[48]; } message = {.header = {
        .nlmsg_type = (uint16_t)type, .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags)}};
    struct { struct nlmsghdr header; struct nlmsgerr error; uint8_t rest[256]; } reply;
    memcpy(message.rest, body, size);
    for (int i = 0; i < 3 && attributes[i].size; i++, size += sizeof *attributes)
        memcpy(message.rest + size, &attributes[i], sizeof *attributes);
    message.header.nlmsg_len = NLMSG_LENGTH((uint32_t)size);
    MUST(send(netlink, &message, message.header.nlmsg_len, 0) == (ssize_t)message.header.nlmsg_len);
    MUST(recv(netlink, &reply, sizeof reply, 0) >= (ssize_t)NLMSG_LENGTH(sizeof reply.error));
    MUST(reply.header.nlmsg_type == NLMSG_ERROR && reply.error.error == 0);
}

void set_up_address(int netlink, const struct lease *lease, uint16_t port, uint32_t index)
{
    uint8_t prefix = (uint8_t)__builtin_popcount(lease->mask);
    uint32_t ports = (uint32_t)port << 16 | port;  /* struct fib_rule_port_range: start, end */
    struct ifaddrmsg address = {.ifa_family = AF_INET, .ifa_prefixlen = prefix, .ifa_index = index};
    struct rtmsg link = {.rtm_family = AF_INET, .rtm_dst_len = prefix, .rtm_table = TABLE, .rtm_scope = RT_SCOPE_LINK,
                         .rtm_protocol = RTPROT_BOOT, .rtm_type = RTN_UNICAST}, away = link;
    struct fib_rule_hdr all = {.family = AF_INET, .action = FR_ACT_TO_TBL}, served = all;
    away.rtm_dst_len = 0;
    away.rtm_scope = RT_SCOPE_UNIVERSE;
    away.rtm_flags = RTNH_F_ONLINK;  /* clouds hand out /32 addresses with a router outside of them */
    served.table = TABLE;

    all.table = RT_TABLE_MAIN;
    request(netlink, RTM_DELRULE, 0, &all, sizeof all, (struct attribute[3]){{8, FRA_PRIORITY, MAIN_PRIORITY}});
    all.table = RT_TABLE_DEFAULT;
    request(netlink, RTM_DELRULE, 0, &all, sizeof all, (struct attribute[3]){{8, FRA_PRIORITY, DEFAULT_PRIORITY}});
    request(netlink, RTM_NEWADDR, NEW, &address, sizeof address, (struct attribute[3]){
        {8, IFA_LOCAL, lease->address}, {8, IFA_FLAGS, IFA_F_NOPREFIXROUTE | IFA_F_PERMANENT}});
    request(netlink, RTM_NEWROUTE, NEW, &link, sizeof link, (struct attribute[3]){
        {8, RTA_DST, lease->address & lease->mask}, {8, RTA_OIF, index}});
    if (lease->router)
        request(netlink, RTM_NEWROUTE, NEW, &away, sizeof away, (struct attribute[3]){
            {8, RTA_GATEWAY, lease->router}, {8, RTA_OIF, index}});
    request(netlink, RTM_NEWRULE, NEW, &served, sizeof served, (struct attribute[3]){
        {8, FRA_PRIORITY, RULE_PRIORITY}, {8, FRA_SPORT_RANGE, ports}, {5, FRA_IP_PROTO, IPPROTO_TCP}});
}

void set_up_network(struct config *config)
{
    int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    unsigned index = if_nametoindex("eth0");
    struct ifinfomsg link = {.ifi_index = (int)index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    MUST(netlink >= 0 && index > 0);
    request(netlink, RTM_NEWLINK, 0, &link, sizeof link, (struct attribute[3]){{0}});
    if (config->dhcp)
        dhcp_ask(&config->lease);
    set_up_address(netlink, &config->lease, (uint16_t)config->port, index);
    close(netlink);
}

int open_listener(uint16_t port)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(listener >= 0 && !bind(listener, (struct sockaddr *)&any, sizeof any) && !listen(listener, 128));
    return listener;
}
