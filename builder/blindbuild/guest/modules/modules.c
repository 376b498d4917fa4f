/* Load the modules of a kernel that was not built for this image. init has this only in an image with such a kernel: its
 * own function to set up the network is called from here, and its sources know nothing of modules.
 *
 * Names begin with two digits and sort in the order of loading. No filter is installed yet; afterwards none allows it. */
#define _GNU_SOURCE
#include <asm/unistd.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

struct config;
_Noreturn void power_off(void);
void __real_set_up_network(struct config *config);
void __wrap_set_up_network(struct config *config);

static int is_module(const struct dirent *entry)
{
    return entry->d_name[0] >= '0' && entry->d_name[0] <= '9';
}

void __wrap_set_up_network(struct config *config)
{
    struct dirent **entries;
    int count = scandir("/modules", &entries, is_module, alphasort);
    for (int i = 0; i < count; i++) {
        char path[sizeof "/modules/" + sizeof entries[i]->d_name];
        snprintf(path, sizeof path, "/modules/%s", entries[i]->d_name);
        int module = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (module < 0 || syscall(__NR_finit_module, module, "", 0))
            power_off();
        close(module);
    }
    if (count <= 0)
        power_off();
    __real_set_up_network(config);
}
