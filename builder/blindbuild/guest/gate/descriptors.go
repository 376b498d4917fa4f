package main

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// The descriptors init hands over (docs/spec/guest-abi.md, "Descriptors").
const (
	listenerDescriptor = 3
	tpmDescriptor      = 4
	eventLogDescriptor = 5
	launcherDescriptor = 6

	maxEventLogBytes  = 2 << 20 // its base64 fits into an answer of 4 MiB; real logs have 20 to 60 KB
	unackedLimit      = 30 * time.Second
	sysTCPUserTimeout = 18 // linux/tcp.h; not in package syscall
	acceptPause       = 20 * time.Millisecond
)

// openPollable makes a descriptor non-blocking, so that the runtime's poller watches it and deadlines work.
func openPollable(descriptor int, name string) (*os.File, error) {
	if err := syscall.SetNonblock(descriptor, true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(descriptor), name), nil
}

// openListener prepares the inherited listening socket. Accepted sockets inherit these options from it, so that the gate
// never sets one later: no Nagle delay, and no endless retransmission of an answer to a client that is gone.
func openListener(descriptor int) (syscall.RawConn, error) {
	err := errors.Join(
		syscall.SetsockoptInt(descriptor, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1),
		syscall.SetsockoptInt(descriptor, syscall.IPPROTO_TCP, sysTCPUserTimeout, int(unackedLimit.Milliseconds())),
	)
	file, pollable := openPollable(descriptor, "listener")
	if err = errors.Join(err, pollable); err != nil {
		return nil, err
	}
	return file.SyscallConn()
}

// accept waits for the next connection.
func accept(listener syscall.RawConn) (*connection, error) {
	const flags = syscall.SOCK_NONBLOCK | syscall.SOCK_CLOEXEC
	for {
		var accepted uintptr
		var errno syscall.Errno
		var peer syscall.RawSockaddrInet4
		size := uint32(syscall.SizeofSockaddrInet4)
		err := listener.Read(func(fd uintptr) bool {
			accepted, _, errno = syscall.Syscall6(syscall.SYS_ACCEPT4, fd,
				uintptr(unsafe.Pointer(&peer)), uintptr(unsafe.Pointer(&size)), flags, 0, 0)
			return errno != syscall.EAGAIN
		})
		if err != nil {
			return nil, err
		}
		if errno == 0 {
			return &connection{File: os.NewFile(accepted, "connection"), address: peer.Addr}, nil
		}
		time.Sleep(acceptPause) // a connection gone again, or a shortage that passes
	}
}

// readEventLog reads the sealed memfd that init filled. A log over the limit is cut, and then replays for nobody.
func readEventLog(descriptor int) ([]byte, error) {
	file := os.NewFile(uintptr(descriptor), "event log")
	defer file.Close()
	return io.ReadAll(io.NewSectionReader(file, 0, maxEventLogBytes))
}
