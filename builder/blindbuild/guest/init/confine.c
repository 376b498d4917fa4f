/* Capabilities, identity, limits and Landlock. Source: capabilities(7), linux/landlock.h. */
#include "init.h"

void empty_bounding_set(void)
{
    for (unsigned long capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++)
        MUST(!prctl(PR_CAPBSET_DROP, capability));
}

void keep_capabilities(uint32_t low_mask)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[2] = {{.effective = low_mask, .permitted = low_mask}};
    MUST(!syscall(__NR_capset, &header, sets));
}

void become(uid_t id)
{
    /* Not the library's functions: they would signal every thread, and there is only one. */
    MUST(!syscall(__NR_setgroups, 0, NULL) && !syscall(__NR_setresgid, id, id, id)
         && !syscall(__NR_setresuid, id, id, id));
}

void limit(int resource, uint64_t value)
{
    MUST(!setrlimit(resource, &(struct rlimit){.rlim_cur = value, .rlim_max = value}));
}

void confine_files(const char *root)
{
    /* Every right this kernel knows, by Landlock ABI: files since 1, TCP since 4, scopes since 6. */
    static const uint16_t files[] = {0, 0x1fff, 0x3fff, 0x7fff, 0x7fff, 0xffff};
    struct landlock_path_beneath_attr below = {
        .allowed_access = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR,
        .parent_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC),
    };
    long abi = syscall(__NR_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    MUST(abi >= 1 && below.parent_fd >= 0);
    uint64_t handled[3] = {files[abi > 5 ? 5 : abi], abi >= 4 ? 3 : 0, abi >= 6 ? 3 : 0};
    int rules = (int)syscall(__NR_landlock_create_ruleset, handled, abi >= 6 ? 24 : abi >= 4 ? 16 : 8, 0);
    MUST(rules >= 0 && !syscall(__NR_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &below, 0));
    MUST(!syscall(__NR_landlock_restrict_self, rules, 0) && !close(rules) && !close(below.parent_fd));
}
