package main

import (
	"errors"
	"runtime"
	"syscall"
	"unsafe"
)

// Constants of linux/seccomp.h, linux/audit.h, linux/prctl.h and linux/filter.h.
const (
	sysSeccomp        = 317
	sysGetrandom      = 318
	seccompFilterMode = 1 // SECCOMP_SET_MODE_FILTER
	seccompAllThreads = 1 // SECCOMP_FILTER_FLAG_TSYNC
	retAllow          = 0x7fff0000
	retKillProcess    = 0x80000000
	retErrno          = 0x00050000
	auditArchX8664    = 0xc000003e
	x32Bit            = 0x40000000
	prSetDumpable     = 4
	prSetNoNewPrivs   = 38

	offsetNumber    = 0 // of struct seccomp_data
	offsetArch      = 4
	offsetArguments = 16

	opLoad        = 0x20 // BPF_LD | BPF_W | BPF_ABS
	opAnd         = 0x54 // BPF_ALU | BPF_AND | BPF_K
	opJumpEqual   = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	opJumpAtLeast = 0x35 // BPF_JMP | BPF_JGE | BPF_K
	opReturn      = 0x06 // BPF_RET | BPF_K
)

// goThreadFlags is what the Go runtime gives clone for a thread: CLONE_VM, FS, FILES, SIGHAND, SYSVSEM, THREAD, SETTLS.
const goThreadFlags = 0x000d0f00

var errFilter = errors.New("the system call filter could not be installed")

// check narrows a system call: the low half of an argument, masked, must be one of the values. The kernel looks at no
// more than the low half of any argument checked below.
type check struct {
	argument uint32
	mask     uint32
	values   []uint32
}

// rule allows one system call if all its checks hold.
type rule struct {
	number uint32
	checks []check
}

func only(argument uint32, values ...uint32) check { return check{argument, 0xffffffff, values} }

// allowed lists all that the gate calls once it serves: what the Go runtime 1.24 needs for its threads, timers and memory,
// and reading, writing, accepting and closing. There is no call in it that makes, binds or connects a socket, sends to an
// address, opens a file, starts a program, or maps a file or executable memory.
func allowed(pid uint32) []rule {
	const signalPreempt = uint32(syscall.SIGURG)
	return []rule{
		{syscall.SYS_FUTEX, nil},
		{syscall.SYS_READ, nil},
		{syscall.SYS_WRITE, nil},
		{syscall.SYS_EPOLL_PWAIT, nil},
		{syscall.SYS_EPOLL_CTL, nil},
		{syscall.SYS_NANOSLEEP, nil},
		{syscall.SYS_RESTART_SYSCALL, nil}, // a nanosleep that the hypervisor's stop broke off
		{syscall.SYS_CLOCK_GETTIME, nil},   // where the time stamp counter is unstable the vDSO calls it
		{syscall.SYS_SCHED_YIELD, nil},
		{syscall.SYS_ACCEPT4, []check{only(0, listenerDescriptor)}},
		{syscall.SYS_CLOSE, nil},
		{syscall.SYS_SHUTDOWN, []check{only(1, syscall.SHUT_WR)}},
		{syscall.SYS_RECVMSG, []check{only(0, launcherDescriptor)}},
		{syscall.SYS_FCNTL, []check{only(1, syscall.F_GETFL, syscall.F_SETFL)}},
		{sysGetrandom, nil},
		{syscall.SYS_MMAP, []check{{2, syscall.PROT_EXEC, []uint32{0}}, {3, syscall.MAP_ANON, []uint32{syscall.MAP_ANON}}}},
		{syscall.SYS_MUNMAP, nil},
		{syscall.SYS_MADVISE, nil},
		{syscall.SYS_CLONE, []check{only(0, goThreadFlags)}},
		{syscall.SYS_GETTID, nil},
		{syscall.SYS_GETPID, nil},
		{syscall.SYS_TGKILL, []check{only(0, pid), only(2, signalPreempt)}},
		{syscall.SYS_RT_SIGPROCMASK, nil},
		{syscall.SYS_RT_SIGRETURN, nil},
		{syscall.SYS_SIGALTSTACK, nil},
		{syscall.SYS_EXIT_GROUP, nil},
	}
}

// assemble turns the rules into a BPF program for seccomp: wrong architecture and x32 kill, what a rule allows goes on,
// all else gets the default action.
func assemble(rules []rule, defaultAction uint32) []syscall.SockFilter {
	program := []syscall.SockFilter{
		{Code: opLoad, K: offsetArch},
		{Code: opJumpEqual, Jt: 1, K: auditArchX8664},
		{Code: opReturn, K: retKillProcess},
		{Code: opLoad, K: offsetNumber},
		{Code: opJumpAtLeast, Jf: 1, K: x32Bit},
		{Code: opReturn, K: retKillProcess},
	}
	for _, r := range rules {
		body := assembleChecks(r.checks, defaultAction)
		program = append(program, syscall.SockFilter{Code: opJumpEqual, Jf: uint8(len(body)), K: r.number})
		program = append(program, body...)
	}
	return append(program, syscall.SockFilter{Code: opReturn, K: defaultAction})
}

// assembleChecks writes what follows once the number fits; every path through it returns.
func assembleChecks(checks []check, defaultAction uint32) []syscall.SockFilter {
	var body []syscall.SockFilter
	for _, c := range checks {
		body = append(body,
			syscall.SockFilter{Code: opLoad, K: offsetArguments + 8*c.argument},
			syscall.SockFilter{Code: opAnd, K: c.mask})
		for i, v := range c.values {
			body = append(body, syscall.SockFilter{Code: opJumpEqual, Jt: uint8(len(c.values) - i), K: v})
		}
		body = append(body, syscall.SockFilter{Code: opReturn, K: defaultAction})
	}
	return append(body, syscall.SockFilter{Code: opReturn, K: retAllow})
}

// confine installs the filter for all threads there are and will be. init has set no_new_privs and a filter before;
// setting it again costs nothing and makes the gate safe by itself.
func confine() error {
	program := assemble(allowed(uint32(syscall.Getpid())), defaultAction)
	description := syscall.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for option, argument := range map[uintptr]uintptr{prSetNoNewPrivs: 1, prSetDumpable: 0} {
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, option, argument, 0, 0, 0, 0); errno != 0 {
			return errFilter
		}
	}
	// A positive result is the thread that could not be synchronised.
	result, _, errno := syscall.RawSyscall(sysSeccomp, seccompFilterMode, seccompAllThreads,
		uintptr(unsafe.Pointer(&description)))
	if errno != 0 || result != 0 {
		return errFilter
	}
	return nil
}
