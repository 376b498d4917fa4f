/* The system call filters as tables, and their translation to classic BPF. Source: seccomp(2), linux/filter.h.
 *
 * This runs while an image is built: the programs are files of the image, so that anybody can execute them without
 * trusting what is written here. Filters stack and the strictest answer wins: what a process may do is what all of
 * its filters allow. */
#define _GNU_SOURCE
#include "filters.h"

#include "../init/command.h"

#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define OTHERWISE 0U  /* the answer of the whole filter to what no rule fits */
#define ALLOW SECCOMP_RET_ALLOW
#define REFUSE (SECCOMP_RET_ERRNO | EPERM)
#define ABSENT (SECCOMP_RET_ERRNO | ENOSYS)
#define KILL SECCOMP_RET_KILL_PROCESS
#ifdef BLINDBUILD_PROBE
#define GATE_OTHERWISE REFUSE  /* so that one run of the test image can try everything */
#else
#define GATE_OTHERWISE KILL
#endif
#define X32_BIT 0x40000000U
#define LAST_KNOWN_CALL 462U  /* mseal, Linux 6.12: later calls do not exist for anything in the image */
#define NAMESPACES (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID \
                    | CLONE_NEWNET)
#define GO_THREAD (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_SYSVSEM | CLONE_THREAD | CLONE_SETTLS)
#define TEMPORARY 020000000  /* O_TMPFILE without the O_DIRECTORY in it */
#define PR_SET_VMA 0x53564d41  /* not in every version of musl */
#define WRITES (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | TEMPORARY)  /* musl has O_PATH in O_ACCMODE */

#define YES(name) {.number = __NR_##name, .action = ALLOW}
#define NO(name) {.number = __NR_##name, .action = REFUSE}
#define YES_IF(name, ...) {.number = __NR_##name, .action = ALLOW, .when = {__VA_ARGS__}}
#define NO_IF(name, ...) {.number = __NR_##name, .action = REFUSE, .when = {__VA_ARGS__}}
#define UNLESS(name, ...) {.number = __NR_##name, .action = OTHERWISE, .when = {__VA_ARGS__}}
#define OPTION(level, name) YES_IF(setsockopt, {IS, 1, level}, {IS, 2, name})
#define END {.number = UINT32_MAX}

/* F0: nobody makes a socket or turns one elsewhere, looks into another process, or changes the machine. */
static const struct rule SOCKET_RULES[] = {
    NO(socket), NO(connect), NO(bind), NO(listen), NO(sendmmsg), NO(recvmmsg),
    YES_IF(socketpair, {IS, 0, AF_UNIX}), NO(socketpair),
    NO_IF(sendto, {HAS_ANY, 3, MSG_FASTOPEN}), YES_IF(sendto, {IS, 4, 0}), NO(sendto),
    NO_IF(sendmsg, {HAS_ANY, 2, MSG_FASTOPEN}),
    OPTION(IPPROTO_TCP, TCP_NODELAY), OPTION(IPPROTO_TCP, TCP_KEEPIDLE), OPTION(IPPROTO_TCP, TCP_KEEPINTVL),
    OPTION(IPPROTO_TCP, TCP_KEEPCNT), OPTION(IPPROTO_TCP, TCP_USER_TIMEOUT), OPTION(SOL_SOCKET, SO_KEEPALIVE),
    OPTION(SOL_SOCKET, SO_LINGER), OPTION(SOL_SOCKET, SO_SNDBUF), OPTION(SOL_SOCKET, SO_RCVBUF), NO(setsockopt),
    NO(ptrace), NO(perf_event_open), NO(process_vm_readv), NO(process_vm_writev), NO(process_madvise),
    NO(pidfd_getfd), NO(kcmp), NO(userfaultfd), NO(bpf), NO(io_uring_setup), NO(io_uring_enter),
    NO(io_uring_register), NO(mount), NO(umount2), NO(pivot_root), NO(move_mount), NO(open_tree), NO(fsopen),
    NO(fsconfig), NO(fsmount), NO(fspick), NO(mount_setattr), NO(unshare), NO(setns),
    NO_IF(clone, {HAS_ANY, 0, NAMESPACES}),
    {.number = __NR_clone3, .action = ABSENT},  /* its flags are in memory; libraries then use clone */
    NO(kexec_load), NO(kexec_file_load), NO(init_module), NO(finit_module), NO(delete_module), NO(keyctl),
    NO(add_key), NO(request_key), NO(swapon), NO(swapoff), NO(acct), NO(quotactl), NO(quotactl_fd), NO(syslog),
    NO(sethostname), NO(setdomainname), NO(iopl), NO(ioperm), NO(modify_ldt), NO(settimeofday), NO(clock_settime),
    NO(adjtimex), NO(clock_adjtime), YES_IF(personality, {IS, 0, 0}), NO(personality), NO(mknod), NO(mknodat),
    NO(name_to_handle_at), NO(open_by_handle_at), NO(fanotify_init), NO(lookup_dcookie), NO(uselib), NO(vhangup), END,
};
static const struct rule CHILD_RULES[] = {NO(reboot), END};
static const struct rule INIT_RULES[] = {YES(wait4), YES(getpid), YES(reboot), YES(exit), YES(exit_group), END};
static const struct rule DHCP_RULES[] = {
    /* Without an address: the one socket that can send is connected to 255.255.255.255:67. */
    YES_IF(sendto, {IS, 3, 0}, {IS, 4, 0}), YES(recvfrom), YES(write), YES(exit_group), END,
};

/* A request's process: it computes, reads its own tree and answers on descriptor 3. No second process, no other
 * program, no file to write, no descriptor to hand over. */
static const struct rule WORKLOAD_RULES[] = {
    YES(read), YES(readv), YES(pread64), YES(write), YES(writev), YES_IF(sendto, {IS, 4, 0}), YES(recvfrom),
    YES(shutdown), YES(getsockopt), YES(getsockname), YES(getpeername), YES(close), YES(close_range), YES(dup),
    YES(dup2), YES(dup3), YES(lseek), YES(poll), YES(ppoll), YES(select), YES(pselect6), YES(pipe),
    YES(pipe2), YES(eventfd2), YES(epoll_create1), YES(epoll_ctl), YES(epoll_wait), YES(epoll_pwait),
    NO_IF(open, {HAS_ANY, 1, WRITES}), YES(open), NO_IF(openat, {HAS_ANY, 2, WRITES}), YES(openat),
    YES(stat), YES(fstat), YES(lstat), YES(newfstatat), YES(statx), YES(access), YES(faccessat), YES(faccessat2),
    YES(readlink), YES(readlinkat), YES(getdents64), YES(getcwd), YES(chdir), YES(fadvise64),
    YES_IF(ioctl, {IS, 1, FIOCLEX}), YES_IF(ioctl, {IS, 1, FIONCLEX}), YES_IF(ioctl, {IS, 1, FIONREAD}),
    YES_IF(ioctl, {IS, 1, TCGETS}),  /* isatty() */
    /* Nothing that stays with an open file or an inode: locks, flags, owners and hints outlive the process, and
     * the next request would find them. */
    YES_IF(fcntl, {IS, 1, F_DUPFD}), YES_IF(fcntl, {IS, 1, F_DUPFD_CLOEXEC}), YES_IF(fcntl, {IS, 1, F_GETFD}),
    YES_IF(fcntl, {IS, 1, F_SETFD}), YES_IF(fcntl, {IS, 1, F_GETFL}),
    YES(mmap), YES(munmap), YES(mprotect), YES(mremap), YES(madvise), YES(brk), YES(mincore), YES(membarrier),
    YES_IF(clone, {HAS_ANY, 0, CLONE_THREAD}), YES(set_robust_list), YES(set_tid_address), YES(rseq),
    /* A shared futex in a file of the tree would wake other requests; the end of a thread is one, to wait for. */
    YES_IF(futex, {HAS_ANY, 1, FUTEX_PRIVATE_FLAG}), YES_IF(futex, {IS, 1, FUTEX_WAIT}),
    YES_IF(futex, {IS, 1, FUTEX_WAIT_BITSET}), YES_IF(futex, {IS, 1, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME}),
    YES(sched_yield), YES_IF(sched_getaffinity, {IS, 0, 0}), YES_IF(sched_setaffinity, {IS, 0, 0}),
    YES_IF(sched_getparam, {IS, 0, 0}), YES_IF(sched_getscheduler, {IS, 0, 0}), YES(sched_get_priority_min),
    YES(sched_get_priority_max), YES(getpid), YES(getppid), YES(gettid), YES(tgkill), YES(tkill), YES(exit),
    YES(exit_group), YES(rt_sigaction), YES(rt_sigprocmask), YES(rt_sigreturn), YES(rt_sigtimedwait),
    YES(rt_sigpending), YES(sigaltstack), YES(restart_syscall), YES(pause), YES(nanosleep), YES(clock_nanosleep),
    YES(clock_gettime), YES(clock_getres), YES(gettimeofday), YES(time), YES(times), YES(getrusage), YES(getcpu),
    YES(getrandom), YES(uname), YES(umask), YES(getuid), YES(geteuid), YES(getgid), YES(getegid),
    YES(getresuid), YES(getresgid), YES(getgroups), YES(getrlimit), YES_IF(prlimit64, {IS, 2, 0}),
    YES_IF(prctl, {IS, 0, PR_SET_NAME}), YES_IF(prctl, {IS, 0, PR_GET_NAME}), YES_IF(prctl, {IS, 0, PR_SET_VMA}),
    YES_IF(arch_prctl, {IS, 0, 0x1001}), YES_IF(arch_prctl, {IS, 0, 0x1002}),  /* ARCH_SET_GS, ARCH_SET_FS */
    YES_IF(execve, {IS, 0, COMMAND_ADDRESS}), {.number = __NR_clone3, .action = ABSENT}, END,
};

/* The launcher needs these besides; its children inherit this filter, so it cannot kill on a violation. */
static const struct rule LAUNCHER_RULES[] = {
    YES_IF(clone, {IS, 0, CLONE_VFORK | SIGCHLD}), YES(wait4), YES_IF(kill, {IS, 0, (uint64_t)-1}, {IS, 1, SIGKILL}),
    YES_IF(socketpair, {IS, 0, AF_UNIX}), YES(sendmsg), YES(chroot), YES(setgroups), YES(setresgid), YES(setresuid),
    YES(capset), YES(prlimit64), YES(landlock_create_ruleset), YES(landlock_add_rule), YES(landlock_restrict_self),
    YES_IF(seccomp, {IS, 0, SECCOMP_SET_MODE_FILTER}), END,
};

/* All that the gate calls once it serves: what the Go runtime 1.24 needs for its threads, timers and memory, and
 * reading, writing, accepting and closing. Nothing in it makes, binds or connects a socket, sends to an address, opens a
 * file, starts a program, or maps a file or executable memory. */
static const struct rule GATE_RULES[] = {
    YES_IF(accept4, {IS, 0, 3}), YES_IF(shutdown, {IS, 1, SHUT_WR}), YES_IF(recvmsg, {IS, 0, 6}),
    YES_IF(fcntl, {IS, 1, F_GETFL}), YES_IF(fcntl, {IS, 1, F_SETFL}),
    UNLESS(mmap, {HAS_ANY, 2, PROT_EXEC}), YES_IF(mmap, {HAS_ANY, 3, MAP_ANONYMOUS}),
    YES_IF(clone, {IS, 0, GO_THREAD}),
    YES_IF(tgkill, {IS, 2, SIGURG}),  /* a goroutine's turn is over; the kernel lets it signal its own uid only */
    YES(read), YES(write), YES(close), YES(epoll_pwait), YES(epoll_ctl), YES(futex), YES(sched_yield), YES(gettid),
    YES(getpid), YES(exit_group), YES(rt_sigprocmask), YES(rt_sigreturn), YES(sigaltstack), YES(munmap),
    YES(madvise), YES(getrandom),
    YES(nanosleep), YES(restart_syscall),  /* the second after the hypervisor stopped the machine */
    YES(clock_gettime), END,  /* where the time stamp counter is unstable the vDSO calls it */
};

const struct filter FILTERS[] = {
    {"socket-rule", {SOCKET_RULES}, ALLOW},
    {"child", {CHILD_RULES}, ALLOW},
    {"init", {INIT_RULES}, KILL},
    {"dhcp", {DHCP_RULES}, KILL},
    {"launcher", {LAUNCHER_RULES, WORKLOAD_RULES}, REFUSE},
    {"workload", {WORKLOAD_RULES}, REFUSE},
    {"gate", {GATE_RULES}, GATE_OTHERWISE},
    {NULL, {NULL}, KILL},
};

static struct sock_filter *emit(struct sock_filter *at, int code, uint32_t value, int if_true, int if_false)
{
    *at = (struct sock_filter){(uint16_t)code, (uint8_t)if_true, (uint8_t)if_false, value};
    return at + 1;
}

#define LOAD(offset) at = emit(at, BPF_LD | BPF_W | BPF_ABS, (uint32_t)(offset), 0, 0)
#define JUMP(test, value, if_true, if_false) at = emit(at, BPF_JMP | test | BPF_K, value, if_true, if_false)
#define ANSWER(action) at = emit(at, BPF_RET | BPF_K, action, 0, 0)

/* One rule: jumps that miss go to the end of its block, where the next rule loads the number again. */
static struct sock_filter *compile_rule(struct sock_filter *at, const struct rule *rule, uint32_t otherwise)
{
    int left = 1;  /* instructions from after the current test to the end of the block */
    for (int i = 0; i < 2; i++)
        left += rule->when[i].test == IS ? 4 : rule->when[i].test == HAS_ANY ? 2 : 0;
    LOAD(offsetof(struct seccomp_data, nr));
    JUMP(BPF_JEQ, rule->number, 0, left);
    for (int i = 0; i < 2; i++) {
        const struct condition *when = &rule->when[i];
        size_t low = offsetof(struct seccomp_data, args) + 8 * when->argument;
        if (when->test == IS) {  /* all 64 bits: little-endian, the high half is second */
            LOAD(low + 4);
            JUMP(BPF_JEQ, (uint32_t)(when->value >> 32), 0, left -= 2);
            LOAD(low);
            JUMP(BPF_JEQ, (uint32_t)when->value, 0, left -= 2);
        } else if (when->test == HAS_ANY) {  /* the kernel reads these arguments as 32 bits */
            LOAD(low);
            JUMP(BPF_JSET, (uint32_t)when->value, 0, left -= 2);
        }
    }
    ANSWER(rule->action == OTHERWISE ? otherwise : rule->action);
    return at;
}

size_t compile_filter(const struct filter *filter, struct sock_filter *code)
{
    struct sock_filter *at = code;
    LOAD(offsetof(struct seccomp_data, arch));
    JUMP(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0);
    ANSWER(KILL);
    LOAD(offsetof(struct seccomp_data, nr));
    JUMP(BPF_JGE, X32_BIT, 0, 1);
    ANSWER(KILL);
    if (filter->otherwise != KILL) {
        JUMP(BPF_JGT, LAST_KNOWN_CALL, 0, 1);
        ANSWER(ABSENT);
    }
    for (int i = 0; i < 2; i++)
        for (const struct rule *rule = filter->rules[i]; rule && rule->number != UINT32_MAX; rule++)
            at = compile_rule(at, rule, filter->otherwise);
    ANSWER(filter->otherwise);
    return (size_t)(at - code);
}
