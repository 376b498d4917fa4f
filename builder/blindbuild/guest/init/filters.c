/* The system call filters: files of the image, installed byte for byte as they are there. Source: seccomp(2). */
#include "init.h"

enum { CAPACITY = 1024 };  /* instructions, one more than a program may have: read_file wants room to spare */
static const char *const NAMES[FILTERS] = {
    [SOCKET_RULE] = "socket-rule", [CHILD_FILTER] = "child", [INIT_FILTER] = "init", [DHCP_FILTER] = "dhcp",
    [LAUNCHER_FILTER] = "launcher", [WORKLOAD_FILTER] = "workload",
};
static struct { struct sock_filter code[CAPACITY]; size_t size; } filters[FILTERS];

void load_filters(const char *directory)
{
    char path[256];
    for (int i = 0; i < FILTERS; i++) {
        MUST((size_t)snprintf(path, sizeof path, "%s/%s", directory, NAMES[i]) < sizeof path);
        MUST(read_file(path, (char *)filters[i].code, sizeof filters[i].code, &filters[i].size)
             && filters[i].size && filters[i].size % sizeof(struct sock_filter) == 0);
    }
}

void install_filter(enum filter filter)
{
    /* The kernel checks the rest: a program that could run past its end is refused. */
    struct sock_fprog program = {.filter = filters[filter].code};
    program.len = (unsigned short)(filters[filter].size / sizeof(struct sock_filter));
    MUST(!syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}
