"""What each filter answers, call by call, with the reason; everything not named gets the default.

`ALLOW|EPERM` depends on the arguments, and tests/unit/test_guest_filters.py says on which.
"""

from __future__ import annotations

_MACHINE = "changes the machine"
_LOOK = "looks into another process"
_MOUNT = "changes the file system's shape"
_MODULE = "brings code into the kernel"
_KEYS = "kernel keyrings outlive a request"
_CLOCK = "sets the clock"
_HANDLE = "opens files without a path"
_CONNECTION = "makes a socket or turns one elsewhere"

SOCKETS = {
    **dict.fromkeys(("socket", "connect", "bind", "listen", "sendmmsg", "recvmmsg"), ("EPERM", _CONNECTION)),
    "socketpair": ("ALLOW|EPERM", "AF_UNIX only"),
    "sendto": ("ALLOW|EPERM", "without an address, and no fast open"),
    "sendmsg": ("ALLOW|EPERM", "no fast open"),
    "setsockopt": ("ALLOW|EPERM", "keep-alive, no-delay and buffer sizes"),
    **dict.fromkeys(
        ("ptrace", "perf_event_open", "process_vm_readv", "process_vm_writev", "process_madvise"),
        ("EPERM", _LOOK),
    ),
    **dict.fromkeys(("pidfd_getfd", "kcmp", "userfaultfd"), ("EPERM", _LOOK)),
    **dict.fromkeys(
        ("bpf", "io_uring_setup", "io_uring_enter", "io_uring_register"), ("EPERM", "a second door")
    ),
    **dict.fromkeys(
        (
            "mount",
            "umount2",
            "pivot_root",
            "move_mount",
            "open_tree",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
        ),
        ("EPERM", _MOUNT),
    ),
    **dict.fromkeys(("mount_setattr", "unshare", "setns"), ("EPERM", _MOUNT)),
    "clone": ("ALLOW|EPERM", "no namespace of its own"),
    "clone3": ("ENOSYS", "its flags are in memory, out of a filter's sight"),
    **dict.fromkeys(("kexec_load", "kexec_file_load"), ("EPERM", _MACHINE)),
    **dict.fromkeys(("init_module", "finit_module", "delete_module"), ("EPERM", _MODULE)),
    **dict.fromkeys(("keyctl", "add_key", "request_key"), ("EPERM", _KEYS)),
    **dict.fromkeys(("swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "syslog"), ("EPERM", _MACHINE)),
    **dict.fromkeys(("sethostname", "setdomainname", "iopl", "ioperm", "modify_ldt"), ("EPERM", _MACHINE)),
    **dict.fromkeys(("settimeofday", "clock_settime", "adjtimex", "clock_adjtime"), ("EPERM", _CLOCK)),
    "personality": ("ALLOW|EPERM", "only to the one it has"),
    **dict.fromkeys(("mknod", "mknodat"), ("EPERM", "makes a device")),
    **dict.fromkeys(("name_to_handle_at", "open_by_handle_at", "fanotify_init"), ("EPERM", _HANDLE)),
    **dict.fromkeys(("lookup_dcookie", "uselib", "vhangup"), ("EPERM", _MACHINE)),
}

CHILD = {"reboot": ("EPERM", "only PID 1 powers off")}

INIT = {
    "wait4": ("ALLOW", "waits for gate and launcher"),
    **dict.fromkeys(("getpid", "reboot"), ("ALLOW", "powers off when one of them ends")),
    **dict.fromkeys(("exit", "exit_group"), ("ALLOW", "the kernel then panics and restarts")),
}

DHCP = {
    "sendto": ("ALLOW|KILL", "to where the socket is connected"),
    **dict.fromkeys(("recvfrom", "write", "exit_group"), ("ALLOW", "takes an answer, hands it over, ends")),
}

_IO = "reads its request, writes its answer"
_FILES = "reads its own tree"
_MEMORY = "its own memory"
_THREADS = "threads of its own"
_SIGNALS = "its own signals"
_TIME = "reads clocks, sleeps"
_SELF = "asks who and where it is"
_WAITING = "waits for its own descriptors"

WORKLOAD = {
    **dict.fromkeys(("read", "readv", "pread64", "write", "writev", "recvfrom", "shutdown"), ("ALLOW", _IO)),
    "sendto": ("ALLOW|EPERM", "send(): without an address"),
    **dict.fromkeys(("getsockopt", "getsockname", "getpeername"), ("ALLOW", "asks about its socketpair")),
    **dict.fromkeys(("close", "close_range", "dup", "dup2", "dup3", "lseek"), ("ALLOW", _IO)),
    "fcntl": ("ALLOW|EPERM", "duplicates and close-on-exec; nothing that outlives the process"),
    **dict.fromkeys(
        ("poll", "ppoll", "select", "pselect6", "pipe", "pipe2", "eventfd2"), ("ALLOW", _WAITING)
    ),
    **dict.fromkeys(("epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait"), ("ALLOW", _WAITING)),
    **dict.fromkeys(("open", "openat"), ("ALLOW|EPERM", "for reading only")),
    **dict.fromkeys(
        ("stat", "fstat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2"),
        ("ALLOW", _FILES),
    ),
    **dict.fromkeys(
        ("readlink", "readlinkat", "getdents64", "getcwd", "chdir", "fadvise64"), ("ALLOW", _FILES)
    ),
    "ioctl": ("ALLOW|EPERM", "close-on-exec, bytes waiting, isatty"),
    **dict.fromkeys(
        ("mmap", "munmap", "mprotect", "mremap", "madvise", "brk", "mincore", "membarrier"),
        ("ALLOW", _MEMORY),
    ),
    "clone": ("ALLOW|EPERM", "threads, no process"),
    "clone3": ("ENOSYS", "so that the C library falls back to clone"),
    "futex": ("ALLOW|EPERM", "private ones, and waiting for the end of a thread"),
    **dict.fromkeys(("set_robust_list", "set_tid_address", "rseq", "sched_yield"), ("ALLOW", _THREADS)),
    **dict.fromkeys(
        ("sched_getaffinity", "sched_setaffinity", "sched_getparam", "sched_getscheduler"),
        ("ALLOW|EPERM", "its own"),
    ),
    **dict.fromkeys(("sched_get_priority_min", "sched_get_priority_max"), ("ALLOW", _THREADS)),
    **dict.fromkeys(("getpid", "getppid", "gettid", "uname", "getcpu", "umask"), ("ALLOW", _SELF)),
    **dict.fromkeys(("getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid"), ("ALLOW", _SELF)),
    **dict.fromkeys(("getgroups", "getrlimit", "getrusage", "times"), ("ALLOW", _SELF)),
    "prlimit64": ("ALLOW|EPERM", "reads limits, sets none"),
    **dict.fromkeys(("tgkill", "tkill"), ("ALLOW", "abort(); no other process has its uid")),
    **dict.fromkeys(("exit", "exit_group"), ("ALLOW", "ends")),
    **dict.fromkeys(
        ("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait"), ("ALLOW", _SIGNALS)
    ),
    **dict.fromkeys(("rt_sigpending", "sigaltstack", "restart_syscall", "pause"), ("ALLOW", _SIGNALS)),
    **dict.fromkeys(("nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres"), ("ALLOW", _TIME)),
    **dict.fromkeys(("gettimeofday", "time"), ("ALLOW", _TIME)),
    "getrandom": ("ALLOW", "randomness"),
    "prctl": ("ALLOW|EPERM", "names of threads and mappings"),
    "arch_prctl": ("ALLOW|EPERM", "thread pointers"),
    "execve": ("ALLOW|EPERM", "the one program, by a path that only the launcher can map"),
}

LAUNCHER = WORKLOAD | {
    "clone": ("ALLOW|EPERM", "a request's process, and its threads"),
    "wait4": ("ALLOW", "a request's process ended"),
    "kill": ("ALLOW|EPERM", "everything of a slot's user, with SIGKILL"),
    "socketpair": ("ALLOW|EPERM", "AF_UNIX: one for each request"),
    "sendmsg": ("ALLOW", "hands the gate its end; it has no other kind of socket"),
    **dict.fromkeys(
        ("chroot", "setgroups", "setresgid", "setresuid", "capset"), ("ALLOW", "a slot's rights")
    ),
    "prlimit64": ("ALLOW", "a slot's limits"),
    **dict.fromkeys(
        ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
        ("ALLOW", "a slot's files"),
    ),
    "seccomp": ("ALLOW|EPERM", "a slot's filter"),
}

GATE = {
    **dict.fromkeys(("read", "write", "close"), ("ALLOW", "connections, the TPM, the launcher")),
    "accept4": ("ALLOW|KILL", "from the listener"),
    "shutdown": ("ALLOW|KILL", "ends its half of a request's socketpair"),
    "recvmsg": ("ALLOW|KILL", "takes a request's socketpair from the launcher"),
    "fcntl": ("ALLOW|KILL", "makes what it was given non-blocking"),
    "mmap": ("ALLOW|KILL", "memory of its own, never executable"),
    **dict.fromkeys(("munmap", "madvise"), ("ALLOW", _MEMORY)),
    "clone": ("ALLOW|KILL", "threads as Go makes them"),
    "tgkill": ("ALLOW|KILL", "SIGURG: a goroutine's turn is over"),
    **dict.fromkeys(("epoll_pwait", "epoll_ctl", "futex", "sched_yield"), ("ALLOW", _WAITING)),
    **dict.fromkeys(("gettid", "getpid", "exit_group"), ("ALLOW", _SELF)),
    **dict.fromkeys(("rt_sigprocmask", "rt_sigreturn", "sigaltstack"), ("ALLOW", _SIGNALS)),
    **dict.fromkeys(("nanosleep", "restart_syscall", "clock_gettime"), ("ALLOW", _TIME)),
    "getrandom": ("ALLOW", "keys and nonces"),
}
