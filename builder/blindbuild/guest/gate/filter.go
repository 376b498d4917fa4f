package main

import (
	"errors"
	"runtime"
	"syscall"
	"unsafe"
)

// Constants of linux/seccomp.h, linux/audit.h, linux/prctl.h and linux/filter.h.
const (
	sysSeccomp, sysGetrandom = 317, 318

	seccompFilterMode = 1 // SECCOMP_SET_MODE_FILTER
	seccompAllThreads = 1 // SECCOMP_FILTER_FLAG_TSYNC
	retAllow          = 0x7fff0000
	retKillProcess    = 0x80000000
	auditArchX8664    = 0xc000003e
	x32Bit            = 0x40000000
	prSetDumpable     = 4
	prSetNoNewPrivs   = 38

	offsetNumber, offsetArch, offsetArguments = 0, 4, 16 // of struct seccomp_data

	opLoad        = 0x20 // BPF_LD | BPF_W | BPF_ABS
	opAnd         = 0x54 // BPF_ALU | BPF_AND | BPF_K
	opJumpEqual   = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	opJumpAtLeast = 0x35 // BPF_JMP | BPF_JGE | BPF_K
	opReturn      = 0x06 // BPF_RET | BPF_K
)

// goThreadFlags is what the Go runtime gives clone for a thread: CLONE_VM, FS, FILES, SIGHAND, SYSVSEM, THREAD, SETTLS.
const goThreadFlags = 0x000d0f00

var errFilter = errors.New("the system call filter could not be installed")

// check narrows a system call: the low half of an argument (the kernel looks at no more), masked, is one of the values.
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
	rules := []rule{
		{syscall.SYS_ACCEPT4, []check{only(0, listenerDescriptor)}},
		{syscall.SYS_SHUTDOWN, []check{only(1, syscall.SHUT_WR)}},
		{syscall.SYS_RECVMSG, []check{only(0, launcherDescriptor)}},
		{syscall.SYS_FCNTL, []check{only(1, syscall.F_GETFL, syscall.F_SETFL)}},
		{syscall.SYS_MMAP, []check{{2, syscall.PROT_EXEC, []uint32{0}}, {3, syscall.MAP_ANON, []uint32{syscall.MAP_ANON}}}},
		{syscall.SYS_CLONE, []check{only(0, goThreadFlags)}},
		{syscall.SYS_TGKILL, []check{only(0, pid), only(2, uint32(syscall.SIGURG))}}, // a goroutine's turn is over
	}
	for _, number := range []uint32{
		syscall.SYS_READ, syscall.SYS_WRITE, syscall.SYS_CLOSE, syscall.SYS_EPOLL_PWAIT, syscall.SYS_EPOLL_CTL,
		syscall.SYS_FUTEX, syscall.SYS_SCHED_YIELD, syscall.SYS_GETTID, syscall.SYS_GETPID, syscall.SYS_EXIT_GROUP,
		syscall.SYS_RT_SIGPROCMASK, syscall.SYS_RT_SIGRETURN, syscall.SYS_SIGALTSTACK,
		syscall.SYS_MUNMAP, syscall.SYS_MADVISE, sysGetrandom,
		syscall.SYS_NANOSLEEP, syscall.SYS_RESTART_SYSCALL, // the second after the hypervisor stopped the machine
		syscall.SYS_CLOCK_GETTIME, // where the time stamp counter is unstable the vDSO calls it
	} {
		rules = append(rules, rule{number: number})
	}
	return rules
}

// assemble writes the BPF program: wrong architecture and x32 kill, and what no rule allows gets the default action.
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

// confine installs the filter for all threads there are and will be. It needs nothing that init has done before.
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
