package main

import (
	"encoding/binary"
	"syscall"
	"testing"
)

// seccompData is struct seccomp_data of linux/seccomp.h.
type seccompData struct {
	number, arch uint32
	arguments    [6]uint64
}

// evaluate runs a classic BPF program over the data, as the kernel does: a second implementation, for tests only.
func evaluate(t *testing.T, program []syscall.SockFilter, data seccompData) uint32 {
	t.Helper()
	memory := make([]byte, 64)
	binary.LittleEndian.PutUint32(memory, data.number)
	binary.LittleEndian.PutUint32(memory[4:], data.arch)
	for i, argument := range data.arguments {
		binary.LittleEndian.PutUint64(memory[16+8*i:], argument)
	}
	var accumulator uint32
	for at := 0; at < len(program); at++ {
		instruction := program[at]
		jump := func(holds bool) {
			if holds {
				at += int(instruction.Jt)
			} else {
				at += int(instruction.Jf)
			}
		}
		switch instruction.Code {
		case 0x20:
			accumulator = binary.LittleEndian.Uint32(memory[instruction.K:])
		case 0x54:
			accumulator &= instruction.K
		case 0x15:
			jump(accumulator == instruction.K)
		case 0x35:
			jump(accumulator >= instruction.K)
		case 0x06:
			return instruction.K
		default:
			t.Fatalf("instruction %d: unknown code %#x", at, instruction.Code)
		}
	}
	t.Fatal("the program ran past its end")
	return 0
}

const testPid = 4321

// rightArguments are arguments with which a narrowed call is allowed.
var rightArguments = map[uint32][6]uint64{
	syscall.SYS_ACCEPT4:  {3},
	syscall.SYS_SHUTDOWN: {77, 1},
	syscall.SYS_RECVMSG:  {6},
	syscall.SYS_FCNTL:    {9, 3},
	syscall.SYS_MMAP:     {0, 4096, 3, 0x22},
	syscall.SYS_CLONE:    {0xd0f00},
	syscall.SYS_TGKILL:   {testPid, 1, 23},
}

func TestExactlyTheListedCallsAreAllowed(t *testing.T) {
	listed := map[uint32]bool{
		0: true, 1: true, 3: true, 9: true, 11: true, 14: true, 15: true, 24: true, 28: true, 35: true, 39: true, 47: true,
		48: true, 56: true, 72: true, 131: true, 186: true, 202: true, 219: true, 228: true, 231: true, 233: true, 234: true,
		281: true, 288: true, 318: true,
	}
	program := assemble(allowed(testPid), retKillProcess)
	for number := range uint32(1024) {
		want := uint32(retKillProcess)
		if listed[number] {
			want = retAllow
		}
		data := seccompData{number, auditArchX8664, rightArguments[number]}
		if got := evaluate(t, program, data); got != want {
			t.Errorf("call %d: expected %#x, got %#x", number, want, got)
		}
	}
}

func TestOtherArchitecturesAndX32AreKilled(t *testing.T) {
	program := assemble(allowed(testPid), retAllow)
	for _, data := range []seccompData{
		{number: syscall.SYS_READ, arch: 0x40000003}, {number: syscall.SYS_READ, arch: 0xc00000b7}, {number: syscall.SYS_READ},
		{number: 0x40000000, arch: auditArchX8664}, {number: 0x40000001, arch: auditArchX8664},
		{number: 0xffffffff, arch: auditArchX8664},
	} {
		if got := evaluate(t, program, data); got != retKillProcess {
			t.Errorf("%+v: got %#x", data, got)
		}
	}
}

func TestNarrowedCallsAreRefusedWithOtherArguments(t *testing.T) {
	program := assemble(allowed(testPid), retKillProcess)
	for _, data := range []seccompData{
		{number: syscall.SYS_ACCEPT4, arguments: [6]uint64{4}},
		{number: syscall.SYS_SHUTDOWN, arguments: [6]uint64{3, 0}},
		{number: syscall.SYS_SHUTDOWN, arguments: [6]uint64{3, 2}},
		{number: syscall.SYS_RECVMSG, arguments: [6]uint64{7}},
		{number: syscall.SYS_FCNTL, arguments: [6]uint64{9, syscall.F_DUPFD}},
		{number: syscall.SYS_FCNTL, arguments: [6]uint64{9, syscall.F_SETOWN}},
		{number: syscall.SYS_MMAP, arguments: [6]uint64{0, 4096, 5, 0x22}},
		{number: syscall.SYS_MMAP, arguments: [6]uint64{0, 4096, 4, 0x22}},
		{number: syscall.SYS_MMAP, arguments: [6]uint64{0, 4096, 1, 0x02}},
		{number: syscall.SYS_CLONE, arguments: [6]uint64{17}},
		{number: syscall.SYS_CLONE, arguments: [6]uint64{0xd0f00 | syscall.CLONE_NEWUSER}},
		{number: syscall.SYS_TGKILL, arguments: [6]uint64{1, 1, 23}},
		{number: syscall.SYS_TGKILL, arguments: [6]uint64{testPid, testPid, 9}},
	} {
		data.arch = auditArchX8664
		if got := evaluate(t, program, data); got != retKillProcess {
			t.Errorf("%+v: got %#x", data, got)
		}
	}
}

func TestTheProgramIsShortEnoughForItsJumpsAndTheKernel(t *testing.T) {
	program := assemble(allowed(testPid), retKillProcess)
	if len(program) > 4096 { // BPF_MAXINSNS
		t.Error(len(program))
	}
	for at, instruction := range program {
		if at+1+int(max(instruction.Jt, instruction.Jf)) > len(program)-1 && instruction.Code != opReturn {
			t.Errorf("instruction %d jumps out of the program", at)
		}
	}
}
