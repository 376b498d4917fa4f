/* The launcher: one process per request, each with a fresh socketpair, killed at its deadline.
 *
 * The workload's filter allows execve only for a path in page 0. That page is mapped here while the launcher may
 * still do so; after the one execve the new program has no such page and no right to map it, so it can start
 * nothing else. */
#include "init.h"

#ifdef BLINDBUILD_PROBE
#include "attempts.h"
#endif

enum { LAUNCHER = 200, FIRST_SLOT = 300, THREADS = 64, DESCRIPTORS = 256 };
static struct { pid_t process; int64_t deadline_ms; } slots[SLOTS];  /* process 0: the slot is free */
static sigset_t none;

static int64_t now_ms(void)
{
    struct timespec now;
    MUST(!clock_gettime(CLOCK_MONOTONIC, &now));
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void place_command(const char *path)
{
    uint64_t page = COMMAND_ADDRESS & ~4095UL;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    MUST(strlen(path) < 2048 && mmap((void *)page, 4096, PROT_READ | PROT_WRITE, flags, -1, 0) == (void *)page);
    char *command = (char *)COMMAND_ADDRESS;
    __asm__("" : "+r"(command));  /* the compiler must not reason about the address */
    strcpy(command, path);
    MUST(!mprotect((void *)page, 4096, PROT_READ));
}

static _Noreturn void start_workload(const struct config *config, const char *root, unsigned slot, int end)
{
    static char *const environment[] = {"PATH=/", "LC_ALL=C.UTF-8", NULL};
    MUST(dup2(end, 3) == 3 && !syscall(__NR_close_range, 4, ~0U, 0) && !chroot(root) && !chdir("/"));
    limit(RLIMIT_AS, config->memory);
    limit(RLIMIT_NPROC, THREADS);
    limit(RLIMIT_NOFILE, DESCRIPTORS);
    limit(RLIMIT_FSIZE, 0);
    become(FIRST_SLOT + slot);
    keep_capabilities(0);
    confine_files("/");
    MUST(!sigprocmask(SIG_SETMASK, &none, NULL));
    install_filter(WORKLOAD_FILTER);
    syscall(__NR_execve, COMMAND_ADDRESS, config->arguments, environment);
    _exit(127);
}

/* Start a process in `slot`; the gate's end of its socketpair, or -1. */
static int start(const struct config *config, const char *root, unsigned slot)
{
    int ends[2] = {-1, -1};
    if (slot >= config->concurrency || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return -1;
    /* CLONE_VFORK: go on when the child has taken the slot's uid, never while it still has ours. */
    pid_t child = (pid_t)syscall(__NR_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        start_workload(config, root, slot, ends[1]);
    close(ends[1]);
    if (child < 0 && !close(ends[0]))
        return -1;
    slots[slot].process = child;
    slots[slot].deadline_ms = now_ms() + (int64_t)config->seconds * 1000;
    return ends[0];
}

/* Answer the gate: `S` with a descriptor, or `B` when there is none. */
static void tell(int gate, int end)
{
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control = {.header = {
        .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec byte = {end >= 0 ? "S" : "B", 1};
    struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = end >= 0 ? sizeof control : 0};
    memcpy(CMSG_DATA(&control.header), &end, sizeof end);
    MUST(sendmsg(gate, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == 1);
    close(end);
}

/* Kill as the slot's user: it may signal its own processes, and nothing else runs under that uid. */
static void kill_slot(unsigned slot)
{
    MUST(!syscall(__NR_setresuid, -1, FIRST_SLOT + slot, -1));
    syscall(__NR_kill, -1L, (long)SIGKILL);
    MUST(!syscall(__NR_setresuid, -1, LAUNCHER, -1));
}

static void end_requests(void)
{
    pid_t ended;
    while ((ended = waitpid(-1, NULL, WNOHANG)) > 0)
        for (unsigned slot = 0; slot < SLOTS; slot++)
            if (slots[slot].process == ended) {
                kill_slot(slot);
                slots[slot].process = 0;
            }
    for (unsigned slot = 0; slot < SLOTS; slot++)
        if (slots[slot].process && now_ms() >= slots[slot].deadline_ms)
            kill_slot(slot);
}

static unsigned find_slot(const struct config *config)
{
    unsigned slot = 0;
    while (slot < config->concurrency && slots[slot].process)
        slot++;
    return slot;
}

static void answer_request(const struct config *config, const char *root, int gate)
{
    char request = 0;
    MUST(recv(gate, &request, 1, 0) == 1 && request == 'R');
#ifdef BLINDBUILD_PROBE
    int report = first_report("launcher");
    if (report >= 0)
        return tell(gate, report);
#endif
    if (find_slot(config) == config->concurrency) {
        /* A process that has just answered closes its socket a moment before it is gone. */
        ppoll(NULL, 0, &(struct timespec){.tv_nsec = 100000000}, &none);
        end_requests();
    }
    tell(gate, start(config, root, find_slot(config)));
}

static void wake(int signal) { (void)signal; }

_Noreturn void run_launcher(const struct config *config, const char *root, int gate)
{
    sigset_t child = none;
    struct sigaction on_child = {.sa_handler = wake};
    MUST(!sigaddset(&child, SIGCHLD) && !sigprocmask(SIG_BLOCK, &child, NULL) && !sigaction(SIGCHLD, &on_child, NULL));
    place_command(config->arguments[0]);
    MUST(!prctl(PR_SET_KEEPCAPS, 1));
    become(LAUNCHER);
    keep_capabilities(1U << CAP_SETUID | 1U << CAP_SETGID | 1U << CAP_SYS_CHROOT);
    MUST(!prctl(PR_SET_DUMPABLE, 0));
    confine_files(root);
    install_filter(LAUNCHER_FILTER);
    for (;;) {
        /* A second is short enough for deadlines in seconds; the end of a child interrupts. */
        struct pollfd requests = {.fd = gate, .events = POLLIN};
        int ready = ppoll(&requests, 1, &(struct timespec){.tv_sec = 1}, &none);
        MUST(ready >= 0 || errno == EINTR);
        end_requests();
        if (ready > 0)
            answer_request(config, root, gate);
    }
}
