package main

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// The descriptors init hands over (docs/spec/guest-abi.md, "Descriptors").
const (
	listenerDescriptor = 3
	tpmDescriptor      = 4
	eventLogDescriptor = 5
	launcherDescriptor = 6
)

const (
	maxEventLogBytes  = 2 << 20 // its base64 fits into an answer of 4 MiB; real logs have 20 to 60 KB
	unackedLimit      = 30 * time.Second
	sysTCPUserTimeout = 18 // linux/tcp.h; not in package syscall
	acceptPause       = 20 * time.Millisecond
)

var errDescriptor = errors.New("a descriptor is not what docs/spec/guest-abi.md says")

// openPollable makes a descriptor non-blocking, so that the runtime's poller watches it and deadlines work.
func openPollable(descriptor int, name string) (*os.File, error) {
	if err := syscall.SetNonblock(descriptor, true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(descriptor), name), nil
}

// openListener prepares the inherited listening socket. Accepted sockets inherit these options from it, so that the gate
// never sets one later: no Nagle delay, and no endless retransmission of an answer to a client that is gone.
func openListener(descriptor int) (*os.File, error) {
	options := map[int]int{
		syscall.TCP_NODELAY: 1,
		sysTCPUserTimeout:   int(unackedLimit.Milliseconds()),
	}
	for option, setting := range options {
		if err := syscall.SetsockoptInt(descriptor, syscall.IPPROTO_TCP, option, setting); err != nil {
			return nil, err
		}
	}
	return openPollable(descriptor, "listener")
}

// accept waits for the next connection. Errors that belong to one connection or pass by themselves are not reported.
func accept(listener *os.File) (*connection, error) {
	raw, err := listener.SyscallConn()
	if err != nil {
		return nil, err
	}
	for {
		var accepted int
		var failure error
		err := raw.Read(func(descriptor uintptr) bool {
			accepted, failure = acceptOnce(int(descriptor))
			return failure != syscall.EAGAIN
		})
		switch {
		case err != nil:
			return nil, err
		case failure == nil:
			return &connection{file: os.NewFile(uintptr(accepted), "connection")}, nil
		case failure == syscall.EBADF || failure == syscall.EINVAL || failure == syscall.ENOTSOCK:
			return nil, failure
		case failure == syscall.EMFILE || failure == syscall.ENFILE || failure == syscall.ENOBUFS ||
			failure == syscall.ENOMEM:
			time.Sleep(acceptPause)
		}
	}
}

// acceptOnce asks for no peer address: the gate knows nobody's.
func acceptOnce(listener int) (int, error) {
	const flags = syscall.SOCK_NONBLOCK | syscall.SOCK_CLOEXEC
	fd, _, errno := syscall.Syscall6(syscall.SYS_ACCEPT4, uintptr(listener), 0, 0, flags, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// readEventLog reads the sealed memfd that init filled, and closes it.
func readEventLog(descriptor int) ([]byte, error) {
	file := os.NewFile(uintptr(descriptor), "event log")
	if file == nil {
		return nil, errDescriptor
	}
	defer file.Close()
	log, err := io.ReadAll(io.NewSectionReader(file, 0, maxEventLogBytes+1))
	if err == nil && len(log) > maxEventLogBytes {
		err = errDescriptor
	}
	return log, err
}
