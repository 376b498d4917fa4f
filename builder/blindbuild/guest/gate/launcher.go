package main

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	launcherPatience = 10 * time.Second // it forks and answers
	slotPatience     = 10 * time.Second // few wait here: whoever does has a place in line (line.go)
	killGrace        = 2 * time.Second  // the launcher kills at `seconds`; the gate's own limit comes after it
	reapPause        = 20 * time.Millisecond
	reapTries        = 50 // a process that has answered may still be there for the launcher
)

var (
	errSlots    = errors.New("all slots are busy")
	errWorkload = errors.New("the workload did not answer as it should")
	errLauncher = errors.New("the launcher broke the protocol")
)

// launcher is the gate's end of descriptor 6 (docs/spec/guest-abi.md, "Gate and launcher").
type launcher struct {
	mutex       sync.Mutex // one question at a time, so that the answers match in order
	socket      *os.File
	slots       chan struct{}
	limit       time.Duration // of one request
	maxResponse int
}

func openLauncher(descriptor int, c config) (*launcher, error) {
	socket, err := openPollable(descriptor, "launcher")
	limit := time.Duration(c.seconds)*time.Second + killGrace
	return &launcher{socket: socket, slots: make(chan struct{}, c.concurrency), limit: limit, maxResponse: c.maxResponseBytes}, err
}

// run has one process of the workload answer the request. After errLauncher the gate must not go on.
func (l *launcher) run(request []byte) ([]byte, error) {
	wait := time.NewTimer(slotPatience)
	defer wait.Stop()
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-wait.C:
		return nil, errSlots
	}
	stream, err := l.start()
	for tries := 1; err == errSlots && tries < reapTries; tries++ {
		time.Sleep(reapPause)
		stream, err = l.start()
	}
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	_ = stream.SetDeadline(time.Now().Add(l.limit))
	return exchange(stream, request, l.maxResponse)
}

// start asks for a process and returns the gate's end of its socketpair.
func (l *launcher) start() (*os.File, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	_ = l.socket.SetDeadline(time.Now().Add(launcherPatience))
	if _, err := l.socket.Write([]byte{'R'}); err != nil {
		return nil, errLauncher
	}
	message, rights, err := receive(l.socket)
	switch {
	case err == nil && message == 'S' && len(rights) == 1:
		return openPollable(rights[0], "workload")
	case err == nil && message == 'B' && len(rights) == 0:
		return nil, errSlots
	}
	return nil, errLauncher
}

// receive takes one message of one byte with the descriptors sent along.
func receive(socket *os.File) (byte, []int, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	text, control := make([]byte, 2), make([]byte, syscall.CmsgSpace(4*4))
	var n, controlled, flags int
	var failure error
	err = raw.Read(func(fd uintptr) bool {
		n, controlled, flags, _, failure = syscall.Recvmsg(int(fd), text, control, syscall.MSG_CMSG_CLOEXEC)
		return failure != syscall.EAGAIN && failure != syscall.EINTR
	})
	if err != nil || failure != nil || n != 1 || flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0 {
		return 0, nil, errLauncher
	}
	messages, err := syscall.ParseSocketControlMessage(control[:controlled])
	if err != nil || len(messages) == 0 {
		return text[0], nil, err
	}
	rights, err := syscall.ParseUnixRights(&messages[0])
	return text[0], rights, err
}

// exchange sends the request and reads the one answer (docs/spec/guest-abi.md, "Gate and workload").
func exchange(stream *os.File, request []byte, maxResponse int) ([]byte, error) {
	sent := make(chan struct{})
	defer func() { <-sent }() // the request's buffer is wiped by the caller: nobody may read it any more
	go func() {
		defer close(sent)
		// An error here is no verdict: a workload may answer before it has read everything.
		if _, err := stream.Write(binary.BigEndian.AppendUint32(nil, uint32(len(request)))); err == nil {
			_, _ = stream.Write(request)
		}
		_ = shutdownWrite(stream)
	}()
	answer, err := readAnswer(stream, maxResponse)
	_ = stream.SetDeadline(time.Now()) // ends the sending as well
	return answer, err
}

func readAnswer(stream io.Reader, maxResponse int) ([]byte, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(stream, prefix[:]); err != nil {
		return nil, errWorkload
	}
	length := binary.BigEndian.Uint32(prefix[:])
	if uint64(length) > uint64(maxResponse) {
		return nil, errWorkload
	}
	answer := make([]byte, length)
	_, err := io.ReadFull(stream, answer)
	if err == nil {
		n, end := stream.Read(make([]byte, 1))
		// ECONNRESET is end of file too: the process is gone and had not read all of the request.
		if n == 0 && (end == io.EOF || errors.Is(end, syscall.ECONNRESET)) {
			return answer, nil
		}
	}
	clear(answer)
	return nil, errWorkload
}
