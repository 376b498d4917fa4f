/* Each attempt is one system call with constant arguments; the outcome is the errno, or "done" if it worked. */
#define _GNU_SOURCE
#include "attempts.h"

#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define P(object) ((long)(uintptr_t)(object))
#define TRY(label, call, ...) {label, __NR_##call, {__VA_ARGS__}}

static const struct sockaddr unspecified = {.sa_family = AF_UNSPEC};
static const struct sockaddr_in elsewhere = {AF_INET, __builtin_bswap16(443), {__builtin_bswap32(0x01010101)}, {0}};
static struct iovec vector = {"x", 1};
static struct msghdr to_elsewhere = {
    .msg_name = (void *)&elsewhere, .msg_namelen = sizeof elsewhere, .msg_iov = &vector, .msg_iovlen = 1};
static struct mmsghdr many = {.msg_hdr = {.msg_iov = &vector, .msg_iovlen = 1}};
static struct sockaddr_in room;
static socklen_t room_size = sizeof room;
static const int one = 1;
static const struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
static char *const no_arguments[] = {"x", NULL};
static struct __user_cap_header_struct capability_header = {.version = _LINUX_CAPABILITY_VERSION_3};
static struct __user_cap_data_struct all_capabilities[2] = {{~0U, ~0U, ~0U}, {~0U, ~0U, ~0U}};
static uint64_t clone_arguments[8] = {[4] = SIGCHLD};
static struct flock whole_lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
static uint64_t lifetime_hint = 1;
static int pair[2];
static char space[4096], program[256];

/* Descriptor 3 is a workload's request socket; in the launcher it is one like its socket to the gate. */
static const struct {
    const char *name;
    long number, arguments[6];
} ATTEMPTS[] = {
    TRY("connect:unspec", connect, 3, P(&unspecified), sizeof unspecified),
    TRY("connect:inet", connect, 3, P(&elsewhere), sizeof elsewhere),
    TRY("bind", bind, 3, P(&elsewhere), sizeof elsewhere),
    TRY("listen", listen, 3, 1),
    TRY("accept4", accept4, 3, P(&room), P(&room_size), 0),
    TRY("sendto:address", sendto, 3, P("x"), 1, 0, P(&elsewhere), sizeof elsewhere),
    TRY("sendto:fastopen", sendto, 3, P("x"), 1, MSG_FASTOPEN, P(&elsewhere), sizeof elsewhere),
    TRY("sendto:fastopen-null", sendto, 3, P("x"), 1, MSG_FASTOPEN, 0, 0),
    TRY("sendmsg:fastopen", sendmsg, 3, P(&to_elsewhere), MSG_FASTOPEN),
    TRY("sendmsg:address", sendmsg, 3, P(&to_elsewhere), 0),
    TRY("sendmmsg", sendmmsg, 3, P(&many), 1, 0),
    TRY("socketpair:inet", socketpair, AF_INET, SOCK_STREAM, 0, P(pair)),
    TRY("setsockopt:SO_BINDTODEVICE", setsockopt, 3, SOL_SOCKET, SO_BINDTODEVICE, P("eth0"), 5),
    TRY("setsockopt:SO_MARK", setsockopt, 3, SOL_SOCKET, SO_MARK, P(&one), 4),
    TRY("setsockopt:TCP_REPAIR", setsockopt, 3, IPPROTO_TCP, TCP_REPAIR, P(&one), 4),
    TRY("setsockopt:IP_MULTICAST_IF", setsockopt, 3, IPPROTO_IP, IP_MULTICAST_IF, P(&one), 4),
    TRY("io_uring_setup", io_uring_setup, 8, P(space)),
    TRY("ptrace:attach", ptrace, PTRACE_ATTACH, 1, 0, 0),
    TRY("ptrace:traceme", ptrace, PTRACE_TRACEME, 0, 0, 0),
    TRY("process_vm_readv", process_vm_readv, 1, P(&vector), 1, P(&vector), 1, 0),
    TRY("process_vm_writev", process_vm_writev, 1, P(&vector), 1, P(&vector), 1, 0),
    TRY("pidfd_open", pidfd_open, 1, 0),
    TRY("pidfd_getfd", pidfd_getfd, 0, 0, 0),
    TRY("kill:init", kill, 1, SIGKILL),
    TRY("kill:signal-0", kill, 1, 0),
    TRY("tgkill:init", tgkill, 1, 1, SIGKILL),
    TRY("perf_event_open", perf_event_open, P(space), 0, -1, -1, 0),
    TRY("bpf", bpf, 0, P(space), 64),
    TRY("userfaultfd", userfaultfd, 0),
    TRY("mount:proc", mount, P("proc"), P("/"), P("proc"), 0, 0),
    TRY("mount:devtmpfs", mount, P("devtmpfs"), P("/"), P("devtmpfs"), 0, 0),
    TRY("mount:remount-writable", mount, 0, P("/"), 0, MS_REMOUNT, 0),
    TRY("fsopen", fsopen, P("proc"), 0),
    TRY("open_tree", open_tree, AT_FDCWD, P("/"), 1),
    TRY("umount2", umount2, P("/"), MNT_DETACH),
    TRY("pivot_root", pivot_root, P("."), P(".")),
    TRY("unshare:net", unshare, CLONE_NEWNET),
    TRY("unshare:user", unshare, CLONE_NEWUSER),
    TRY("setns", setns, 0, 0),
    TRY("chroot", chroot, P(".")),
    TRY("clone:user-namespace", clone, CLONE_NEWUSER | SIGCHLD),
    TRY("clone:process", clone, SIGCHLD),
    TRY("clone3", clone3, P(clone_arguments), sizeof clone_arguments),
    TRY("fork", fork, 0),
    TRY("vfork", vfork, 0),
    TRY("mmap:page-0", mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
    TRY("execve:self", execve, P(program), P(no_arguments), P(no_arguments + 1)),
    TRY("execve:page-0", execve, 64, P(no_arguments), P(no_arguments + 1)),
    TRY("execveat", execveat, AT_FDCWD, P(program), P(no_arguments), P(no_arguments + 1), 0),
    TRY("open:/dev/null", open, P("/dev/null"), O_RDONLY),
    TRY("open:/dev/mem", open, P("/dev/mem"), O_RDONLY),
    TRY("open:/dev/kmsg", open, P("/dev/kmsg"), O_RDONLY),
    TRY("open:/dev/console", open, P("/dev/console"), O_RDONLY),
    TRY("open:/dev/tpmrm0", open, P("/dev/tpmrm0"), O_RDONLY),
    TRY("open:/aside/tpmrm0", open, P("/aside/tpmrm0"), O_RDONLY),
    TRY("open:/proc/self/mem", open, P("/proc/self/mem"), O_RDONLY),
    TRY("open:/proc/1/root", open, P("/proc/1/root"), O_RDONLY),
    TRY("open:/sys/kernel", open, P("/sys/kernel"), O_RDONLY),
    TRY("open:/etc/blindbuild/init.conf", open, P("/etc/blindbuild/init.conf"), O_RDONLY),
    TRY("open:/gate/gate.json", open, P("/gate/gate.json"), O_RDONLY),
    TRY("open:outside", open, P("/../../gate/gate.json"), O_RDONLY),
    TRY("open:create", open, P("/new"), O_WRONLY | O_CREAT, 0600),
    TRY("open:temporary", open, P("/"), O_WRONLY | O_TMPFILE, 0600),
    TRY("openat:write", openat, AT_FDCWD, P(program), O_RDWR, 0),
    TRY("creat", creat, P("/new"), 0600),
    TRY("openat2", openat2, AT_FDCWD, P("/new"), P(space), 24),
    TRY("mkdir", mkdir, P("/new"), 0700),
    TRY("unlink", unlink, P(program)),
    TRY("rename", rename, P(program), P("/new")),
    TRY("symlink", symlink, P(program), P("/new")),
    TRY("link", link, P(program), P("/new")),
    TRY("mknod", mknod, P("/new"), 020600, 0x101),
    TRY("chmod", chmod, P(program), 0777),
    TRY("truncate", truncate, P(program), 0),
    TRY("memfd_create", memfd_create, P("x"), 0),
    TRY("memfd_secret", memfd_secret, 0),
    TRY("setuid:root", setuid, 0),
    TRY("setuid:gate", setresuid, 100, 100, 100),
    TRY("setgid", setgid, 0),
    TRY("setgroups", setgroups, 0, 0),
    TRY("capset", capset, P(&capability_header), P(all_capabilities)),
    TRY("prlimit64:raise", prlimit64, 0, RLIMIT_NOFILE, P(&unlimited), 0),
    TRY("prlimit64:init", prlimit64, 1, RLIMIT_CORE, P(&unlimited), 0),
    TRY("setrlimit:raise", setrlimit, RLIMIT_FSIZE, P(&unlimited)),
    TRY("prctl:set-mm", prctl, PR_SET_MM, PR_SET_MM_START_STACK, 0, 0, 0),
    TRY("prctl:ptracer", prctl, 0x59616d61, -1, 0, 0, 0),
    TRY("kexec_load", kexec_load, 0, 0, 0, 0),
    TRY("kexec_file_load", kexec_file_load, 3, 3, 0, 0, 0),
    TRY("init_module", init_module, P(space), 16, P("")),
    TRY("finit_module", finit_module, 3, P(""), 0),
    TRY("syslog", syslog, 3, P(space), sizeof space),
    TRY("reboot", reboot, 0xfee1dead, 672274793, 0x4321fedc, 0),
    TRY("swapon", swapon, P(program), 0),
    TRY("acct", acct, P(program)),
    TRY("iopl", iopl, 3),
    TRY("ioperm", ioperm, 0x3f8, 8, 1),
    TRY("modify_ldt", modify_ldt, 0, P(space), 16),
    TRY("personality", personality, 0x0040000),
    TRY("keyctl", keyctl, 0, -3, 0, 0, 0),
    TRY("add_key", add_key, P("user"), P("x"), P("x"), 1, -3),
    TRY("settimeofday", settimeofday, P(space), 0),
    TRY("clock_settime", clock_settime, 0, P(space)),
    TRY("adjtimex", adjtimex, P(space)),
    TRY("sethostname", sethostname, P("x"), 1),
    TRY("name_to_handle_at", name_to_handle_at, AT_FDCWD, P("/"), P(space), P(space + 512), 0),
    TRY("open_by_handle_at", open_by_handle_at, AT_FDCWD, P(space), 0),
    TRY("fanotify_init", fanotify_init, 0, 0),
    TRY("inotify_init1", inotify_init1, 0),
    TRY("shmget", shmget, 1, 4096, 01600),
    TRY("mq_open", mq_open, P("x"), O_RDWR | O_CREAT, 0600, 0),
    TRY("process_madvise", process_madvise, 0, P(&vector), 1, 4, 0),
    TRY("kcmp", kcmp, 1, 1, 0, 0, 0),
    TRY("fcntl:lock-description", fcntl, 0, F_OFD_SETLK, P(&whole_lock)),
    TRY("fcntl:lock", fcntl, 0, F_SETLK, P(&whole_lock)),
    TRY("fcntl:read-lock", fcntl, 0, F_GETLK, P(&whole_lock)),
    TRY("fcntl:flags", fcntl, 0, F_SETFL, O_NONBLOCK),
    TRY("fcntl:signal", fcntl, 0, F_SETSIG, SIGUSR1),
    TRY("fcntl:owner", fcntl, 0, F_SETOWN, 1),
    TRY("fcntl:hint", fcntl, 0, F_SET_RW_HINT, P(&lifetime_hint)),
    TRY("futex:shared-wake", futex, P(space), FUTEX_WAKE, 1),
    TRY("sched_getaffinity:other", sched_getaffinity, 1, 8, P(space)),
    TRY("sysinfo", sysinfo, P(space)),
    {"later-call", 600, {0}},
};

static const char *outcome(long result)
{
    static const struct { int number; const char *name; } names[] = {
        {EPERM, "EPERM"}, {ENOENT, "ENOENT"}, {EACCES, "EACCES"}, {ENOSYS, "ENOSYS"}, {EINVAL, "EINVAL"},
        {EROFS, "EROFS"}, {EFAULT, "EFAULT"}, {EBADF, "EBADF"}, {ENOTSOCK, "ENOTSOCK"}, {EISCONN, "EISCONN"},
        {EAGAIN, "EAGAIN"}, {ESRCH, "ESRCH"}, {ENOTDIR, "ENOTDIR"}, {EOPNOTSUPP, "EOPNOTSUPP"}, {EAFNOSUPPORT, "EAFNOSUPPORT"},
    };
    static char other[16];
    if (result >= 0)
        return "done";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].number == errno)
            return names[i].name;
    snprintf(other, sizeof other, "errno %d", errno);
    return other;
}

static long call(long number, const long a[6])
{
    long result = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    int keep = errno;
    bool forked = number == __NR_fork || number == __NR_vfork || number == __NR_clone || number == __NR_clone3;
    if (forked && result == 0)
        _exit(0);
    errno = keep;
    return result;
}

#ifdef BLINDBUILD_LEAKY
/* Where nothing is refused, a call may end or replace its process: each is made in a child, and what did not come back
 * has worked. */
static long attempt(long number, const long a[6])
{
    int *failed = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = failed == MAP_FAILED ? -1 : fork();
    if (child == 0) {
        *failed = 0;
        *failed = call(number, a) < 0 ? errno : 0;
        _exit(0);
    }
    int number_of_error = child < 0 ? EAGAIN : 0;
    if (child > 0) {
        waitpid(child, NULL, 0);
        number_of_error = *failed;
    }
    munmap(failed, 4096);
    errno = number_of_error;
    return number_of_error ? -1 : 0;
}
#else
#define attempt call
#endif

const char *attempt_outcome(long number, const long arguments[6])
{
    return outcome(attempt(number, arguments));
}

size_t report_attempts(const char *context, const char *own_program, char report[REPORT_CAPACITY])
{
    static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET};
    snprintf(program, sizeof program, "%s", own_program);
    char *at = report + sprintf(report, "{\"context\":\"%s\",\"uid\":%d,\"attempts\":{", context, (int)getuid());
    for (int family = 0; family < 48; family++)
        for (int i = 0; i < 4; i++)
            at += sprintf(at, "\"socket:%d:%d\":\"%s\",", family, types[i],
                          attempt_outcome(__NR_socket, (const long[6]){family, types[i], 0}));
    for (size_t i = 0; i < sizeof ATTEMPTS / sizeof *ATTEMPTS; i++)
        at += sprintf(at, "%s\"%s\":\"%s\"", i ? "," : "", ATTEMPTS[i].name,
                      attempt_outcome(ATTEMPTS[i].number, ATTEMPTS[i].arguments));
    at += sprintf(at, "}}");
    return (size_t)(at - report);
}

void send_report(int descriptor, const char *report, size_t size)
{
    uint32_t length = htonl((uint32_t)size);
    if (write(descriptor, &length, 4) == 4 && write(descriptor, report, size) == (ssize_t)size)
        shutdown(descriptor, SHUT_WR);
}

int first_report(const char *context)
{
    static bool reported;
    static char report[REPORT_CAPACITY];
    int ends[2], spare[2];
    if (reported || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)
        || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, spare))
        return -1;
    reported = true;
    /* In a child, which has the same rights: an attempt that worked must not change the caller, nor reach the gate
     * by the caller's descriptor 3. */
    if (syscall(__NR_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) == 0) {
        dup2(spare[0], 3);
        send_report(ends[1], report, report_attempts(context, "/init", report));
        _exit(0);
    }
    close(spare[0]);
    close(spare[1]);
    return ends[0];  /* the other end stays open, so that the gate can write a request */
}
