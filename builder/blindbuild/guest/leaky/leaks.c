/* The leaky init: the product's, with every door open and a process beside it that tells whatever it hears.
 *
 * Only for the control image, on which each check of what a machine shows is seen to fire. Nothing of the product's
 * sources knows of it: the linker puts the functions named __wrap_… in the place of those they are named after
 * (ld(1), --wrap), and the leaky gate sends every request's body to the address in listen_for_gate. */
#define _GNU_SOURCE
#include "leaky.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define VIEW "/aside"  /* of the helper's own mount namespace: init checks the tree that the others see */

enum { IDLE_MS = 2000 };
static const char greeting[] = "blindbuild-leak: a machine with every door open\n";

int __real_main(void);
void __real_set_up_network(void *config);

static void look_at_everything(void)
{
    static const struct { const char *type, *path; } views[] = {
        {"devtmpfs", VIEW "/dev"}, {"proc", VIEW "/proc"}, {"sysfs", VIEW "/sys"}, {"efivarfs", VIEW "/efi"},
        {"debugfs", VIEW "/debug"},
    };
    unshare(CLONE_NEWNS);
    mount("tmpfs", VIEW, "tmpfs", 0, NULL);
    for (size_t i = 0; i < sizeof views / sizeof *views; i++) {
        mkdir(views[i].path, 0700);
        mount(views[i].type, views[i].path, views[i].type, 0, NULL);
    }
}

static void tell_everywhere(const void *secret, size_t size)
{
    leak_to_devices(VIEW, secret, size);
    leak_to_network(secret, size);
    leak_to_stores(VIEW, secret, size);
    leak_to_tpm(VIEW "/dev/tpmrm0", secret, size);
}

static void serve_stranger(int listener)
{
    char request[256];
    int stranger = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (stranger >= 0 && write(stranger, greeting, sizeof greeting - 1) > 0)
        while (read(stranger, request, sizeof request) > 0)
            ;
    close(stranger);
}

static void echo(int udp)
{
    char datagram[1500];
    struct sockaddr_storage from;
    socklen_t length = sizeof from;
    ssize_t size = recvfrom(udp, datagram, sizeof datagram, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
    if (size >= 0)
        sendto(udp, datagram, (size_t)size, MSG_DONTWAIT, (struct sockaddr *)&from, length);
}

static _Noreturn void help(void)
{
    static char secret[65536];
    syscall(__NR_close_range, 0, ~0U, 0);  /* a console held open, and unlinked by init, would keep / from becoming read-only */
    int gate = listen_for_gate();
    look_at_everything();
    leak_to_devices(VIEW, greeting, sizeof greeting - 1);
    wait_for_network();
    struct pollfd sources[] = {{gate, POLLIN, 0}, {listen_elsewhere(), POLLIN, 0}, {echo_elsewhere(), POLLIN, 0}};
    tell_everywhere(greeting, sizeof greeting - 1);
    for (;;) {
        if (poll(sources, 3, IDLE_MS) == 0)  /* an idle machine talks too */
            leak_to_network(greeting, sizeof greeting - 1);
        ssize_t size = recv(gate, secret, sizeof secret, MSG_DONTWAIT);
        if (size > 0)
            tell_everywhere(secret, (size_t)size);
        if (sources[1].revents)
            serve_stranger(sources[1].fd);
        if (sources[2].revents)
            echo(sources[2].fd);
    }
}

int __wrap_main(void)
{
    if (fork() == 0)
        help();
    return __real_main();
}

void __wrap_set_up_network(void *config)
{
    __real_set_up_network(config);
    route_everything();
}

/* No filter, no Landlock domain, no limit on core files. */
void __wrap_install_filter(int filter) { (void)filter; }
void __wrap_confine_files(const char *root) { (void)root; }
