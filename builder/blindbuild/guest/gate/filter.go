package main

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// Constants of linux/seccomp.h, linux/prctl.h and linux/filter.h.
const (
	sysSeccomp = 317

	seccompFilterMode = 1 // SECCOMP_SET_MODE_FILTER
	seccompAllThreads = 1 // SECCOMP_FILTER_FLAG_TSYNC
	prSetDumpable     = 4
	prSetNoNewPrivs   = 38

	instructionBytes = 8    // struct sock_filter
	maxInstructions  = 4096 // BPF_MAXINSNS
)

var errFilter = errors.New("the system call filter could not be installed")

// readFilter reads the program. It is a file of the image, so that anybody can execute it; the kernel checks the rest: one
// that could run past its end is refused.
func readFilter() ([]syscall.SockFilter, error) {
	data, err := os.ReadFile(filterPath)
	count := len(data) / instructionBytes
	if err != nil || len(data)%instructionBytes != 0 || count == 0 || count > maxInstructions {
		return nil, errFilter
	}
	program := make([]syscall.SockFilter, count)
	for i := range program {
		field := data[instructionBytes*i:]
		program[i] = syscall.SockFilter{
			Code: binary.LittleEndian.Uint16(field), Jt: field[2], Jf: field[3], K: binary.LittleEndian.Uint32(field[4:]),
		}
	}
	return program, nil
}

// confine installs the filter for all threads there are and will be. It needs nothing that init has done before.
func confine() error {
	program, err := readFilter()
	if err != nil {
		return err
	}
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
