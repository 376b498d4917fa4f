//go:build probe

// This file is in no product image. It makes the gate try what its filter and init's must refuse, from the inside, and
// report what the kernel said. Beside it lies a filter of its own, whose answer to what it does not list is EPERM instead of
// death, so that one run can try everything.

package main

import (
	"bytes"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"
)

const probePath = "/.well-known/blindbuild/probe"

// probeRoute is set at start: a literal would make an initialisation cycle with the server's methods.
var probeRoute func(*server, *connection) answer

func init() { probeRoute = probe }

// noSpare is reported, as -1, in place of an errno when there is no second connection to try things on.
const noSpare = ^syscall.Errno(0)

type attempt struct {
	name string
	run  func() syscall.Errno
}

func call(number uintptr, arguments ...uintptr) func() syscall.Errno {
	var a [6]uintptr
	copy(a[:], arguments)
	return func() syscall.Errno {
		_, _, errno := syscall.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		return errno
	}
}

var (
	// 10.0.2.2 is QEMU's host, 192.0.2.1 is nobody (RFC 5737), 224.0.0.1 is everybody on the link.
	hostAddress      = []byte{2, 0, 0, 9, 10, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0}
	elsewhereAddress = []byte{2, 0, 1, 187, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0}
	multicastAddress = []byte{2, 0, 0, 9, 224, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}
	unspecified      = make([]byte, 16) // AF_UNSPEC
	anyAddress       = []byte{2, 0, 31, 144, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	one              = []byte{1, 0, 0, 0, 0, 0, 0, 0}
	packet           = []byte("probe")
	scratch          = make([]byte, 512)
)

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }

// kept holds what only a number points to, against the garbage collector.
var kept [][]byte

func path(name string) uintptr {
	kept = append(kept, append([]byte(name), 0))
	return address(kept[len(kept)-1])
}

// probe runs all attempts; those that could break a connection are made on another one than the asking client's.
func probe(s *server, own *connection) answer {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var body bytes.Buffer
	body.WriteString("[")
	separator := ""
	for _, a := range attempts(spareConnection(s.table, own)) {
		fmt.Fprintf(&body, `%s{"attempt":"%s","errno":%d}`, separator, a.name, int(a.run()))
		separator = ","
	}
	body.WriteString("]")
	return answer{status: "200 OK", contentType: jsonType, body: body.Bytes()}
}

// spareConnection returns the descriptor of any other connection, or -1.
func spareConnection(t *table, own *connection) int {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	spare := -1
	for c := range t.open {
		if raw, err := c.SyscallConn(); c != own && err == nil {
			_ = raw.Control(func(descriptor uintptr) { spare = int(descriptor) })
		}
	}
	return spare
}

func attempts(spare int) []attempt {
	list := socketAttempts()
	list = append(list, processAttempts()...)
	list = append(list, fileAttempts()...)
	list = append(list, connectionAttempts("listener", listenerDescriptor)...)
	onSpare := connectionAttempts("accepted", spare)
	if spare < 0 {
		for i := range onSpare {
			onSpare[i].run = func() syscall.Errno { return noSpare }
		}
	}
	return append(list, onSpare...)
}

func socketAttempts() []attempt {
	var list []attempt
	for family := range uintptr(46) {
		for _, kind := range []struct {
			name   string
			number uintptr
		}{{"stream", syscall.SOCK_STREAM}, {"datagram", syscall.SOCK_DGRAM}, {"raw", syscall.SOCK_RAW}} {
			list = append(list, attempt{fmt.Sprintf("socket family %d %s", family, kind.name), func() syscall.Errno {
				return freshSocket(family, kind.number)
			}})
		}
	}
	return append(list,
		attempt{"socketpair AF_INET", call(syscall.SYS_SOCKETPAIR, syscall.AF_INET, syscall.SOCK_STREAM, 0, address(scratch))},
		attempt{"socketpair AF_UNIX", call(syscall.SYS_SOCKETPAIR, syscall.AF_UNIX, syscall.SOCK_STREAM, 0, address(scratch))},
	)
}

// freshSocket makes a socket and, if there is one after all, uses it: the errno is then of the last thing that failed.
func freshSocket(family, kind uintptr) syscall.Errno {
	fd, _, errno := syscall.RawSyscall(syscall.SYS_SOCKET, family, kind|syscall.SOCK_NONBLOCK, 0)
	if errno != 0 {
		return errno
	}
	if family == syscall.AF_INET {
		_ = call(syscall.SYS_BIND, fd, address(anyAddress), 16)()
		_ = call(syscall.SYS_LISTEN, fd, 1)()
		_ = call(syscall.SYS_CONNECT, fd, address(hostAddress), 16)()
	}
	_ = syscall.Close(int(fd))
	return 0
}

// connectionAttempts are on a socket the gate rightly has; the last ones take it away from its peer if they may.
func connectionAttempts(name string, descriptor int) []attempt {
	fd := uintptr(descriptor)
	option := func(level, option uintptr) func() syscall.Errno {
		return call(syscall.SYS_SETSOCKOPT, fd, level, option, address(one), 4)
	}
	const messageFastOpen = 0x20000000
	text, size := address(packet), uintptr(len(packet))
	list := []attempt{
		{"sendto address", call(syscall.SYS_SENDTO, fd, text, size, 0, address(hostAddress), 16)},
		{"sendto multicast", call(syscall.SYS_SENDTO, fd, text, size, 0, address(multicastAddress), 16)},
		{"sendto fast open", call(syscall.SYS_SENDTO, fd, text, size, messageFastOpen, address(hostAddress), 16)},
		{"sendmsg fast open", call(syscall.SYS_SENDMSG, fd, address(scratch), messageFastOpen)},
		{"sendmmsg", call(307, fd, address(scratch), 1, 0)},
		{"setsockopt TCP_REPAIR", option(syscall.IPPROTO_TCP, 19)},
		{"setsockopt TCP_ULP", call(syscall.SYS_SETSOCKOPT, fd, syscall.IPPROTO_TCP, 31, path("tls"), 4)},
		{"setsockopt TCP_FASTOPEN", option(syscall.IPPROTO_TCP, 23)},
		{"setsockopt TCP_FASTOPEN_CONNECT", option(syscall.IPPROTO_TCP, 30)},
		{"setsockopt SO_BINDTODEVICE", call(syscall.SYS_SETSOCKOPT, fd, syscall.SOL_SOCKET, 25, path("eth0"), 5)},
		{"setsockopt SO_MARK", option(syscall.SOL_SOCKET, 36)},
		{"setsockopt IP_MULTICAST_IF", option(syscall.IPPROTO_IP, 32)},
		{"setsockopt IP_UNICAST_IF", option(syscall.IPPROTO_IP, 50)},
		{"setsockopt IP_OPTIONS", option(syscall.IPPROTO_IP, 4)},
		{"bind", call(syscall.SYS_BIND, fd, address(anyAddress), 16)},
	}
	if descriptor != listenerDescriptor { // refused or not, the machine's own listener stays as it is
		list = append(list,
			attempt{"connect AF_UNSPEC", call(syscall.SYS_CONNECT, fd, address(unspecified), 16)},
			attempt{"connect host", call(syscall.SYS_CONNECT, fd, address(hostAddress), 16)},
			attempt{"connect elsewhere", call(syscall.SYS_CONNECT, fd, address(elsewhereAddress), 16)},
		)
	}
	list = append(list, attempt{"listen", call(syscall.SYS_LISTEN, fd, 1)})
	for i := range list {
		list[i].name = name + ": " + list[i].name
	}
	return list
}

func processAttempts() []attempt {
	kept = append(kept, make([]byte, 128))
	attribute := kept[len(kept)-1] // of perf_event_open and bpf
	list := []attempt{
		{"ptrace", call(syscall.SYS_PTRACE, syscall.PTRACE_ATTACH, 1)},
		{"process_vm_readv", call(310, 1, address(scratch), 0, address(scratch), 0, 0)},
		{"process_vm_writev", call(311, 1, address(scratch), 0, address(scratch), 0, 0)},
		{"pidfd_open", call(434, 1, 0)},
		{"pidfd_getfd", call(438, 3, 0, 0)},
		{"kill init", call(syscall.SYS_KILL, 1, 0)},
		{"tgkill init", call(syscall.SYS_TGKILL, 1, 1, 0)},
		{"perf_event_open", call(298, address(attribute), 0, ^uintptr(0), ^uintptr(0), 0)},
		{"bpf", call(321, 0, address(attribute), 128)},
		{"userfaultfd", call(323, 0)},
		{"io_uring_setup", call(425, 1, address(attribute))},
		{"keyctl", call(250, 0, 0)},
		{"add_key", call(248, path("user"), path("probe"), address(scratch), 1, 0)},
		{"unshare", call(syscall.SYS_UNSHARE, syscall.CLONE_NEWUSER)},
		{"setns", call(308, 3, 0)},
		{"clone without threads", forkAttempt},
		{"clone3", call(435, address(scratch), 64)},
		{"personality", call(syscall.SYS_PERSONALITY, 0x0040000)},
		{"setuid 0", call(syscall.SYS_SETUID, 0)},
		{"prctl PR_SET_DUMPABLE", call(syscall.SYS_PRCTL, prSetDumpable, 1)},
		{"seccomp", call(sysSeccomp, seccompFilterMode, 0, address(scratch))},
		{"iopl", call(syscall.SYS_IOPL, 3)},
		{"reboot", call(syscall.SYS_REBOOT, 0, 0, 0)},
		{"syslog", call(syscall.SYS_SYSLOG, 10)},
		{"memfd_create", call(319, path("probe"), 0)},
		{"mmap executable", call(syscall.SYS_MMAP, 0, 4096, 5, syscall.MAP_ANON|syscall.MAP_PRIVATE, ^uintptr(0))},
		{"mprotect executable", call(syscall.SYS_MPROTECT, address(scratch)&^4095, 4096, 7)},
		{"ioctl on the TPM", call(syscall.SYS_IOCTL, tpmDescriptor, 0x5401, address(scratch))},
		{"clock_settime", call(syscall.SYS_CLOCK_SETTIME, 0, 0)},
		{"sethostname", call(syscall.SYS_SETHOSTNAME, 0, 5)},
	}
	if !leaky { // where it works, nobody would be left to report it
		list = append(list, attempt{"execve", call(syscall.SYS_EXECVE, path("/gate"), 0, 0)})
	}
	return list
}

// forkAttempt makes a child process that ends at once, if it may.
func forkAttempt() syscall.Errno {
	child, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && child == 0 {
		for {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	return errno
}

func fileAttempts() []attempt {
	var list []attempt
	for _, name := range []string{
		"/", "/gate", "/gate.json", "/dev/tpmrm0", "/dev/tpm0", "/dev/kmsg", "/dev/mem", "/dev/console", "/dev/null",
		"/proc/self/mem", "/proc/1/root", "/proc/kcore", "/sys/kernel/security", "/etc/passwd", "../../../init",
	} {
		list = append(list, attempt{"open " + name, call(syscall.SYS_OPENAT, uintptr(0xffffff9c), path(name), 0)})
	}
	return append(list,
		attempt{"open for writing", call(syscall.SYS_OPENAT, uintptr(0xffffff9c), path("/probe"), syscall.O_CREAT|syscall.O_RDWR, 0o600)},
		attempt{"mkdir", call(syscall.SYS_MKDIR, path("/probe"), 0o700)},
		attempt{"mknod", call(syscall.SYS_MKNOD, path("/probe"), syscall.S_IFCHR|0o600, 0x101)},
		attempt{"mount", call(syscall.SYS_MOUNT, path("none"), path("/gate"), path("proc"), 0, 0)},
		attempt{"umount", call(syscall.SYS_UMOUNT2, path("/gate"), 0)},
		attempt{"chroot", call(syscall.SYS_CHROOT, path("/"))},
		attempt{"pivot_root", call(syscall.SYS_PIVOT_ROOT, path("/"), path("/"))},
		attempt{"open_by_handle_at", call(304, 3, address(scratch), 0)},
	)
}
